"""Every setting of a training run. What cannot work is refused here, before anything starts, naming the flag."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import msgspec

from multiserverrl.errors import ConfigError
from multiserverrl.settings import flag_name, setting
from multiserverrl.train.meanings import meaningless
from multiserverrl.train.plugins import plugin_names

__all__ = ["TrainConfig", "config_from_json", "config_to_json"]

ALGORITHMS = ("dqn", "rainbow", "pqn")
BACKENDS = ("auto", "numpy", "torch")
DISTRIBUTIONAL = ("none", "c51", "qr")
INFERENCE = ("central", "explorer")
EXPLORATION = ("schedule", "per-env")
NETWORKS = ("auto", "mlp", "small", "nature", "impala")
CHANNELS = ("auto", "first", "last")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainConfig:
    """Defaults solve CartPole-v1 in about 16 000 steps of 64 envs (measured, seeds 0-4)."""

    seed: int = setting(0, "seed of envs, networks, exploration and sampling", group="what to train")
    episodes: int | None = setting(None, "episodes for each virtual env, then the run ends; none: no limit")
    stop_at_return: float | None = setting(
        None, "stop when the greedy mean return reaches this; none: the env's reward threshold"
    )
    explorers: int = setting(1, "explorer processes [exploration workers]")
    deterministic: bool = setting(
        False, "bit-equal runs for equal seeds: one explorer, lock-step, barriers instead of checkpoints by the clock"
    )
    barrier_steps: int = setting(
        10_000,
        "with --deterministic: env steps between barriers (checkpoint, evaluation, all episodes cut off); of use are "
        "many times --count episodes",
        unit="env steps",
    )

    algorithm: str = setting(
        "dqn",
        "how to learn: dqn (n-step double DQN), rainbow (with all further parts of DQN), pqn (on fresh rollouts), or a "
        "plug-in (docs/plugins.md)",
        group="algorithm",
    )
    options: dict[str, float | int | str | bool] = setting(  # noqa: RUF009 (a copy for each)
        {}, "settings of a plug-in: repeat `--option name=value` (JSON where it parses, else text)", flag=False
    )
    backend: str = setting(
        "auto",
        "what the learner computes with: numpy, torch, or auto (numpy where it can: it is faster on small networks)",
    )
    device: str = setting("auto", "where torch computes: auto (on a GPU when there is one), cpu or cuda")
    torch_threads: int = setting(
        1, "threads of torch in each process that computes with it; on a small machine 1 is the fastest"
    )
    gamma: float = setting(0.99, "discount per step")
    reward_scale: float = setting(0.05, "rewards are multiplied by this before they are learned from")
    n_step: int = setting(8, "rewards summed before the value of the state they led to", unit="steps")

    double: bool = setting(
        True,
        "the online network chooses the action whose value the target network tells",
        group="parts of the DQN family",
    )
    dueling: bool = setting(False, "the head tells a state's value and its actions' advantages apart")
    head_hidden: int = setting(0, "size of a hidden layer in each stream of the head; 0: none")
    noisy: bool = setting(False, "explore by learned noise in the head's weights, instead of epsilon")
    noisy_sigma: float = setting(0.5, "with --noisy: its size at the start, divided by the root of a layer's inputs")
    distributional: str = setting("none", "what is learned of returns: none (their mean), c51 or qr (quantiles)")
    atoms: int = setting(51, "with --distributional: numbers that describe a distribution")
    v_min: float = setting(-10.0, "with c51: the least return that is told apart, of scaled rewards")
    v_max: float = setting(10.0, "with c51: the greatest return that is told apart, of scaled rewards")
    clip_targets: bool = setting(True, "targets stay within what the rewards learned from so far can add up to")
    target_update: int = setting(20, "the target network is renewed after this many", unit="updates")

    rollout_steps: int = setting(
        16, "pqn: steps of every env that make a rollout", unit="steps", group="rollouts and sequences"
    )
    td_lambda: float = setting(0.9, "pqn: weight of the longer returns in a λ-return; 0: one step, 1: to the end")
    epochs: int = setting(4, "pqn: how often each step of a rollout is learned from")
    minibatches: int = setting(4, "pqn: updates that an epoch is divided into")
    sequence_length: int = setting(40, "steps of what a recurrent algorithm learns from at once", unit="steps")

    learning_rate: float = setting(2e-3, "Adam's learning rate at the start", group="optimiser")
    learning_rate_end: float = setting(0.1, "fraction of the learning rate that it does not fall below")
    learning_rate_steps: int = setting(
        60_000,
        "the learning rate falls evenly, to reach 0 after this many (but for --learning-rate-end)",
        unit="env steps",
    )
    adam_epsilon: float = setting(1e-8, "Adam's epsilon: larger ones calm steps where gradients are small")
    max_grad_norm: float = setting(0.0, "longer gradients are shortened to this; 0: never")
    batch_size: int = setting(128, "transitions in an update")

    network: str = setting(
        "auto",
        "what sees: mlp, or for images small, nature or impala (its residual network); auto: by the shape",
        group="network",
    )
    image_channels: str = setting(
        "auto", "the axis of an image's channels: first, last, or auto (the shorter of the two)"
    )
    hidden: str = setting(
        "128,128", "sizes of the hidden layers that see numbers; those that see images have sizes of their own"
    )
    frame_stack: int = setting(1, "observations, the newest last, that a network sees at once: 1 is no stack")

    exploration: str = setting(
        "schedule",
        "epsilon: schedule (of all envs alike, falling) or per-env (env i of n keeps its own, as in Ape-X)",
        group="exploration",
    )
    epsilon_start: float = setting(0.8, "share of random actions at the start")
    epsilon_end: float = setting(0.02, "share of random actions after the decay")
    epsilon_steps: int = setting(6_000, "epsilon decays over this many steps", unit="env steps")
    epsilon_base: float = setting(0.4, "with --exploration per-env: ε of ε**(1 + α·i/(n-1))")
    epsilon_spread: float = setting(7.0, "with --exploration per-env: α of ε**(1 + α·i/(n-1))")

    buffer_size: int = setting(
        50_000, "transitions (of a recurrent algorithm: sequences) that the replay buffer holds", group="replay"
    )
    warmup_steps: int = setting(500, "transitions in the replay buffer before the first update")
    prioritised: bool = setting(False, "sample transitions by the error that they were last learned with")
    priority_exponent: float = setting(0.5, "with --prioritised: α, from 0 (uniform) to 1 (by the error itself)")
    importance_start: float = setting(0.4, "with --prioritised: β at the start, rising to 1 (no bias)")
    importance_steps: int = setting(100_000, "with --prioritised: β has become 1 after this many", unit="transitions")
    replay_ratio: float = setting(0.25, "updates per transition that comes into the replay buffer")

    inference: str = setting(
        "central",
        "who acts: central (an inference server batches for all explorers) or explorer (each has a copy)",
        group="inference",
    )
    inference_batch: int = setting(64, "observations that make a batch of actions complete")
    inference_deadline_s: float = setting(0.001, "an incomplete batch is acted on after this long", unit="s")
    publish_every: int = setting(8, "the learner publishes its weights after this many", unit="updates")

    eval_episodes: int = setting(20, "greedy episodes in an evaluation", group="evaluation")
    confirm_episodes: int = setting(
        0, "an evaluation that reaches --stop-at-return ends the run only if so many more episodes do; 0: at once"
    )
    eval_every_s: float = setting(
        0.2, "least pause between evaluations: they take computing time from learning", unit="s"
    )
    eval_share: float = setting(0.2, "evaluations take at most this share of the time, but for the first 1.5 s of them")

    checkpoint_every_s: float = setting(
        10.0, "time between checkpoints, at least nine times what one takes", unit="s", group="run directory and logs"
    )

    reopen_s: float = setting(
        120.0, "how long lost envs are tried to be opened again before the run ends", unit="s", group="env servers"
    )

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
        self._check_algorithm()
        for name, choices in _CHOICES.items():
            _require(self, name, getattr(self, name) in choices, f"must be one of: {', '.join(choices)}")
        is_possible = self.device != "cuda" or self.backend != "numpy"
        _require(self, "device", is_possible, "needs --backend torch: NumPy computes on the CPU")
        is_possible = self.device != "cuda" or not self.deterministic
        _require(self, "device", is_possible, "cannot be with --deterministic: a GPU adds up in any order")
        _require(
            self,
            "explorers",
            self.explorers == 1 or not self.deterministic,
            "must be 1 with --deterministic: which of several is first is never the same",
        )
        _require(
            self,
            "inference_deadline_s",
            self.inference_deadline_s <= 30.0,
            "must be at most 30 s: so long envs stand still where nobody is left to complete a batch",
        )
        self._require_one_kind()
        _require(self, "hidden", _is_sizes(self.hidden), "must be whole numbers with commas, as in 128,128")
        _require(self, "sequence_length", self.sequence_length >= 2, "must be at least 2")
        for name, where in meaningless({**_DEFAULTS, **vars(self)}):  # msgspec sets what it was given alone
            is_default = getattr(self, name) == _DEFAULTS[name]
            _require(self, name, is_default, f"has no meaning {where}: leave it out")
        _require(
            self,
            "warmup_steps",
            self.warmup_steps <= self.buffer_size,
            f"can never be reached: the buffer holds {self.buffer_size} (--buffer-size)",
        )

    def _require_one_kind(self) -> None:
        """Parts of the DQN family that exclude one another."""
        if self.backend == "numpy":
            _require(self, "noisy", not self.noisy, "needs --backend torch (or auto): NumPy has no noisy layers")
            is_mean = self.distributional == "none"
            _require(self, "distributional", is_mean, "needs --backend torch (or auto): NumPy learns means alone")
        is_scheduled = self.exploration == "schedule"
        _require(
            self, "noisy", not self.noisy or is_scheduled, "explores by its noise: leave out --exploration per-env"
        )
        if self.distributional != "none":
            _require(self, "atoms", self.atoms >= 2, f"is too few for --distributional {self.distributional}")
        for name in ("v_min", "v_max"):
            _require(self, name, math.isfinite(getattr(self, name)), "must be finite")
        _require(self, "v_min", self.v_min < self.v_max, f"must be less than --v-max, {self.v_max!r}")

    def _check_algorithm(self) -> None:
        if self.algorithm in ALGORITHMS:
            if self.options:
                names = ", ".join(self.options)
                raise ConfigError(f"--option {names} is for a plug-in: {self.algorithm} has only the other flags")
            self._require_rainbow()
            return
        known = [*ALGORITHMS, *plugin_names()]
        _require(self, "algorithm", self.algorithm in known, f"must be one of: {', '.join(known)}")
        for name, value in self.options.items():
            if not isinstance(value, float | int | str):
                raise ConfigError(f"--option {name} is {value!r}: it must be a number, a text, true or false")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"--option {name} is {value!r}: it must be finite")

    def _require_rainbow(self) -> None:
        """Its parts are settings like all others, so that each can be left out; without any it would be another."""
        has_part = self.dueling or self.prioritised or self.noisy or self.distributional != "none"
        if self.algorithm == "rainbow" and not has_part:
            raise ConfigError(
                "--algorithm rainbow has none of --dueling, --prioritised, --noisy and --distributional here: that is "
                'dqn. In Python its parts are given, too: TrainConfig(algorithm="rainbow", '
                '**recipe_for("rainbow", None).settings), of multiserverrl.train.recipes'
            )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """ "128,128" → (128, 128)."""
        return tuple(int(size) for size in self.hidden.split(","))

    @property
    def torch_device(self) -> str:
        """`--device`; bit-equal runs compute on the CPU, since a GPU's atomic additions come in any order."""
        return "cpu" if self.deterministic else self.device


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
_AT_LEAST_ONE = (
    "explorers", "n_step", "learning_rate_steps", "batch_size", "target_update", "epsilon_steps", "buffer_size",
    "warmup_steps", "publish_every", "inference_batch", "torch_threads", "eval_episodes", "barrier_steps", "atoms",
    "frame_stack", "importance_steps", "rollout_steps", "epochs", "minibatches",
)  # fmt: skip
_CHOICES = {
    "backend": BACKENDS, "device": DEVICES, "network": NETWORKS, "image_channels": CHANNELS,
    "inference": INFERENCE, "exploration": EXPLORATION, "distributional": DISTRIBUTIONAL,
}  # fmt: skip
_SHARES = (
    "gamma", "learning_rate_end", "epsilon_start", "epsilon_end", "epsilon_base", "priority_exponent",
    "importance_start", "td_lambda",
)  # fmt: skip
_POSITIVE = (
    "reward_scale", "learning_rate", "replay_ratio", "checkpoint_every_s", "reopen_s", "noisy_sigma", "adam_epsilon",
    "eval_share",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "inference_deadline_s", "confirm_episodes", "eval_every_s", "epsilon_spread", "head_hidden",
    "max_grad_norm",
)  # fmt: skip


def _require(config: TrainConfig, name: str, is_right: bool, why: str) -> None:
    if not is_right:
        value = getattr(config, name)
        flag = flag_name(name if value is not False else f"no_{name}")
        raise ConfigError(f"{flag}: it {why}" if isinstance(value, bool) else f"{flag} is {value!r}: it {why}")


def _is_sizes(text: str) -> bool:
    return all(size.strip().isdigit() and int(size) >= 1 for size in text.split(","))


def config_to_json(config: TrainConfig) -> bytes:
    """Plain JSON, for a child process or a run directory."""
    return msgspec.json.encode(config)


def config_from_json(text: bytes) -> TrainConfig:
    """The config again; raises ConfigError for unknown fields, wrong types and values that cannot work.

    What has no meaning beside the others is left out: older versions let it pass.
    """
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    try:
        values = msgspec.json.decode(text, type=dict[str, object])
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown training settings: {', '.join(unknown)}")
        void = {name for name, _ in meaningless({**_DEFAULTS, **values})}
        return msgspec.convert({name: value for name, value in values.items() if name not in void}, TrainConfig)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the training settings do not read: {error}") from error
