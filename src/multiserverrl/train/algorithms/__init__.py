"""The algorithms, one page each, and the protocol that they keep. Importing this room imports no torch."""

from multiserverrl.train.algorithms.dqn import DQN
from multiserverrl.train.algorithms.protocol import Algorithm
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["algorithm_for"]


def algorithm_for(config: TrainConfig, task: Task) -> Algorithm:
    """The algorithm that `config` names."""
    return {"dqn": DQN, "rainbow": DQN}[config.algorithm](config, task)
