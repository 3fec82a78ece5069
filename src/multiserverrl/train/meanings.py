"""Which settings have no meaning beside others: refused of a person, left out of a recipe. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["meaningless"]

Values = Mapping[str, Any]  # of all fields of TrainConfig, by name

_EPSILON = ("epsilon_start", "epsilon_end", "epsilon_steps")
_OF_DQN = (
    "n_step", "batch_size", "target_update", "buffer_size", "warmup_steps", "replay_ratio", "publish_every",
    "prioritised", "priority_exponent", "importance_start", "importance_steps", "clip_targets", "double", "dueling",
    "head_hidden", "noisy", "noisy_sigma", "distributional", "atoms", "v_min", "v_max", "adam_epsilon",
)  # fmt: skip
_OF_ROLLOUTS = ("rollout_steps", "td_lambda", "epochs", "minibatches")
_OF_SEQUENCES = ("sequence_length",)
_OF_OTHERS = {  # what an algorithm has no use for
    "dqn": _OF_ROLLOUTS + _OF_SEQUENCES, "rainbow": _OF_ROLLOUTS + _OF_SEQUENCES, "pqn": _OF_DQN + _OF_SEQUENCES,
}  # fmt: skip


class _Rule(NamedTuple):
    """`names` mean nothing where `holds`; `where` says so in words."""

    names: tuple[str, ...]
    holds: Callable[[Values], bool]
    where: str


_OF_ALL = (
    _Rule(_EPSILON, lambda v: v["exploration"] == "per-env", "with --exploration per-env, whose ε is --epsilon-base"),
    _Rule(("epsilon_base", "epsilon_spread"), lambda v: v["exploration"] != "per-env", "without --exploration per-env"),
    _Rule(
        ("priority_exponent", "importance_start", "importance_steps"),
        lambda v: not v["prioritised"],
        "without --prioritised",
    ),
    _Rule(
        ("inference_batch", "inference_deadline_s"),
        lambda v: v["inference"] == "explorer",
        "with --inference explorer, where no batch is waited for",
    ),
    _Rule(("barrier_steps",), lambda v: not v["deterministic"], "without --deterministic"),
    _Rule(
        ("eval_every_s", "eval_share", "checkpoint_every_s"),
        lambda v: v["deterministic"],
        "with --deterministic, where all is evaluated and saved every --barrier-steps",
    ),
    _Rule(
        ("torch_threads",),
        lambda v: v["backend"] == "numpy" and v["algorithm"] in _OF_OTHERS,  # a plug-in may use torch all the same
        "with --backend numpy",
    ),
)
_OF_DQN_FAMILY = (  # a plug-in may read these as it likes
    _Rule(_EPSILON, lambda v: v["noisy"], "with --noisy, whose noise explores"),
    _Rule(("noisy_sigma",), lambda v: not v["noisy"], "without --noisy"),
    _Rule(("atoms",), lambda v: v["distributional"] == "none", "without --distributional"),
    _Rule(("clip_targets",), lambda v: v["gamma"] == 1.0, "with --gamma 1, where rewards may add up to anything"),
    _Rule(("v_min", "v_max"), lambda v: v["distributional"] != "c51", "without --distributional c51"),
)


def meaningless(values: Values) -> Iterator[tuple[str, str]]:
    """(name, where) of each setting that nothing looks at beside these values: "atoms", "without --distributional"."""
    algorithm = values["algorithm"]
    for name in _OF_OTHERS.get(algorithm, ()):
        yield name, f"with --algorithm {algorithm}"
    for rule in (*_OF_ALL, *(_OF_DQN_FAMILY if algorithm in ("dqn", "rainbow") else ())):
        if rule.holds(values):
            yield from ((name, rule.where) for name in rule.names)
