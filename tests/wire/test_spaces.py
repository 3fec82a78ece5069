from __future__ import annotations

import copy
import json
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given
from hypothesis import strategies as st

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.spaces import describe_space, json_number, number_from_json, restore_space
from tests.wire.strategies import ANY_SPACES, extreme_boxes


def is_same_space(one: Any, other: Any) -> bool:
    """Stricter than Gymnasium's ==: dtypes, exact bounds, where there are none, the order of keys."""
    if type(one) is not type(other) or one != other or one.dtype != other.dtype:
        return False
    if isinstance(one, spaces.Box):
        names = ("low", "high", "bounded_below", "bounded_above")
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, spaces.Dict):
        return list(one) == list(other) and all(map(is_same_space, one.values(), other.values()))
    if isinstance(one, (spaces.Tuple, spaces.OneOf)):
        return all(map(is_same_space, one.spaces, other.spaces))
    if isinstance(one, spaces.Sequence):
        return is_same_space(one.feature_space, other.feature_space)
    if isinstance(one, spaces.Text):
        return bool(one.character_list == other.character_list)
    return True


@given(st.one_of(ANY_SPACES, extreme_boxes()))
@example(spaces.Box(-np.inf, np.inf, (2,), np.int64))
@example(spaces.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), dtype=np.int8))
@example(spaces.Box(0, 2**64 - 1, (), np.uint64))
@example(spaces.MultiBinary(3))
@example(spaces.MultiBinary([3]))
@example(spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3, start=-(2**62)))]))
@example(spaces.Sequence(spaces.Dict({"a": spaces.Text(3, charset="ba")}), stack=True))
@example(spaces.Graph(spaces.Box(0, 1, (2,)), None))
@example(spaces.Tuple([]))
def test_a_space_comes_back_as_it_was_over_json(space: Any) -> None:
    sent = json.loads(json.dumps(describe_space(space), allow_nan=False))
    assert is_same_space(restore_space(sent), space)


@given(ANY_SPACES)
def test_a_description_travels_in_a_frame_as_in_json(space: Any) -> None:
    description = describe_space(space)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(description)) == description


@given(ANY_SPACES, st.integers(0, 2**16))
def test_a_space_that_came_back_draws_the_same_members(space: Any, seed: int) -> None:
    restored = restore_space(describe_space(space))
    space.seed(seed)
    restored.seed(seed)
    assert str(space.sample()) == str(restored.sample())


def test_a_space_of_big_endian_numbers_comes_back_little_endian() -> None:
    restored = restore_space(describe_space(spaces.Box(-1, 1, (2,), ">f4")))
    assert restored == spaces.Box(-1, 1, (2,), np.float32)


class Custom(spaces.Space[Any]):
    """A space that only its own program knows."""


class Grid(spaces.Box):
    """A subclass may mean anything."""


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (Custom(), r"^obs is a .*Custom, which cannot be carried"),
        (Grid(0, 1, (2,)), r"^obs is a .*Grid, which"),
        (spaces.Dict({"map": spaces.Tuple([spaces.Discrete(2), Custom()])}), r"^obs\['map'\]\[1\] is a .*Custom"),
        (spaces.Sequence(Custom()), r"^obs item is a .*Custom"),
        (spaces.OneOf([Custom()]), r"^obs\[0\] is a .*Custom"),
        (spaces.Dict({7: spaces.Discrete(2)}), r"^obs has the key 7"),
        (spaces.Dict({"\ud800": spaces.Discrete(2)}), r"^a key of obs is not Unicode"),
        (spaces.Text(3, charset="a\ud800"), r"^the charset of obs is not Unicode"),
        (spaces.Box(-1, 1, (2,), np.longdouble), r"^obs is a Box of "),
    ],
    ids=range(9),
)
def test_what_cannot_be_carried_is_refused_by_its_path(space: Any, named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        describe_space(space, "obs")


@pytest.fixture
def little_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiserverrl.wire.spaces._MAX_BYTES", 100)


@pytest.mark.usefixtures("little_is_believed")
def test_a_space_that_is_too_large_is_refused_by_both_sides() -> None:
    assert restore_space(describe_space(spaces.Box(0, 1, (25,)))).shape == (25,)
    with pytest.raises(SpaceError, match="obs is a Box of 104 bytes"):
        describe_space(spaces.Box(0, 1, (26,)), "obs")
    with pytest.raises(WireError, match="not believed"):
        restore_space(box(shape=[26]))


@pytest.mark.usefixtures("little_is_believed")
def test_all_parts_of_a_space_together_are_believed_only_so_much() -> None:
    parts = [box(shape=[12]), {"type": "Dict", "spaces": [["a", box(shape=[12])]]}]
    assert len(restore_space({"type": "Tuple", "spaces": parts})) == 2
    with pytest.raises(WireError, match="not believed"):
        restore_space({"type": "Tuple", "spaces": [*parts, box(shape=[2])]})


def nested(levels: int) -> Any:
    space: Any = spaces.Discrete(2)
    for _ in range(levels):
        space = spaces.Tuple([space])
    return space


def test_both_sides_know_the_same_depth() -> None:
    assert restore_space(describe_space(nested(32))) == nested(32)
    with pytest.raises(SpaceError, match="nested more than 32 deep"):
        describe_space(nested(33))


def box(**changes: Any) -> dict[str, Any]:
    return {"type": "Box", "dtype": "float32", "shape": [2], "low": 0, "high": 1, **changes}


def deep(levels: int) -> Any:
    description: Any = {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}
    for _ in range(levels):
        description = {"type": "Tuple", "spaces": [description]}
    return description


LIES: dict[str, Any] = {
    "no object": ["Box"],
    "no type": {},
    "an unknown type": {"type": "Custom"},
    "a type that is a list": {"type": ["Box"]},
    "a huge shape": box(shape=[2**20, 2**20]),
    "a huge shape with an empty side": box(shape=[0, 2**70]),
    "a negative side": box(shape=[-1, -1]),
    "a huge MultiBinary": {"type": "MultiBinary", "n": [2**20, 2**20]},
    "a huge flat MultiBinary": {"type": "MultiBinary", "n": 2**60},
    "an empty MultiBinary": {"type": "MultiBinary", "n": 0},
    "deep nesting": deep(200),
    "a bound too few": box(low=[0]),
    "a low above the high": box(low=2),
    "no number": box(low="low"),
    "NaN": box(low="NaN"),
    "whole numbers that are none": box(dtype="int8", low="NaN"),
    "whole numbers beyond their kind": box(dtype="int8", high=300),
    "numbers of no end": box(high="9" * 5000),
    "a structure": box(dtype="f4,f4"),
    "an object": box(dtype="object"),
    "no dtype": box(dtype=None),
    "a dtype that is a list": box(dtype=[["a", "f4"]]),
    "complex numbers": box(dtype="complex64"),
    "a Discrete of reals": {"type": "Discrete", "n": 3, "start": 0, "dtype": "float32"},
    "a Discrete of none": {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
    "an infinite Discrete": {"type": "Discrete", "n": "Infinity", "start": 0, "dtype": "int64"},
    "a MultiDiscrete of zero": {"type": "MultiDiscrete", "shape": [1], "nvec": [0], "start": [0], "dtype": "int64"},
    "a Text of less than nothing": {"type": "Text", "min_length": 3, "max_length": 1, "charset": "a"},
    "a Dict that is a number": {"type": "Dict", "spaces": 3},
    "a Dict of singles": {"type": "Dict", "spaces": [["a"]]},
    "an empty OneOf": {"type": "OneOf", "spaces": []},
    "a Graph without nodes": {"type": "Graph", "edges": None},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_nothing_is_allocated_for_it(lie: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            restore_space(LIES[lie])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["Infinity"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every part of plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *_places(inner)]]


@given(ANY_SPACES, st.data())
def test_any_description_is_a_space_or_a_wire_error(space: Any, data: st.DataObject) -> None:
    description = copy.deepcopy(describe_space(space))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(_places(description)))
        container[key] = data.draw(JUNK)
    try:
        restored = restore_space(description)
    except WireError:
        return
    repr(restored)


@given(st.one_of(st.integers(), st.floats(), st.booleans()))
def test_a_number_comes_back_from_json_as_it_was(number: float) -> None:
    back = number_from_json(json.loads(json.dumps(json_number(number), allow_nan=False)))
    assert type(back) is type(number)
    assert back == number or (back != back and number != number)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (float("nan"), "NaN"),
        (-np.float32(np.inf), "-Infinity"),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.True_, True),
    ],
)
def test_json_says_exactly_what_it_could_not(number: Any, said: Any) -> None:
    assert json_number(number) == said
    assert type(json_number(number)) is type(said)


@pytest.mark.parametrize("value", ["", "1.5", "nan", "one", None, [], {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(WireError, match="number"):
        number_from_json(value)
