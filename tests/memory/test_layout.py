"""memory/layout.py: where the arrays of a block lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.memory import Block, Layout
from multiserverrl.memory.layout import ALIGNMENT_BYTES

DTYPES = st.sampled_from([np.uint8, np.bool_, np.int64, np.float32, np.float64])
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
FIELDS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(DTYPES, SHAPES), max_size=6)


@given(FIELDS)
def test_every_array_starts_on_a_cache_line_and_none_overlap(fields: dict) -> None:
    layout = Layout(fields)
    end = 0
    for dtype, shape, offset in layout.fields.values():
        assert offset % ALIGNMENT_BYTES == 0
        assert offset >= end
        end = offset + dtype.itemsize * int(np.prod(shape))
    assert layout.size_bytes >= end


def test_the_same_fields_give_the_same_layout() -> None:
    fields = {"obs": (np.float32, (3, 4)), "reward": (np.float32, (3,))}
    assert Layout(fields).fields == Layout(dict(fields)).fields


def test_views_of_two_mappings_are_the_same_memory() -> None:
    layout = Layout({"obs": (np.float32, (2, 3)), "is_ready": (np.bool_, (2,))})
    ours = Block.create(layout.size_bytes, "test")
    theirs = Block.open(ours.handle)
    layout.views(ours)["obs"][1] = [1, 2, 3]
    layout.views(ours)["is_ready"][0] = True
    assert layout.views(theirs)["obs"].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert layout.views(theirs)["is_ready"].tolist() == [True, False]
    ours.close()
    theirs.close()


def test_a_layout_without_fields_still_fits_a_block() -> None:
    Block.create(Layout({}).size_bytes, "test").close()
