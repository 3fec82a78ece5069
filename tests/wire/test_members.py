from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.errors import ActionError
from multiserverrl.wire.members import member, stacked
from tests.wire.strategies import (
    ANY_SPACES,
    MULTI_BINARIES,
    discretes,
    is_equal_value,
    multi_discretes,
    space_and_values,
    texts,
)

WALK = spaces.Box(-1, 1, (2,))
WHOLE = spaces.Box(-128, 127, (2,), np.int8)
GRAPH = spaces.Graph(WALK, spaces.Discrete(3))
CHOICE = spaces.OneOf([WALK, spaces.Discrete(2)])
NODES, LINKS = np.zeros((2, 2), np.float32), np.array([[0, 1]])


@given(space_and_values(ANY_SPACES, 1))
def test_every_member_passes_as_it_is(drawn: tuple[Any, list[Any]]) -> None:
    space, (value,) = drawn
    assert is_equal_value(member(space, value, "action"), value)


@given(space_and_values(ANY_SPACES, 1), ANY_SPACES)
def test_what_passes_for_another_space_is_of_its_structure(drawn: tuple[Any, list[Any]], other: Any) -> None:
    try:
        passed = member(other, drawn[1][0], "action")
    except ActionError:
        return
    assert is_equal_value(member(other, passed, "action"), passed)


UNBOUNDED = st.one_of(discretes(), multi_discretes(), MULTI_BINARIES, texts())


@given(UNBOUNDED, st.one_of(st.integers(-9, 9), st.text(max_size=3), st.lists(st.integers(-9, 9), max_size=3)))
def test_what_passes_is_what_gymnasium_contains(space: Any, value: Any) -> None:
    try:
        passed = member(space, value, "action")
    except ActionError:
        return
    assert space.contains(passed)


@pytest.mark.parametrize(
    ("space", "value", "passed"),
    [
        (WALK, [2.0, -1e300], np.array([2.0, -np.inf], np.float32)),
        (WHOLE, [1, 2], np.array([1, 2], np.int8)),
        (spaces.Discrete(3), 2, np.int64(2)),
        (spaces.Sequence(WALK), [[0, 0]], (np.zeros(2, np.float32),)),
        (spaces.Sequence(WALK, stack=True), [[0, 0]], np.zeros((1, 2), np.float32)),
        (spaces.Sequence(WALK, stack=True), [], np.zeros((0, 2), np.float32)),
        (CHOICE, [1, 1], (np.int64(1), np.int64(1))),
        (
            GRAPH,
            spaces.GraphInstance(NODES, [2], LINKS),
            spaces.GraphInstance(NODES, np.array([2]), LINKS.astype("i4")),
        ),
        (GRAPH, spaces.GraphInstance(NODES, None, None), spaces.GraphInstance(NODES, None, None)),
    ],
    ids=range(9),
)
def test_arrays_get_the_dtype_of_their_space_and_bounds_of_boxes_may_be_passed(
    space: Any, value: Any, passed: Any
) -> None:
    assert is_equal_value(member(space, value, "action"), passed)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (WALK, [0.0, np.nan], r"action\[1\] is NaN"),
        (WALK, [0.0], r"action has shape \(1,\); \(2,\) was expected"),
        (WALK, [[0], [0, 1]], "action is no array"),
        (WALK, None, r"action has shape \(\)"),
        (WHOLE, [0.5, 0], "action is float64, which the space's int8 cannot hold"),
        (WHOLE, [300, 0], "action is int64, which the space's int8 cannot hold"),
        (spaces.Discrete(3), 3, r"action is 3, which is not a member of Discrete\(3\)"),
        (spaces.Discrete(3), 1.0, "action is 1.0: float64, which the space's int64 cannot hold"),
        (spaces.MultiBinary(2), [0, 2], r"action\[1\] is 2, which is not a member"),
        (spaces.Text(3), 3, "action must be a text, not 3"),
        (spaces.Text(3), "abcd", "action has 4 characters; 1 to 3 were expected"),
        (spaces.Text(3, charset="ab"), "abc", r"action\[2\] is 'c', which is not in the space's charset"),
        (spaces.Text(3), 10**5000, "action must be a text, not an integer of 16610 bits"),
        (spaces.Discrete(3), 10**5000, "action is an integer of 16610 bits: object"),
        (spaces.Dict(a=WALK), {"a": [0, 0], "b": 0}, r"action must be .* keys \['a'\]; it is with 'b'"),
        (spaces.Dict(a=WALK), {"b": 0}, r"action must be a dict with the keys \['a'\]; it is without 'a'"),
        (spaces.Dict(a=spaces.Tuple([WALK])), {"a": ([0],)}, r"action\['a'\]\[0\] has shape \(1,\)"),
        (spaces.Tuple([WALK]), ([0, 0], 1), "action must be a tuple of 1, not of 2"),
        (CHOICE, (2, 0), r"action\[0\] must name one of 2 spaces"),
        (CHOICE, (1.0, 0), r"action\[0\] must name one of 2 spaces, not 1.0"),
        (CHOICE, (True, 0), r"action\[0\] must name one of 2 spaces, not True"),
        (CHOICE, (1, 7), r"action\[1\] is 7"),
        (spaces.Sequence(WALK), 3, "action must be a tuple, not 3"),
        (spaces.Sequence(WALK), ([0, 0], 1), r"action\[1\] has shape \(\)"),
        (spaces.Sequence(WALK, stack=True), 3, "action is no batch of Box"),
        (spaces.Sequence(spaces.Dict(a=WALK), stack=True), {"b": [[0, 0]]}, "action is no batch of Dict"),
        (GRAPH, (NODES, None, None), "action must be a graph, not a tuple of 3"),
        (GRAPH, spaces.GraphInstance(None, None, None), "action.nodes is no batch"),
        (GRAPH, spaces.GraphInstance(NODES, [1], None), "both or neither"),
        (GRAPH, spaces.GraphInstance(NODES, [7], LINKS), r"action.edges\[0\] is 7"),
        (
            GRAPH,
            spaces.GraphInstance(NODES, [1, 1], LINKS),
            r"edge_links has shape \(1, 2\); \(2, 2\) was expected",
        ),
        (GRAPH, spaces.GraphInstance(NODES, [1], LINKS + 1), "must lead from one of 2 nodes"),
        (spaces.Graph(WALK, None), spaces.GraphInstance(NODES, [1], LINKS), "both or neither"),
    ],
    ids=range(33),
)
def test_what_is_no_member_is_refused_by_the_name_of_its_part(space: Any, value: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        member(space, value, "action")


def test_none_at_all_can_be_stacked() -> None:
    assert stacked(WALK, ()).shape == (0, 2)
    assert stacked(spaces.Text(3), ()) == ()
