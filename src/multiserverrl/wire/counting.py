"""How many values some MessagePack holds, looked at before any of them is made.

A byte can become an object of 72: without a bound the largest message would take gigabytes. Up to
`FREE_BYTES` nobody looks, so that a step costs nothing more; beyond it there are a few long texts or arrays
in what an honest peer sends, and those are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from multiserverrl.errors import WireError

__all__ = ["FREE_BYTES", "MOST_VALUES", "check_count"]

MOST_VALUES = 1 << 20
FREE_BYTES = 1 << 20
_WITH_VALUES = frozenset((3, 5, 6, 7))  # the extensions of `trees` whose content is MessagePack again
_ARRAY_VALUES = 6  # an array with its buffer takes as much as so many lists

Buffer = bytes | bytearray | memoryview


def check_count(parts: Sequence[Buffer]) -> None:
    """WireError when these parts of one message hold more than MOST_VALUES values together."""
    if sum(map(len, parts)) <= FREE_BYTES:
        return
    left = MOST_VALUES
    for part in parts:
        left -= _count(part, left)
        if left < 0:
            raise WireError(f"a message holds at most {MOST_VALUES} values beside what lies in arrays")


def _count(content: Buffer, most: int) -> int:
    """The values in some MessagePack, or any number beyond `most`. What is no MessagePack is counted somehow."""
    view = memoryview(content)
    at, size, count = 0, len(view), 0
    while at < size and count <= most:
        kind = view[at]
        count += 1
        if kind < 0xA0 or kind >= 0xE0:  # a number of one byte, or the head of a short map or list
            at += 1
        elif kind < 0xC0:  # a short text
            at += kind - 0x9F
        else:
            values, at = _step(view, at, kind)
            count += values
    return count


def _step(view: memoryview, at: int, kind: int) -> tuple[int, int]:
    """(further values, where the next one begins) of a kind that has a head of more than a byte."""
    if kind in _HEADS:
        return 0, at + _HEADS[kind]
    if kind in _TEXTS:
        width = _TEXTS[kind]
        return 0, at + 1 + width + int.from_bytes(view[at + 1 : at + 1 + width], "big")
    if kind in _FIXED_EXTENSIONS:
        code_at, length = at + 1, _FIXED_EXTENSIONS[kind]
    else:
        width = _EXTENSIONS[kind]
        code_at, length = at + 1 + width, int.from_bytes(view[at + 1 : at + 1 + width], "big")
    if code_at < len(view) and view[code_at] in _WITH_VALUES:
        return 1, code_at + 1
    return _ARRAY_VALUES, code_at + 1 + length


# what stands behind the first byte: numbers, and the heads of lists and maps
_HEADS = {0xC0: 1, 0xC1: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9,
          0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}  # fmt: skip
_TEXTS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes of the length
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}  # the length
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}  # bytes of the length
