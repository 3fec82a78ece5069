"""Every setting of a training run. What cannot work is refused here, before anything starts, naming the flag."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import msgspec

from multiserverrl.errors import ConfigError
from multiserverrl.settings import flag_name, setting

__all__ = ["TrainConfig", "config_from_json", "config_to_json"]

ALGORITHMS = ("dqn",)
BACKENDS = ("numpy", "torch")


@dataclass(frozen=True)
class TrainConfig:
    """Defaults solve CartPole-v1 in about 16 000 steps of 64 envs (measured, seeds 0-4)."""

    seed: int = setting(0, "seed of envs, networks, exploration and sampling")
    episodes: int | None = setting(None, "episodes for each virtual env, then the run ends; none: no limit")
    stop_at_return: float | None = setting(
        None, "stop when the greedy mean return reaches this; none: the env's reward threshold"
    )
    explorers: int = setting(1, "explorer processes [exploration workers]")

    algorithm: str = setting("dqn", "how to learn: dqn (n-step double DQN)")
    backend: str = setting("numpy", "what the learner computes with: numpy, or torch (slower for small networks)")
    n_step: int = setting(8, "rewards summed before the value of the state they led to", unit="steps")
    hidden: str = setting("128,128", "sizes of the network's hidden layers")
    gamma: float = setting(0.99, "discount per step")
    reward_scale: float = setting(0.05, "rewards are multiplied by this before they are learned from")
    learning_rate: float = setting(2e-3, "Adam's learning rate at the start")
    learning_rate_end: float = setting(0.1, "fraction of the learning rate that is left after its decay")
    learning_rate_steps: int = setting(60_000, "the learning rate decays over this many steps", unit="env steps")
    batch_size: int = setting(128, "transitions in an update")
    target_update: int = setting(20, "the target network is renewed after this many", unit="updates")
    epsilon_start: float = setting(0.8, "share of random actions at the start")
    epsilon_end: float = setting(0.02, "share of random actions after the decay")
    epsilon_steps: int = setting(6_000, "epsilon decays over this many steps", unit="env steps")

    frame_stack: int = setting(1, "observations, the newest last, that a network sees at once: 1 is no stack")
    sequence_length: int = setting(40, "steps of what a recurrent algorithm learns from at once", unit="steps")

    buffer_size: int = setting(50_000, "transitions (of a recurrent algorithm: sequences) that the replay buffer holds")
    warmup_steps: int = setting(500, "transitions in the replay buffer before the first update")
    replay_ratio: float = setting(0.25, "updates per transition that comes into the replay buffer")
    prioritised: bool = setting(False, "learn more often from transitions whose errors were large")
    priority_exponent: float = setting(0.5, "alpha of prioritised replay: 0 is uniform, 1 proportional to the error")
    importance_start: float = setting(0.4, "beta of prioritised replay at the start; it grows to 1")
    importance_steps: int = setting(100_000, "beta has become 1 after this many", unit="transitions")
    publish_every: int = setting(8, "the learner publishes its weights after this many", unit="updates")

    inference_batch: int = setting(64, "observations that make a batch of actions complete")
    inference_deadline_s: float = setting(0.001, "an incomplete batch is acted on after this long", unit="s")
    torch_threads: int = setting(1, "threads of the learner's torch; on a small machine 1 is the fastest")

    eval_episodes: int = setting(20, "greedy episodes in an evaluation")
    eval_every_s: float = setting(0.2, "pause between evaluations: they take computing time from learning", unit="s")
    checkpoint_every_s: float = setting(10.0, "time between checkpoints", unit="s")
    reopen_s: float = setting(120.0, "how long lost envs are tried to be opened again before the run ends", unit="s")

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in _SHARES:
            _require(self, name, 0.0 <= getattr(self, name) <= 1.0, "must lie between 0 and 1")
        for name in _POSITIVE:
            _require(self, name, 0.0 < getattr(self, name) < math.inf, "must be a positive number")
        for name in _NOT_NEGATIVE:
            _require(self, name, 0.0 <= getattr(self, name) < math.inf, "must not be negative")
        _require(self, "episodes", self.episodes is None or self.episodes >= 1, "must be at least 1")
        _require(
            self, "stop_at_return", self.stop_at_return is None or math.isfinite(self.stop_at_return), "must be finite"
        )
        _require(self, "algorithm", self.algorithm in ALGORITHMS, f"must be one of: {', '.join(ALGORITHMS)}")
        _require(self, "backend", self.backend in BACKENDS, f"must be one of: {', '.join(BACKENDS)}")
        _require(self, "hidden", _is_sizes(self.hidden), "must be whole numbers with commas, as in 128,128")
        _require(self, "sequence_length", self.sequence_length >= 2, "must be at least 2")
        _require(
            self,
            "warmup_steps",
            self.warmup_steps <= self.buffer_size,
            f"can never be reached: the buffer holds {self.buffer_size} (--buffer-size)",
        )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """ "128,128" → (128, 128)."""
        return tuple(int(size) for size in self.hidden.split(","))


_AT_LEAST_ONE = (
    "explorers", "n_step", "learning_rate_steps", "batch_size", "target_update", "epsilon_steps", "buffer_size",
    "warmup_steps", "publish_every", "frame_stack", "importance_steps", "inference_batch", "torch_threads",
    "eval_episodes",
)  # fmt: skip
_SHARES = (
    "gamma", "learning_rate_end", "epsilon_start", "epsilon_end", "priority_exponent", "importance_start",
)  # fmt: skip
_POSITIVE = ("reward_scale", "learning_rate", "replay_ratio", "checkpoint_every_s", "reopen_s")
_NOT_NEGATIVE = ("seed", "inference_deadline_s", "eval_every_s")


def _require(config: TrainConfig, name: str, is_right: bool, why: str) -> None:
    if not is_right:
        raise ConfigError(f"{flag_name(name)} is {getattr(config, name)!r}: it {why}")


def _is_sizes(text: str) -> bool:
    return all(size.strip().isdigit() and int(size) >= 1 for size in text.split(","))


def config_to_json(config: TrainConfig) -> bytes:
    """Plain JSON, for a child process or a run directory."""
    return msgspec.json.encode(config)


def config_from_json(text: bytes) -> TrainConfig:
    """The config again; raises ConfigError for unknown fields, wrong types and values that cannot work."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    try:
        values = msgspec.json.decode(text, type=dict[str, object])
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown training settings: {', '.join(unknown)}")
        return msgspec.convert(values, TrainConfig)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the training settings do not read: {error}") from error
