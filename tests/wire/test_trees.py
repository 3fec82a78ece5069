from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire.trees import carriable, pack_tree, unpack_tree
from tests.wire.strategies import TREES, corrupted, is_same

Ext = msgspec.msgpack.Ext
encode = msgspec.msgpack.encode


@given(TREES)
@example((1, [2, (3,)], {"a": (), (1, "b"): [None]}))
@example({np.int64(1): "numpy key", 2**70: "large key"})
@example([float("nan"), float("inf"), -float("inf"), -0.0])
@example([np.str_(""), np.bytes_(b""), np.array(["", ""])])
@example([10**5000, -(10**5000), 2**63, -(2**63), 2**64])
@example(np.zeros((0, 3), np.float32))
@example(np.asfortranarray(np.arange(6).reshape(2, 3)))
@example(np.array([np.array(5), [1]], dtype=object))
def test_what_arrives_equals_what_was_sent(tree: Any) -> None:
    assert is_same(unpack_tree(pack_tree(tree)), tree)


def test_a_tuple_stays_a_tuple_and_a_list_a_list() -> None:
    tree = unpack_tree(pack_tree({"tuple": (1, 2), "list": [1, 2]}))
    assert type(tree["tuple"]) is tuple
    assert type(tree["list"]) is list


def test_arrays_arrive_writable_and_apart_from_the_message() -> None:
    content = bytearray(pack_tree(np.zeros(3)))
    array = unpack_tree(content)
    content[:] = bytes(len(content))
    array[0] = 7.0
    assert array.tolist() == [7.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("tree", "path", "kind"),
    [
        (object(), "the value", "builtins.object"),
        ({"a": [0, {1, 2}]}, "['a'][1]", "builtins.set"),
        ({"camera": (Path("x"),)}, "['camera'][0]", "Path"),
        ({(1, object()): 2}, " key[1]", "builtins.object"),
        (np.zeros(2, [("x", "f4")]), "the value", "array"),
        ([lambda: None], "[0]", "function"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_its_path_and_type(tree: Any, path: str, kind: str) -> None:
    with pytest.raises(SpaceError) as refusal:
        pack_tree(tree)
    assert str(refusal.value).startswith(path)
    assert kind in str(refusal.value)


@pytest.mark.parametrize("tree", ["\ud800", {"\udfff": 1}, ("a", ["\ud800"])], ids=ascii)
def test_text_that_is_not_unicode_is_refused(tree: Any) -> None:
    with pytest.raises(SpaceError, match="Unicode"):
        pack_tree(tree)


def test_a_tree_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SpaceError, match="nested more than"):
        pack_tree(loop)


def test_the_part_of_an_info_that_can_be_carried_is_kept_and_the_rest_named() -> None:
    kept, dropped = carriable({"lives": 3, "engine": object(), "text": "\ud800"})
    assert kept == {"lives": 3}
    assert dropped == ["engine (builtins.object)", "text (builtins.str)"]


@given(st.one_of(st.binary(max_size=60), corrupted(TREES.map(pack_tree))))
def test_any_bytes_are_a_tree_or_a_wire_error(content: bytes) -> None:
    try:
        tree = unpack_tree(content)
    except WireError:
        return
    repr(tree)  # and a tree can be looked at


def array_of(dtype: str, shape: tuple[int, ...], content: bytes, code: int = 1) -> bytes:
    return encode(Ext(code, encode([dtype, shape, content])))


LIES = {
    "a huge array": array_of("<f8", (2**31, 2**31), b""),
    "an array with a byte too few": array_of("<f8", (2,), bytes(15)),
    "an array with a byte too many": array_of("<f8", (2,), bytes(17)),
    "a negative side": array_of("<f8", (-1, -1), bytes(8)),
    "a million sides": array_of("|u1", (2**60,) * 100_000, b""),
    "a huge empty array": array_of("|u1", (2**62, 2**62, 0), b""),
    "items of no size": array_of("<U0", (2**40,), b""),
    "items of a huge size": array_of("<U999999999", (2,), b""),
    "a scalar with a side": array_of("<f8", (1,), bytes(8), code=2),
    "objects": array_of("|O", (1,), bytes(8)),
    "a structure": array_of("f4,f4", (1,), bytes(8)),
    "no dtype": array_of("nonsense", (1,), bytes(8)),
    "a bool of two": array_of("|b1", (1,), b"\x02"),
    "text beyond Unicode": array_of("<U1", (1,), b"\xff\xff\xff\x7f"),
    "an object array with too few items": encode(Ext(5, encode([(2**40,), [1]]))),
    "a huge list": b"\xdd\xff\xff\xff\xff",
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge text": b"\xdb\xff\xff\xff\xff",
    "a huge extension": b"\xc9\xff\xff\xff\xff\x01",
    "text that is not UTF-8": b"\xa1\xff",
    "deep lists": b"\x91" * 100_000 + b"\x01",
    "a list as a key": encode(Ext(7, encode([([], 1)]))),
    "a graph of two": encode(Ext(6, encode([1, 2]))),
    "a tuple of no list": encode(Ext(3, encode(1))),
    "an unknown extension": encode(Ext(99, b"")),
    "two values": encode(1) + encode(2),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_nothing_is_allocated_for_it(lie: str) -> None:
    content = LIES[lie]
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            unpack_tree(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 50 * len(content)
    finally:
        tracemalloc.stop()


def test_deeply_nested_tuples_are_refused() -> None:
    content = encode([])
    for _ in range(3000):
        content = encode(Ext(3, encode([msgspec.Raw(content)])))
    with pytest.raises(WireError, match="recursion"):
        unpack_tree(content)


@pytest.mark.parametrize("length", [0, 64, 255, 256, 4096, 1 << 16])
def test_a_mask_of_any_length_is_the_readers_own_and_other_bytes_than_0_and_1_are_refused(length: int) -> None:
    mask = np.arange(length) % 2 == 1
    content = pack_tree({"_lives": mask})
    read = unpack_tree(content)["_lives"]
    assert np.array_equal(read, mask) and read.dtype == np.bool_
    if length:
        read[:] = True
        assert unpack_tree(content)["_lives"][0] == np.False_
        with pytest.raises(WireError, match="neither 0 nor 1"):
            unpack_tree(content[:-1] + b"\2")
