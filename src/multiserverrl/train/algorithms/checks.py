"""Whether an algorithm that we did not write keeps the protocol: what it lacks is told before anything is started."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.protocol import Storage

__all__ = ["require_algorithm", "require_learner"]

_METHODS = ("prepare", "act", "exploration", "init")
_LEARNER_METHODS = ("update", "weights", "state", "load_state")
_FIELDS = ("transition_fields", "weights_fields", "extras_fields")
_NEEDED = {"n_steps": ("obs", "next_obs"), "sequences": ("obs", "action")}
_OF_N_STEPS = {"obs", "action", "reward", "next_obs", "discount", "weights_version"}
_OURS = _OF_N_STEPS | {"terminated", "truncated", "valid", "mask", "importance", "priority", "made_of"}  # in some store


def require_algorithm(algorithm: Any, who: str) -> None:
    """ConfigError, with all that is wanting, when it does not keep `Algorithm`."""
    wrong = [f"it has no method {name}" for name in _METHODS if not callable(getattr(algorithm, name, None))]
    storage = getattr(algorithm, "storage", None)
    if storage not in get_args(Storage):
        wrong.append(f"its storage is {storage!r}, not one of {', '.join(get_args(Storage))}")
    wrong += [why for name in _FIELDS if (why := _wrong_fields(name, getattr(algorithm, name, None)))]
    if not wrong and (taken := sorted(_OURS & set(algorithm.extras_fields))):
        wrong.append(f"its extras_fields has {', '.join(taken)}, which the trainer gives itself: choose other names")
    if not wrong and storage == "n_steps":
        declared = set(algorithm.transition_fields)
        known = _OF_N_STEPS | set(algorithm.extras_fields)
        if unknown := declared - known:
            wrong.append(f"n_steps gives {', '.join(sorted(known))}, and not {', '.join(sorted(unknown))}")
    if not wrong:
        lacking = [name for name in _NEEDED.get(str(storage), ()) if name not in algorithm.transition_fields]
        wrong += [f"its transition_fields lack {name!r}" for name in lacking]
    if wrong:
        raise ConfigError(f"{who} does not keep the protocol of an algorithm: {'; '.join(wrong)}")


def require_learner(learner: Any, name: str) -> None:
    """The same of what `init` gave."""
    missing = [method for method in _LEARNER_METHODS if not callable(getattr(learner, method, None))]
    if missing:
        raise ConfigError(f"the learner of --algorithm {name} has no method {', '.join(missing)}")


def _wrong_fields(name: str, fields: Any) -> str:
    if not isinstance(fields, dict):
        return f"it has no {name}"
    for field, described in fields.items():
        try:
            dtype, shape = described
            np.zeros((0, *shape), dtype)
        except (TypeError, ValueError) as error:
            return f"its {name}[{field!r}] is {described!r}, not (dtype, shape): {error}"
    return ""
