"""The algorithms, one page each, and the protocol that they keep. Importing this room imports no torch."""

from collections.abc import Callable

from multiserverrl.train.algorithms.dqn import DQN
from multiserverrl.train.algorithms.pqn import PQN
from multiserverrl.train.algorithms.protocol import Algorithm
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["algorithm_for"]


def algorithm_for(config: TrainConfig, task: Task) -> Algorithm:
    """The algorithm that `config` names."""
    kinds: dict[str, Callable[[TrainConfig, Task], Algorithm]] = {"dqn": DQN, "rainbow": DQN, "pqn": PQN}
    return kinds[config.algorithm](config, task)
