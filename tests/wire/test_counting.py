from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given

from multiserverrl.errors import SpaceError, WireError
from multiserverrl.wire import counting, frames
from multiserverrl.wire.counting import FREE_BYTES, MOST_VALUES, check_count
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Stepped
from multiserverrl.wire.trees import pack_tree, unpack_rows, unpack_tree
from tests.wire.strategies import TREES

Ext = msgspec.msgpack.Ext
encode = msgspec.msgpack.encode


def values_in(tree: Any) -> int:
    """How many there are, by hand; an array counts as seven."""
    if isinstance(tree, np.ndarray) and tree.dtype.kind == "O":
        return 1 + 1 + 2 + len(tree.shape) + sum(map(values_in, tree.ravel()))  # with the record and its shape
    if isinstance(tree, (np.ndarray, np.generic)) or (type(tree) is int and not -(2**63) <= tree < 2**64):
        return 7
    if isinstance(tree, tuple):
        return 1 + 1 + 1 + sum(map(values_in, tree))
    if isinstance(tree, list):
        return 1 + sum(map(values_in, tree))
    if isinstance(tree, dict):
        return 1 + sum(values_in(key) + values_in(item) for key, item in tree.items())
    return 1


@given(TREES)
def test_no_value_is_missed_and_few_are_counted_twice(tree: Any) -> None:
    counted = counting._count(pack_tree(tree), MOST_VALUES)
    assert values_in(tree) <= counted <= 3 * values_in(tree) + 8


MANY = FREE_BYTES + 10
BOMBS = {
    "empty lists": b"\xdd" + MANY.to_bytes(4, "big") + b"\x90" * MANY,
    "empty maps": b"\xdd" + MANY.to_bytes(4, "big") + b"\x80" * MANY,
    "tuples": encode(Ext(3, b"\xdd" + MANY.to_bytes(4, "big") + encode(Ext(3, b"\x90")) * MANY)),
    "arrays": b"\xdd" + (MANY // 5).to_bytes(4, "big") + encode(Ext(1, encode(["|u1", [0], b""]))) * (MANY // 5),
    "pairs": encode(Ext(7, b"\xdd" + MANY.to_bytes(4, "big") + b"\x92\x01\x02" * MANY)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_byte_that_would_become_an_object_is_refused_before_it_does(bomb: str) -> None:
    with pytest.raises(WireError, match="at most 1048576 values"):
        unpack_tree(BOMBS[bomb])


def test_the_parts_of_a_message_are_counted_together() -> None:
    part = encode({0: [[]] * (FREE_BYTES - 20)})
    assert unpack_rows([part]).keys() == {0}
    with pytest.raises(WireError, match="at most"):
        unpack_rows([part, part])


def test_a_header_of_many_values_is_refused() -> None:
    header = encode(["open", PROTOCOL_VERSION, None, 1, "", None, [1] * MANY])
    frame = frames.encode(Open(PROTOCOL_VERSION))[:4] + len(header).to_bytes(4, "little") + header
    with pytest.raises(WireError, match="at most"):
        frames.decode_request(frame)


def test_large_arrays_and_texts_are_few_values() -> None:
    tree = {"image": np.zeros((1 << 21,), np.uint8), "text": "x" * (1 << 21), "raw": bytes(1 << 21)}
    assert unpack_tree(pack_tree(tree)).keys() == tree.keys()
    answer, _ = frames.decode_answer(frames.encode(Stepped(0, 1, [pack_tree({0: tree})] * 3)))
    assert isinstance(answer, Stepped)
    assert unpack_rows(answer.infos)[0].keys() == tree.keys()


def test_who_sends_too_many_is_told_before() -> None:
    with pytest.raises(SpaceError, match="make arrays of them"):
        pack_tree([[0] * 1024] * 1025)


@pytest.mark.parametrize("content", [b"\xc6" * MANY, b"\xc9\xff\xff\xff\xff\x03" * MANY, b"\xd8" * MANY])
def test_what_is_no_messagepack_is_passed_over_somehow(content: bytes) -> None:
    try:
        check_count((content,))
    except WireError:
        return
    with pytest.raises(WireError):
        unpack_tree(content)


@pytest.mark.parametrize("content", [b"\x01", b"\xc0", b"\x90", b"\xa0"])
def test_a_part_that_holds_no_rows_is_refused(content: bytes) -> None:
    with pytest.raises(WireError, match="a tree of rows"):
        unpack_rows([content])
