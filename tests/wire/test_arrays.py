from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.arrays import BatchLayout, StepLayout, is_castable, is_fixed, leaves_of
from tests.wire.strategies import ANY_SPACES, FIXED_SPACES, FLOAT_DTYPES, INT_DTYPES, is_equal_value, space_and_values

NESTED = spaces.Dict({"camera": spaces.Box(0, 255, (2, 2), np.uint8), "arm": spaces.Tuple([spaces.Discrete(3)])})


@given(space_and_values(FIXED_SPACES, 3), st.integers(0, 9))
@example((spaces.Tuple([]), [()] * 3), 0)
@example((spaces.Dict([("empty", spaces.Box(0, 1, (0, 2)))]), [{"empty": np.zeros((0, 2), np.float32)}] * 3), 0)
def test_every_value_is_read_as_it_was_written(drawn: tuple[Any, list[Any]], offset: int) -> None:
    space, values = drawn
    layout = BatchLayout(space, 3, offset)
    buffer = bytearray(layout.end)
    write = layout.row_writer(buffer, "obs")
    for index in (2, 0, 1):
        write(index, values[index])
    assert is_equal_value([layout.row(buffer, index) for index in range(3)], values)
    assert is_equal_value(layout.rows(buffer), values)


@given(space_and_values(FIXED_SPACES, 2))
def test_a_batch_is_what_gymnasium_makes_of_the_values(drawn: tuple[Any, list[Any]]) -> None:
    space, values = drawn
    layout = BatchLayout(space, 2)
    buffer = bytearray(layout.end)
    write = layout.row_writer(buffer, "obs")
    for index, value in enumerate(values):
        write(index, value)
    assert is_equal_value(layout.batch(buffer), concatenate(space, values, create_empty_array(space, 2)))


@given(FIXED_SPACES, st.integers(1, 5))
def test_the_parts_of_an_answer_are_aligned_and_nowhere_overlap(space: Any, num: int) -> None:
    layout = StepLayout(space, num)
    body = bytearray(layout.size_bytes)
    parts = [layout.rewards(body), *layout.arrays(body), layout.terminated(body), layout.truncated(body)]
    assert all(offset % 8 == 0 for offset in layout.offsets)
    assert layout.size_bytes % 8 == 0
    for part in parts:
        part.view(np.uint8)[...] = np.frombuffer(body, np.uint8)[0] * 0 + 1 if part.size else 0
    assert sum(body) == sum(part.nbytes for part in parts)


@given(ANY_SPACES)
def test_a_space_is_of_fixed_size_exactly_when_it_has_leaves(space: Any) -> None:
    if is_fixed(space):
        leaves_of(space)
    else:
        with pytest.raises(SpaceError, match="no fixed size"):
            leaves_of(space)


@pytest.mark.parametrize("space", [spaces.Box(0, 1, ()), spaces.Tuple([spaces.Box(0, 1, ()), spaces.Discrete(2)])])
def test_a_box_without_axes_is_read_as_an_array_and_a_discrete_as_a_scalar(space: Any) -> None:
    layout = BatchLayout(space, 2)
    buffer = bytearray(layout.end)
    for row in [layout.row(buffer, 1), layout.rows(buffer)[1]]:
        box, *discrete = row if isinstance(row, tuple) else (row,)
        assert type(box) is np.ndarray
        assert [type(value) for value in discrete] == [np.int64] * len(discrete)
        assert space.contains(row)


def test_a_space_without_a_fixed_size_leaves_rewards_and_ends_in_the_body() -> None:
    layout = StepLayout(spaces.Text(5), 3)
    assert not layout.is_fixed
    assert layout.size_bytes == 3 * 8 + 8
    assert layout.batch(bytes(layout.size_bytes)) == ()


def test_the_bytes_of_an_answer_are_as_the_protocol_says() -> None:
    layout = StepLayout(spaces.Dict([("b", spaces.Box(0, 9, (3,), np.uint8)), ("a", spaces.Discrete(3))]), 1)
    body = bytearray(layout.size_bytes)
    layout.rewards(body)[0] = 1.0
    layout.row_writer(body, "obs")(0, {"b": np.array([1, 2, 3], np.uint8), "a": 2})
    layout.truncated(body)[0] = True
    reward, b, a, ends = "000000000000f03f", "0102030000000000", "0200000000000000", "0001000000000000"
    assert body.hex() == reward + b + a + ends


def test_numbers_of_a_big_endian_space_travel_little_endian() -> None:
    space = spaces.Box(-1, 1, (1,), ">f4")
    layout = BatchLayout(space, 1)
    buffer = bytearray(layout.end)
    layout.row_writer(buffer, "obs")(0, np.array([0.5], ">f4"))
    assert buffer == np.array([0.5], "<f4").tobytes()


def test_rows_are_views_so_that_a_reply_is_sent_as_it_lies() -> None:
    layout = BatchLayout(spaces.Box(0, 1, (2,)), 2)
    buffer = bytearray(layout.end)
    layout.batch(buffer)[1] = [0.25, 0.5]
    assert layout.row(buffer, 1).tolist() == [0.25, 0.5]


@pytest.mark.parametrize("size", [0, 31, 33, 40])
def test_a_body_of_the_wrong_length_is_refused(size: int) -> None:
    layout = StepLayout(spaces.Box(0, 1, (3,)), 1)
    layout.check(32)
    with pytest.raises(WireError, match=f"32 bytes was expected for 1 envs, not {size}"):
        layout.check(size)


CAMERA = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"camera": CAMERA}, r"obs must be a dict with the keys \['arm', 'camera'\]; it is without 'arm'"),
        ({"camera": CAMERA, "arm": (1,), "leg": 2}, "obs must be a dict with the keys"),
        ([CAMERA, (1,)], "obs must be a dict .*; it is a list of 2"),
        ({"camera": CAMERA, "arm": (1, 2)}, r"obs\['arm'\] must be a tuple of 1, not of 2"),
        ({"camera": CAMERA, "arm": 1}, r"obs\['arm'\] must be a tuple of 1, not 1"),
        ({"camera": CAMERA[0], "arm": (1,)}, r"obs\['camera'\] is uint8\[2\], the space says uint8\[2, 2\]"),
        (
            {"camera": CAMERA.astype(np.float32), "arm": (1,)},
            r"obs\['camera'\] is float32\[2, 2\], the space says uint8",
        ),
        ({"camera": CAMERA.astype(int) + 256, "arm": (1,)}, r"obs\['camera'\] is int64\[2, 2\], the space says uint8"),
        ({"camera": [[1], [2, 3]], "arm": (1,)}, r"obs\['camera'\] is no array"),
        ({"camera": CAMERA, "arm": (None,)}, r"obs\['arm'\]\[0\] is object\[\], the space says int64\[\]"),
        ({"camera": CAMERA, "arm": ("1",)}, r"obs\['arm'\]\[0\] is <U1"),
        ({"camera": CAMERA, "arm": (2**70,)}, r"obs\['arm'\]\[0\] is object"),
    ],
    ids=range(12),
)
def test_a_value_that_its_space_says_otherwise_of_is_refused_by_its_path(value: Any, message: str) -> None:
    layout = BatchLayout(NESTED, 1)
    with pytest.raises(SpaceError, match=message):
        layout.row_writer(bytearray(layout.end), "obs")(0, value)


@pytest.mark.parametrize("value", [[[0, 255], [1, 2]], CAMERA.astype(np.int64), CAMERA.astype(bool)], ids=range(3))
def test_whole_numbers_that_fit_may_come_in_any_kind(value: Any) -> None:
    layout = BatchLayout(NESTED["camera"], 1)
    buffer = bytearray(layout.end)
    layout.row_writer(buffer, "obs")(0, value)
    assert layout.row(buffer, 0).tolist() == np.asarray(value).tolist()


def test_reals_may_come_in_another_precision() -> None:
    layout = BatchLayout(spaces.Box(0, 1, (2,)), 1)
    buffer = bytearray(layout.end)
    layout.row_writer(buffer, "obs")(0, np.array([0.1, 1.0], np.float64))
    assert layout.row(buffer, 0).tolist() == np.array([0.1, 1.0], np.float32).tolist()


@given(st.sampled_from([np.bool_, *INT_DTYPES]).flatmap(lambda d: npst.arrays(d, 2)), st.sampled_from(INT_DTYPES))
def test_a_cast_that_is_allowed_keeps_every_whole_number(array: Any, dtype: Any) -> None:
    fits = [int(number) for number in array] == [int(number) for number in array.astype(dtype)]
    assert is_castable(array, np.dtype(dtype)) == fits


@given(st.sampled_from(FLOAT_DTYPES).flatmap(lambda d: npst.arrays(d, 2)), st.sampled_from([np.bool_, *INT_DTYPES]))
def test_reals_are_never_cast_to_whole_numbers(array: Any, dtype: Any) -> None:
    assert not is_castable(array, np.dtype(dtype))
