"""What hypothesis draws for the tests of the wire: spaces, values of them, trees, messages."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from multiserverrl.wire.messages import Answer, EnvInfo, Finals, Request, SharedBlock
from multiserverrl.wire.spaces import describe_space

Space = spaces.Space[Any]

INT_DTYPES = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOAT_DTYPES = [np.float16, np.float32, np.float64]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


# -- spaces ------------------------------------------------------------------------------------------


def _ordered(dtype: Any, shape: tuple[int, ...], elements: Any) -> Any:
    """Two arrays, the first nowhere above the second."""
    arrays = npst.arrays(dtype, shape, elements=elements)
    return st.tuples(arrays, arrays).map(lambda two: (np.asarray(np.minimum(*two)), np.asarray(np.maximum(*two))))


@st.composite
def boxes(draw: Any) -> spaces.Box:
    """Boxes that Gymnasium can draw members of."""
    dtype = draw(st.sampled_from([np.bool_, *INT_DTYPES, *FLOAT_DTYPES]))
    shape = draw(SHAPES)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return spaces.Box(0, 1, shape, dtype)
    elements: Any = st.integers(0 if kind == "u" else -100, 100) if kind in "iu" else st.floats(-100, 100, width=16)
    low, high = draw(_ordered(dtype, shape, elements))
    if kind == "f":
        low[draw(npst.arrays(bool, shape))] = -np.inf
        high[draw(npst.arrays(bool, shape))] = np.inf
    return spaces.Box(low, high, shape, dtype)


@st.composite
def extreme_boxes(draw: Any) -> spaces.Box:
    """Boxes with any bounds that their dtype has, or none."""
    dtype = draw(st.sampled_from([*INT_DTYPES, *FLOAT_DTYPES]))
    shape = draw(SHAPES)
    if np.dtype(dtype).kind == "i" and draw(st.booleans()):
        return spaces.Box(draw(st.sampled_from([-np.inf, -7])), draw(st.sampled_from([np.inf, 7])), shape, dtype)
    elements = npst.from_dtype(np.dtype(dtype), allow_nan=False)
    low, high = draw(_ordered(dtype, shape, elements))
    return spaces.Box(low, high, shape, dtype)


@st.composite
def discretes(draw: Any) -> spaces.Discrete:
    dtype = draw(st.sampled_from(INT_DTYPES))
    limits = np.iinfo(dtype)
    start = draw(st.integers(max(limits.min, -(2**62)), min(limits.max, 2**62) - 1))
    n = draw(st.integers(1, min(100, limits.max - start)))
    return spaces.Discrete(n, start=start, dtype=dtype)


@st.composite
def multi_discretes(draw: Any) -> spaces.MultiDiscrete:
    dtype = draw(st.sampled_from(INT_DTYPES))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=3))
    nvec = draw(npst.arrays(dtype, shape, elements=st.integers(1, 9)))
    lowest = -9 if np.dtype(dtype).kind == "i" else 0
    start = draw(npst.arrays(dtype, shape, elements=st.integers(lowest, 9)))
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)


MULTI_BINARIES = st.one_of(
    st.integers(1, 5).map(spaces.MultiBinary),
    npst.array_shapes(min_dims=1, max_dims=3, max_side=3).map(lambda shape: spaces.MultiBinary(list(shape))),
)


def texts() -> Any:
    sizes = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted)
    charset = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    return st.builds(lambda size, chars: spaces.Text(size[1], min_length=size[0], charset=chars), sizes, charset)


LEAVES = st.one_of(boxes(), discretes(), multi_discretes(), MULTI_BINARIES)


def _nested(inner: Any) -> Any:
    return st.one_of(
        st.lists(st.tuples(TEXT, inner), max_size=3, unique_by=lambda pair: pair[0]).map(spaces.Dict),
        st.lists(inner, max_size=3).map(spaces.Tuple),
    )


def _loosely_nested(inner: Any) -> Any:
    return st.one_of(
        _nested(inner),
        st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf),
        st.builds(lambda space: spaces.Sequence(space), inner),
        LEAVES.map(lambda space: spaces.Sequence(space, stack=True)),
        st.builds(spaces.Graph, st.one_of(boxes(), discretes()), st.one_of(st.none(), boxes(), discretes())),
    )


FIXED_SPACES = st.recursive(LEAVES, _nested, max_leaves=4)
ANY_SPACES = st.recursive(st.one_of(LEAVES, texts()), _loosely_nested, max_leaves=4)


@st.composite
def space_and_values(draw: Any, kinds: Any, count: int) -> tuple[Space, list[Any]]:
    """A space, and members of it."""
    space = draw(kinds)
    space.seed(draw(st.integers(0, 2**16)))
    return space, [space.sample() for _ in range(count)]


# -- trees -------------------------------------------------------------------------------------------

ARRAY_DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(),
    npst.byte_string_dtypes(max_len=4),
    npst.unicode_string_dtypes(max_len=4),
    npst.datetime64_dtypes(),
    npst.timedelta64_dtypes(),
)
ARRAYS = npst.arrays(ARRAY_DTYPES, npst.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
NUMPY_SCALARS = npst.arrays(ARRAY_DTYPES, (1,)).map(lambda array: array[0])
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**9000), 2**9000), st.floats(), TEXT, st.binary(max_size=8)
)
KEYS = st.one_of(PLAIN, st.tuples(PLAIN, PLAIN), NUMPY_SCALARS.filter(lambda scalar: not isinstance(scalar, np.void)))


def _object_array(items: list[Any]) -> Any:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _branches(inner: Any) -> Any:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.lists(inner, max_size=4).map(_object_array),
        st.builds(spaces.GraphInstance, ARRAYS, st.one_of(st.none(), ARRAYS), st.one_of(st.none(), ARRAYS)),
    )


TREES = st.recursive(st.one_of(PLAIN, ARRAYS, NUMPY_SCALARS), _branches, max_leaves=6)


def is_same(one: Any, other: Any) -> bool:
    """Equal to the bit, in type, dtype and order; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.kind == "O":
            return all(map(is_same, one.ravel(), other.ravel()))
        return one.tobytes() == other.tobytes()
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()
    if isinstance(one, dict):
        return is_same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float):
        return np.float64(one).tobytes() == np.float64(other).tobytes()
    return bool(one == other)


def is_equal_value(one: Any, other: Any) -> bool:
    """Like `is_same`, but a NumPy scalar is as good as an array without axes (Gymnasium itself draws both)."""
    if isinstance(one, (np.ndarray, np.generic)) and not isinstance(one, np.str_):
        return isinstance(other, (np.ndarray, np.generic)) and is_same(np.asarray(one), np.asarray(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal_value(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(is_equal_value, one, other))
    return is_same(one, other)


# -- messages ----------------------------------------------------------------------------------------

ENV_INFOS = st.builds(
    EnvInfo,
    env_id=TEXT,
    observation_space=ANY_SPACES.map(describe_space),
    action_space=ANY_SPACES.map(describe_space),
    render_modes=st.lists(TEXT, max_size=2),
    metadata=st.dictionaries(TEXT, st.one_of(TEXT, st.booleans(), st.integers(-(2**53), 2**53)), max_size=2),
    reward_threshold=st.one_of(st.none(), st.floats(allow_nan=False)),
)
PLACES = st.integers(0, 2**40)
_OF_TYPE: dict[Any, Any] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: TEXT,
    bytes: st.binary(max_size=20),
    type(None): st.none(),
    EnvInfo: ENV_INFOS,
    SharedBlock: st.builds(
        SharedBlock, TEXT, PLACES, PLACES, st.lists(PLACES, max_size=2), PLACES, PLACES, st.integers(0, 2**63 - 1)
    ),
    Finals: st.builds(Finals, st.lists(st.integers(0, 2**40), max_size=3), st.binary(max_size=20)),
}


def _of_hint(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return st.one_of([_of_hint(member) for member in typing.get_args(hint)])
    if typing.get_origin(hint) is list:
        return st.lists(_of_hint(typing.get_args(hint)[0]), max_size=3)
    return _OF_TYPE[hint]


def messages_of(kind: Callable[..., Any]) -> Any:
    """Any message of a kind, each field as its annotation says."""
    return st.builds(kind, **{name: _of_hint(hint) for name, hint in typing.get_type_hints(kind).items()})


REQUEST_KINDS = typing.get_args(Request)
ANSWER_KINDS = typing.get_args(Answer)
REQUESTS = st.one_of([messages_of(kind) for kind in REQUEST_KINDS])
ANSWERS = st.one_of([messages_of(kind) for kind in ANSWER_KINDS])


@st.composite
def corrupted(draw: Any, whole: Any) -> bytes:
    """Bytes that were right once: cut, overwritten, grown."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        change = draw(st.sampled_from(["cut", "overwrite", "insert"]))
        if change == "cut":
            del content[at : at + draw(st.integers(1, 8))]
        elif change == "overwrite":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=5))
    return bytes(content)
