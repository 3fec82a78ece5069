"""Weights & Biases and trackio as loggers. They are slow to import and to begin with: only observe/aside calls them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from multiserverrl.observe.loggers import MetricsLogger, RunName

__all__ = ["TRACKERS", "Trackio", "Wandb"]

PROJECT = "multiserverrl"


class Wandb:
    """https://wandb.ai; what it asks of the environment (WANDB_MODE=offline, WANDB_PROJECT, …) stands in its docs."""

    name = "wandb"

    def __init__(self, run: RunName) -> None:
        self._named = run
        self._run: Any = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """See `MetricsLogger`."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._named.name,
            id=self._named.id,
            resume="allow",
            dir=self._named.directory,
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """See `MetricsLogger`. W&B's own step only grows, and a resumed run goes back: env steps are the axis."""
        self._run.log({**numbers, "env_steps": env_steps})

    def close(self) -> None:
        """See `MetricsLogger`."""
        if self._run is not None:
            self._run.finish()
            self._run = None


class Trackio:
    """https://github.com/gradio-app/trackio: a local database; `trackio show` shows it."""

    name = "trackio"

    def __init__(self, run: RunName) -> None:
        self._named = run
        self._run: Any = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """See `MetricsLogger`."""
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{self._named.name}-{self._named.id}",  # its name is what trackio knows a run by
            config=dict(settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """See `MetricsLogger`."""
        self._run.log(dict(numbers), step=env_steps)

    def close(self) -> None:
        """See `MetricsLogger`."""
        if self._run is not None:
            self._run.finish()
            self._run = None


TRACKERS: dict[str, Callable[[RunName], MetricsLogger]] = {"wandb": Wandb, "trackio": Trackio}
