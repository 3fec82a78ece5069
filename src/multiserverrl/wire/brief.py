"""Values in the few words of an error's message: of any kind, however large, and however deeply nested."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["brief", "key_fault"]

_MOST_CHARACTERS = 80
_MOST_BITS = 256  # Python itself refuses to write out much larger integers
_MOST_ITEMS = 8


def brief(value: Any) -> str:
    """A value in about 80 characters; costs no more for a huge one."""
    if isinstance(value, (str, bytes)):
        return repr(value[:_MOST_CHARACTERS]) + ("…" if len(value) > _MOST_CHARACTERS else "")
    if isinstance(value, int):
        return str(value) if value.bit_length() <= _MOST_BITS else f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (float, complex, np.generic)):
        return str(value)[:_MOST_CHARACTERS]
    if isinstance(value, np.ndarray):
        if value.size <= _MOST_ITEMS and value.dtype.kind in "biufc":
            return str(value.tolist())
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def key_fault(value: dict[Any, Any], wanted: Iterable[str]) -> str:
    """How the keys of a dict differ from those that are wanted: what is missing, and what is too many."""
    missing = [key for key in wanted if key not in value]
    if missing:
        return "without " + ", ".join(map(brief, missing[:_MOST_ITEMS]))
    known = set(wanted)
    return "with " + ", ".join(brief(key) for key in list(value)[: len(known) + 1] if key not in known)
