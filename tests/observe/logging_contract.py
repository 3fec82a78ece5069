"""What every `MetricsLogger` must do, whoever reads it back: shared by the real ones and the stand-ins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from multiserverrl.observe.loggers import MetricsLogger

Read = dict[str, list[tuple[int, float]]]
SETTINGS = {"env_id": "CartPole-v1", "seed": 3, "gamma": 0.99, "tls": False}


def keeps_every_number_by_tag_and_env_steps(logger: MetricsLogger, read: Callable[[], Read]) -> None:
    logger.begin(SETTINGS)
    logger.write({"train/loss": 0.5, "train/episodes": 3}, 10)
    logger.write({"eval/mean": 21.5}, 7)  # of weights that were published before
    logger.write({"train/loss": math.nan, "train/episodes": 4}, 20)
    logger.close()
    logger.close()
    found: Read = defaultdict(list)
    for tag, points in read().items():
        found[tag] = [(step, value) for step, value in points if math.isfinite(value)]
    assert found["train/loss"] == [(10, 0.5)]
    assert found["train/episodes"] == [(10, 3.0), (20, 4.0)]
    assert found["eval/mean"] == [(7, 21.5)]


def says_nothing_of_a_run_without_numbers(logger: MetricsLogger) -> None:
    logger.begin(SETTINGS)
    logger.close()
