"""The algorithms, one page each, and the protocol that they keep. Importing this room imports no torch."""

from collections.abc import Callable

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.checks import require_algorithm
from multiserverrl.train.algorithms.dqn import DQN
from multiserverrl.train.algorithms.pqn import PQN
from multiserverrl.train.algorithms.protocol import Algorithm
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.plugins import load_plugin
from multiserverrl.train.task import Task

__all__ = ["algorithm_for"]


def algorithm_for(config: TrainConfig, task: Task) -> Algorithm:
    """The algorithm that `config` names: one of these pages, or a plug-in."""
    built_in: dict[str, Callable[[TrainConfig, Task], Algorithm]] = {"dqn": DQN, "rainbow": DQN, "pqn": PQN}
    if config.algorithm in built_in:
        return built_in[config.algorithm](config, task)
    make, who = load_plugin(config.algorithm)
    try:
        algorithm: Algorithm = make(config, task)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{who} cannot be made: {type(error).__name__}: {error}") from error
    require_algorithm(algorithm, who)
    return algorithm
