"""Actions that are none: for each space of `multiserverrl.testing.takers`, what is wrong, and what must be named."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import GraphInstance

from multiserverrl.testing.takers import ACTION_SPACES
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import flatten
from multiserverrl.wire.trees import pack_tree

NAN, INF = float("nan"), float("inf")
NODES, LINKS = np.zeros((2, 2), np.float32), np.array([[0, 1]], np.int32)


class Wrong(NamedTuple):
    """One env's action that is none of its space; `ways`: f by frames, j by JSON, c by our own client."""

    value: Any
    named: str  # what stands in the refusal
    ways: str = "fjc"


_NOT_NUMBERS = [
    Wrong("1", "action is", "jc"), Wrong("left", "action", "jc"), Wrong(None, "action", "jc"),
    Wrong({}, "action", "jc"), Wrong([1], "action has shape (1,", "j"), Wrong([[1], [1, 2]], "action", "jc"),
]  # fmt: skip
_NOT_WHOLE = [
    Wrong(0.5, "action", "jc"), Wrong(NAN, "action", "jc"), Wrong(INF, "action", "jc"), Wrong(1.0, "action", "jc"),
    Wrong(2**63, "action is 9223372036854775808", "jc"), Wrong(-(2**70), "action is -118059", "jc"),
    Wrong(True, "action is true", "j"), Wrong(10**400, "action is an integer of 1329 bits", "jc"),
]  # fmt: skip

WRONG: dict[str, list[Wrong]] = {
    "discrete": [
        Wrong(3, "action is 3"), Wrong(-1, "action is -1"), Wrong(2**63 - 1, "action is 9223372036854775807"),
        Wrong(-(2**63), "action is -9223372036854775808"), *_NOT_NUMBERS, *_NOT_WHOLE,
    ],
    "shifted": [
        Wrong(-2, "action is -2"), Wrong(2, "action is 2"), Wrong(2**63 - 1, "action is 9223372036854775807"),
        *_NOT_NUMBERS, *_NOT_WHOLE,
    ],
    "multi": [
        Wrong([2, 0], "action[0] is 2"), Wrong([0, 2], "action[1] is 2"), Wrong([0, -2], "action[1] is -2"),
        Wrong([0, 2**63 - 1], "action[1] is 9223372036854775807"), Wrong([0, 2**63], "action", "jc"),
        Wrong([0, 0.5], "action", "jc"), Wrong([0, NAN], "action", "jc"), Wrong([True, 0], "action[0] is true", "j"),
        Wrong([0], "shape (1,"), Wrong([0, 0, 0], "shape (3,"), Wrong(0, "shape ("), Wrong(["0", "0"], "action", "jc"),
    ],
    "binary": [
        Wrong([0, 1, 2], "action[2] is 2"), Wrong([0, -1, 1], "action[1] is -1"), Wrong([1, 1], "shape (2,"),
        Wrong([0.5, 0, 0], "action", "jc"), Wrong([True, False, True], "action[0] is true", "j"),
        Wrong([0, 0, 300], "action", "jc"), Wrong("010", "action", "jc"),
    ],
    "box": [
        Wrong([NAN, 0], "action[0] is NaN"), Wrong([0, NAN], "action[1] is NaN"), Wrong([0, 0, 0], "shape (3,"),
        Wrong([[0, 0]], "shape (1,", "j"), Wrong(0.5, "shape ("), Wrong([True, 0.5], "action[0] is true", "j"),
        Wrong(["x", 0], "action", "jc"), Wrong([None, 0], "action", "jc"), Wrong([1 + 2j, 0], "action is complex", "c"),
        Wrong([str(10**400), 0], "action", "jc"),
    ],
    "whole": [
        Wrong([0.5, 0], "action", "jc"), Wrong([-1, 0], "action", "jc"), Wrong([0, 256], "action", "jc"),
        Wrong([NAN, 0], "action", "jc"), Wrong([0, 0, 0], "shape (3,"), Wrong([False, 0], "action[0] is false", "j"),
    ],
    "nested": [
        Wrong({"arm": ([0, NAN], 0), "grip": [0, 0]}, "action['arm'][0][1] is NaN"),
        Wrong({"arm": ([0, 0], 2), "grip": [0, 0]}, "action['arm'][1] is 2"),
        Wrong({"arm": ([0, 0], 0), "grip": [0, 2]}, "action['grip'][1] is 2"),
        Wrong({"arm": ([0, 0], 0), "grip": [0, 0, 0]}, "action['grip'] has shape (", "jc"),
        Wrong({"arm": ([0, 0],), "grip": [0, 0]}, "action['arm'] must be a", "jc"),
        Wrong({"arm": ([0, 0], 0)}, "without 'grip'", "jc"), Wrong([1, 2], "action must be a", "jc"),
        Wrong({"arm": ([0, 0], 0), "grip": [0, 0], "leg": 1}, "with 'leg'", "jc"),
        Wrong({"arm": ([0, 0], True), "grip": [0, 0]}, "action['arm'][1] is true", "j"),
        Wrong({"arm": ([0, 0], "1"), "grip": [0, 0]}, "action['arm'][1] is", "jc"),
        Wrong({"arm": ([0, 0], 2**70), "grip": [0, 0]}, "action['arm'][1] is", "jc"),
        Wrong({"arm": 5, "grip": [0, 0]}, "action['arm'] must be a", "jc"), Wrong(None, "action must be a", "jc"),
    ],
    "text": [
        Wrong("", "action has 0 characters"), Wrong("abcab", "action has 5 characters"),
        Wrong("abx", "action[2] is 'x'"), Wrong(3, "must be a text, not 3"), Wrong(None, "must be a text"),
        Wrong(["a"], "action must be a text"), Wrong(NAN, "must be a text", "fc"), Wrong(10**400, "must be a text"),
    ],
    "loose": [
        Wrong({"choice": (2, 0), "many": (), "word": "a"}, "action['choice'][0] must name one of 2"),
        Wrong({"choice": (True, [0.5]), "many": (), "word": "a"}, "action['choice'][0] must name one of 2"),
        Wrong({"choice": (1, [NAN]), "many": (), "word": "a"}, "action['choice'][1][0] is NaN"),
        Wrong({"choice": (0, 2), "many": (), "word": "a"}, "action['choice'][1] is 2"),
        Wrong({"choice": (0, 1), "many": (0, 3), "word": "a"}, "action['many'][1] is 3"),
        Wrong({"choice": (0, 1), "many": (0, 0.5), "word": "a"}, "action['many'][1]"),
        Wrong({"choice": (0, 1), "many": 7, "word": "a"}, "action['many'] must be a"),
        Wrong({"choice": (0, 1), "many": (), "word": "x"}, "action['word'][0] is 'x'"),
        Wrong({"choice": (0, 1), "many": ()}, "without 'word'"), Wrong([], "action must be a"),
    ],
    "graph": [
        Wrong(GraphInstance(NODES, np.array([7]), LINKS), "action"), Wrong(3, "action must be a"),
        Wrong(GraphInstance(NODES, np.array([1]), LINKS + 1), "action"), Wrong(GraphInstance(NODES, [1], None), "both"),
        Wrong(GraphInstance(NODES * NAN, None, None), "is NaN"),
    ],
}  # fmt: skip


def plain(value: Any) -> Any:
    """A value as JSON has it, with no look at its space."""
    if isinstance(value, GraphInstance):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    return value


def framed(space_name: str, rows: list[Any]) -> tuple[bytes, bytes]:
    """(body, tree) of a step with these actions, as someone sends them who does not look at them."""
    space = ACTION_SPACES[space_name]
    layout = ActionCodec(space, len(rows)).layout
    if layout is None:
        return b"", pack_tree(rows)
    body = bytearray(layout.end)
    columns = [flatten(space, row, "action") for row in rows]
    for leaf, view, *parts in zip(layout.leaves, layout.arrays(body), *columns, strict=True):
        if any(np.shape(part) != leaf.shape for part in parts):  # raw bytes have no shape: only their number is wrong
            parts_bytes = [np.asarray(part, leaf.dtype).tobytes() for part in parts]
            return b"".join(parts_bytes), b""
        view[...] = np.array(parts).reshape(view.shape).astype(leaf.dtype)
    return bytes(body), b""
