from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import example, given
from hypothesis import strategies as st

from multiserverrl.errors import ActionError
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.trees import pack_tree, unpack_tree
from tests.wire.strategies import (
    ANY_SPACES,
    FIXED_SPACES,
    TREES,
    discretes,
    is_equal_value,
    space_and_values,
)

WALK = spaces.Box(-1, 1, (2,))
ARM = spaces.Dict([("grip", spaces.Discrete(2)), ("joints", spaces.Tuple([WALK, spaces.MultiBinary(3)]))])


@given(space_and_values(FIXED_SPACES, 3))
def test_members_are_packed_accepted_and_read_as_they_were(drawn: tuple[Any, list[Any]]) -> None:
    space, actions = drawn
    codec = ActionCodec(space, 3)
    body = codec.pack(concatenate(space, actions, create_empty_array(space, 3)))
    codec.check(body)
    assert codec.layout is not None
    assert len(body) == codec.size_bytes
    assert is_equal_value(codec.layout.rows(bytearray(body)), actions)


@given(space_and_values(FIXED_SPACES, 1))
def test_one_action_is_packed_as_a_batch_of_one(drawn: tuple[Any, list[Any]]) -> None:
    space, (action,) = drawn
    codec = ActionCodec(space, 1)
    assert codec.pack_one(action) == codec.pack(concatenate(space, [action], create_empty_array(space, 1)))


@given(space_and_values(discretes(), 1))
def test_a_python_int_is_packed_as_its_numpy_twin(drawn: tuple[Any, list[Any]]) -> None:
    space, (action,) = drawn
    codec = ActionCodec(space, 1)
    assert codec.pack_one(int(action)) == codec.pack_one(action)


def is_box(space: Any) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return any(map(is_box, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    return isinstance(space, spaces.Box)


@given(FIXED_SPACES.filter(lambda space: not is_box(space)), st.data())
@example(spaces.MultiDiscrete([3], start=[-1]), None)
@example(spaces.MultiDiscrete(np.array([100], np.int8), dtype=np.int8, start=np.array([100], np.int8)), None)
def test_what_passes_the_door_is_a_member(space: Any, data: Any) -> None:
    codec = ActionCodec(space, 2)
    assert codec.layout is not None
    extreme = b"\xff" * (codec.size_bytes - 1) + b"\x7f"  # the largest of int64, and around
    body = data.draw(st.binary(min_size=codec.size_bytes, max_size=codec.size_bytes)) if data else extreme
    try:
        codec.check(body)
    except ActionError:
        return
    assert all(space.contains(row) for row in codec.layout.rows(body))


@given(FIXED_SPACES, st.binary(max_size=100))
def test_a_body_of_the_wrong_length_is_refused(space: Any, body: bytes) -> None:
    codec = ActionCodec(space, 2)
    if len(body) != codec.size_bytes:
        with pytest.raises(ActionError, match=f"{len(body)} bytes; {codec.size_bytes} were expected"):
            codec.check(body)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(3), [0, 1, 2], r"action has shape \(3,\); \(2,\) was expected"),
        (spaces.Discrete(3), [0.0, 1.0], "action is float64; a cast to the space's int64 would lose its kind"),
        (spaces.Discrete(3), ["0", "1"], "action is <U1"),
        (spaces.Discrete(3), [None, 1], "action is object"),
        (spaces.Discrete(3), np.array([2**64 - 1, 1], np.uint64), "action is uint64; .* would lose the numbers in it"),
        (spaces.Discrete(9, dtype=np.int8), [300, 1], "would lose the numbers in it"),
        (WALK, [[0, 0], [0]], "action is no array"),
        (WALK, np.zeros((2, 3)), r"action has shape \(2, 3\); \(2, 2\) was expected, .* 2 env"),
        (WALK, np.zeros((2, 2), complex), "action is complex128"),
        (spaces.Box(0, 1, (), bool), [2, 0], "action is int64"),
        (ARM, [0, 1], r"action must be a dict with the keys \['grip', 'joints'\]; it is a list of 2"),
        (ARM, {"grip": [0, 1]}, "it is without 'joints'"),
        (ARM, {"grip": [0, 1], "joints": ([[0, 0]] * 2,)}, r"action\['joints'\] must be a tuple of 2, not of 1"),
        (ARM, {"grip": [0], "joints": ([[0, 0]] * 2, [[0, 0, 0]] * 2)}, r"action\['grip'\] has shape \(1,\)"),
        (ARM, {"grip": [0, 1], "joints": ([[0, 0]] * 2, [[0.0, 0, 0]] * 2)}, r"action\['joints'\]\[1\] is float64"),
    ],
    ids=range(15),
)
def test_a_wrong_shape_or_kind_is_refused_by_its_name_before_it_is_sent(space: Any, actions: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        ActionCodec(space, 2).pack(actions)


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 3, "action is 3, which is not a member of Discrete"),
        (spaces.Discrete(3, start=-1), -2, "action is -2"),
        (spaces.Discrete(3), 2**80, "not a member"),
        (spaces.Discrete(3), 1.0, "action is float64"),
        (spaces.Discrete(3), None, "action is object"),
        (spaces.Discrete(3), [1, [2]], "action is no array"),
        (WALK, [0.0], r"action has shape \(1,\); \(2,\) was expected"),
        (ARM, {"grip": 0, "joints": ([0, 0], [0, 0, 0], 7)}, r"action\['joints'\] must be a tuple of 2, not of 3"),
        (ARM, {"grip": 0, "joints": ([0, [0]], [0, 0, 0])}, "action is no array"),
        (ARM, {"grip": 0, "joints": 5}, r"action\['joints'\] must be a tuple of 2, not 5"),
        (ARM, {"grip": 0, "joints": ([0, 0], [0, 0, 0]), "leg": 0}, "must be a dict with the keys"),
        (ARM, 3, "must be a dict"),
    ],
    ids=range(12),
)
def test_one_wrong_action_is_refused_by_its_name(space: Any, action: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        ActionCodec(space, 1).pack_one(action)


def packed(dtype: Any, *numbers: float) -> bytes:
    return np.array(numbers, dtype).tobytes()


@pytest.mark.parametrize(
    ("space", "body", "message"),
    [
        (spaces.Discrete(3), packed("i8", 1, 3), r"env 1: action is 3, which is not a member of Discrete\(3\)"),
        (spaces.Discrete(3, start=5), packed("i8", 4, 5), "env 0: action is 4"),
        (spaces.MultiDiscrete([2, 3]), packed("i8", 1, 2, 2, 0), r"env 1: action\[0\] is 2"),
        (spaces.MultiDiscrete([2, 3], start=[-1, 0]), packed("i8", -1, 0, 2**63 - 1, 0), r"env 1: action\[0\] is 9"),
        (spaces.MultiBinary(2), packed("i1", 1, 0, 0, 2), r"env 1: action\[1\] is 2"),
        (spaces.MultiBinary(2), packed("i1", 1, -1, 0, 0), r"env 0: action\[1\] is -1"),
        (spaces.Box(0, 1, (1,), bool), b"\x01\x02", r"env 1: action\[0\] is 2"),
        (WALK, packed("f4", 0, 0, 0, np.nan), r"env 1: action\[1\] is NaN"),
        (spaces.Dict(a=spaces.Tuple([WALK])), packed("f4", 0, np.nan, 0, 0), r"env 0: action\['a'\]\[0\]\[1\] is NaN"),
        (spaces.Dict(a=spaces.Discrete(2)), packed("i8", 0, 2), r"env 1: action\['a'\] is 2"),
    ],
    ids=range(10),
)
def test_what_is_no_member_is_refused_at_the_door_by_its_name_and_env(space: Any, body: bytes, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        ActionCodec(space, 2).check(body)


@pytest.mark.parametrize("value", [2.0, -1e30, np.inf, -np.inf])
def test_beyond_the_bounds_of_a_box_actions_pass(value: float) -> None:
    codec = ActionCodec(WALK, 1)
    codec.check(codec.pack([[value, 0.0]]))


def test_a_double_beyond_the_floats_of_a_box_passes_as_infinite() -> None:
    assert ActionCodec(WALK, 1).pack_one([1e300, 0.0]) == packed("f4", np.inf, 0)


@given(space_and_values(ANY_SPACES, 2))
def test_members_without_a_fixed_size_pass_as_a_list(drawn: tuple[Any, list[Any]]) -> None:
    space, actions = drawn
    arrived = unpack_tree(pack_tree(actions))
    assert is_equal_value(ActionCodec(space, 2).check_tree(arrived), actions)


@given(ANY_SPACES, TREES)
def test_any_tree_is_actions_or_refused(space: Any, tree: Any) -> None:
    codec = ActionCodec(space, 1)
    try:
        accepted = codec.check_tree([tree])
    except ActionError:
        return
    assert is_equal_value(codec.check_tree(unpack_tree(pack_tree(accepted))), accepted)


@pytest.mark.parametrize("tree", [None, "ab", {0: "a", 1: "b"}, ["a"], ["a", "b", "c"]], ids=repr)
def test_anything_but_one_action_an_env_is_refused(tree: Any) -> None:
    with pytest.raises(ActionError, match="a list of 2 actions was expected"):
        ActionCodec(spaces.Text(3), 2).check_tree(tree)


def test_an_action_without_a_fixed_size_is_refused_by_its_index() -> None:
    with pytest.raises(ActionError, match="env 1: action has 12 characters; 1 to 3 were expected"):
        ActionCodec(spaces.Text(3), 2).check_tree(["ok", "way too long"])


def test_the_only_env_of_a_session_needs_no_number() -> None:
    with pytest.raises(ActionError, match=r"^action is 3"):
        ActionCodec(spaces.Discrete(3), 1).check(packed("i8", 3))


def test_a_lane_names_its_envs_by_their_place_among_all() -> None:
    codec = ActionCodec(spaces.Discrete(3), 1)
    codec.first_row = 5
    with pytest.raises(ActionError, match=r"^env 5: action is 3"):
        codec.check(packed("i8", 3))
