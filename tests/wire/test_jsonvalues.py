from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given
from hypothesis import strategies as st

from multiserverrl.errors import ActionError
from multiserverrl.wire.jsonvalues import from_json, to_json
from tests.wire.strategies import ANY_SPACES, TREES, is_equal_value, space_and_values

WALK = spaces.Box(-1, 1, (2,))
WHOLE = spaces.Box(-128, 127, (2,), np.int8)
GRAPH = spaces.Graph(WALK, spaces.Discrete(3))
CHOICE = spaces.OneOf([WALK, spaces.Discrete(2)])


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(to_json(value), allow_nan=False))


@given(space_and_values(ANY_SPACES, 1))
@example((spaces.Box(-np.inf, np.inf, (3,)), [np.array([np.nan, np.inf, -np.inf], np.float32)]))
@example((spaces.Box(0, 2**64 - 1, (2,), np.uint64), [np.array([2**64 - 1, 0], np.uint64)]))
@example((spaces.Box(-(2**63), 2**63 - 1, (), np.int64), [np.array(-(2**63))]))
@example((spaces.Sequence(spaces.Dict(a=WALK), stack=True), [{"a": np.zeros((3, 2), np.float32)}]))
@example((spaces.Sequence(WALK, stack=True), [np.zeros((0, 2), np.float32)]))
@example((GRAPH, [spaces.GraphInstance(np.zeros((0, 2), np.float32), None, None)]))
def test_a_member_comes_back_from_json_as_it_was(drawn: tuple[Any, list[Any]]) -> None:
    space, (value,) = drawn
    if isinstance(space, spaces.Sequence) and space.stack and isinstance(value, dict):
        sent: Any = [{"a": [0, 0]}] * 3  # JSON has a list of items where Gymnasium stacks them
    else:
        sent = through_json(value)
    assert is_equal_value(from_json(space, sent), value)


@given(TREES)
def test_whatever_an_info_holds_json_can_show(tree: Any) -> None:
    json.dumps(to_json(tree), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([[1, 2], [3, 4]], np.uint8), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan, np.inf]), [0.5, "NaN", "Infinity"]),
        (np.array([2**53 + 1, 1]), ["9007199254740993", 1]),
        (np.array(True), True),
        (np.float32(0.1), 0.10000000149011612),
        (-float("inf"), "-Infinity"),
        (2**70, str(2**70)),
        ((1, "a", None, np.str_("b")), [1, "a", None, "b"]),
        ({1: np.int8(2), (1, 2): []}, {"1": 2, "(1, 2)": []}),
        (spaces.GraphInstance(np.zeros((1, 1)), None, None), {"nodes": [[0.0]], "edges": None, "edge_links": None}),
        (np.array([{"a": 1}, None], dtype=object), [{"a": 1}, None]),
        (1 + 2j, "(1+2j)"),
    ],
    ids=range(12),
)
def test_json_says_what_a_person_expects(value: Any, said: Any) -> None:
    assert to_json(value) == said


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3), 1.5, "action must be whole numbers"),
        (spaces.Discrete(3), "NaN", "action must be whole numbers"),
        (spaces.Discrete(3), [1], r"action has shape \(1,\); the space Discrete\(3\) says \(\)"),
        (spaces.Discrete(3), None, "action: a number was expected, not NoneType"),
        (spaces.Discrete(3), "left", "action: 'left' is not a number"),
        (spaces.Discrete(3), 2**63, "action is 9223372036854775808, which int64 cannot hold"),
        (spaces.Discrete(3), str(2**80), "action is 1208925819614629174706176, which int64 cannot hold"),
        (spaces.Discrete(3), True, "action is true; a number was expected"),
        (spaces.Discrete(3), "1", "action is the text '1'; a number was expected"),
        (spaces.Discrete(3), "1" * 5000, "is not a number"),
        (spaces.Discrete(3), 10**5000, "action is an integer of 16610 bits, which int64 cannot hold"),
        (spaces.MultiBinary(2), [1, False], r"action\[1\] is false; a number was expected"),
        (WALK, [0, True], r"action\[1\] is true; a number was expected"),
        (WHOLE, [300, 0], r"action\[0\] is 300, which int8 cannot hold"),
        (WHOLE, [0, 0.5], r"action\[1\] must be whole numbers, not 0.5"),
        (spaces.Box(0, 1, (1,), np.uint8), [-1], "cannot hold"),
        (spaces.Box(0, 1, (1,), bool), [2], "cannot hold"),
        (WALK, [0, 0, 0], r"action has shape \(3,\)"),
        (WALK, [[0], [0, 1]], "action is no array"),
        (WALK, [0, {}], "a number was expected, not dict"),
        (WALK, deep(900), "is nested more than 32 deep"),
        (spaces.Dict(a=WALK), {"b": [0, 0]}, r"action must be an object with the keys \['a'\]"),
        (spaces.Dict(a=WALK), [0, 0], "action must be an object"),
        (spaces.Dict(a=WALK), {"a": [0]}, r"action\['a'\] has shape"),
        (spaces.Tuple([WALK, WALK]), [[0, 0]], "action must be a list of 2"),
        (CHOICE, [2, 0], r"action\[0\] must name one of 2 spaces"),
        (CHOICE, [True, 0], r"action\[0\] must name one of 2 spaces"),
        (CHOICE, [1], "action must be a list of 2"),
        (CHOICE, [1, 0.5], r"action\[1\] must be whole numbers"),
        (spaces.Text(3), 3, "action must be a text, not 3"),
        (spaces.Sequence(WALK), {}, "action must be a list, not a dict of 0"),
        (spaces.Sequence(WALK), [[0, 0], [0]], r"action\[1\] has shape"),
        (spaces.Sequence(WALK, stack=True), [[0, 0], [0]], r"action\[1\] has shape"),
        (GRAPH, [], "action must be an object with nodes, edges and edge_links"),
        (GRAPH, {"nodes": [], "colour": 1}, "action must be an object with nodes"),
        (GRAPH, {"nodes": 3}, r"action\['nodes'\] must be a list"),
        (GRAPH, {"nodes": [[0, 0], [0]]}, r"action\['nodes'\]\[1\] has shape"),
        (GRAPH, {"nodes": [[0, 0]], "edges": [1]}, "edges and edge_links, both or neither"),
        (GRAPH, {"nodes": [[0, 0]], "edges": [1.5], "edge_links": [[0, 0]]}, r"\['edges'\]\[0\] must be whole"),
        (GRAPH, {"nodes": [[0, 0]], "edges": [1], "edge_links": [[0]]}, r"\['edge_links'\]\[0\] has shape"),
        (spaces.Graph(WALK, None), {"nodes": [[0, 0]], "edges": [1], "edge_links": [[0, 0]]}, "both or neither"),
    ],
    ids=range(41),
)
def test_what_is_of_the_wrong_shape_or_kind_is_refused_by_its_name(space: Any, value: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        from_json(space, value)


def test_a_real_beyond_the_floats_of_a_box_is_infinite() -> None:
    assert from_json(WALK, [1e300, 0]).tolist() == [float("inf"), 0.0]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just("Infinity")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["nodes", "edges", "edge_links", "a"]), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(ANY_SPACES, JSON)
def test_any_json_is_a_value_or_refused(space: Any, value: Any) -> None:
    try:
        read = from_json(space, value)
    except ActionError:
        return
    to_json(read)
