"""Spaces of every kind, as observation and as action, single and vector; infos of every kind; what is refused."""

import copy
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import SpaceError
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.threaded import serving_from_thread

INF = np.inf


class Says(gymnasium.Env[Any, Any]):
    """Observes the values given, one after the other; its info says back what action it got. Episodes of 3 steps."""

    def __init__(self, observation_space: Any, action_space: Any, values: list[Any]) -> None:
        self.observation_space, self.action_space, self.values = observation_space, action_space, values
        self.steps = self.at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.at = 0, seed or 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        got = copy.deepcopy(action)
        if isinstance(self.action_space, spaces.Sequence):  # Gymnasium puts arrays of one shape alone into vector infos
            got = (got,)
        return self._next(), 0.5, self.steps >= 3, False, {"got": got}

    def _next(self) -> Any:
        self.at += 1
        return copy.deepcopy(self.values[self.at % len(self.values)])


def extremes(dtype: Any) -> Any:
    """NaN of two kinds, both infinities, both zeros, and the largest and smallest numbers of a float."""
    info = np.finfo(dtype)
    odd_nan = np.array([np.nan], dtype).view(f"u{info.bits // 8}") | 5
    numbers = [np.nan, INF, -INF, -0.0, 0.0, info.max, info.min, info.smallest_subnormal]
    return np.concatenate([np.array(numbers, dtype), odd_nan.view(dtype)])


def of_floats(dtype: Any) -> tuple[Any, list[Any]]:
    return spaces.Box(-INF, INF, (9,), dtype), [extremes(dtype), extremes(dtype)[::-1].copy(), np.zeros(9, dtype)]


def of_whole(dtype: Any) -> tuple[Any, list[Any]]:
    info = np.iinfo(dtype)
    values = [np.array([info.min, info.max], dtype), np.array([info.max, info.max - 1], dtype)]
    return spaces.Box(info.min, info.max, (2,), dtype), values


NODES, EDGES = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4)
GRAPH = GraphInstance(
    np.array([[0.5, -0.5], [1, np.nan]], np.float32), np.array([3]), np.array([[0, 1]], dtype=np.int32)
)
LONE = GraphInstance(np.zeros((1, 2), np.float32), None, None)
HALF = np.array([0.5], np.float32)
DEEP = spaces.Dict(
    {
        "graphs": spaces.Sequence(spaces.Graph(NODES, EDGES)),
        "either": spaces.Tuple([spaces.OneOf([spaces.Discrete(3), spaces.Text(4)]), spaces.MultiBinary(2)]),
        "items": spaces.Sequence(spaces.Dict({"size": spaces.Box(0, 1), "name": spaces.Text(5, min_length=0)})),
    }
)
DEEP_VALUES = [
    {
        "graphs": (GRAPH, LONE),
        "either": ((np.int64(1), "ab"), np.array([1, 0], np.int8)),
        "items": ({"size": HALF, "name": ""}, {"size": HALF, "name": "x"}),
    },
    {"graphs": (), "either": ((np.int64(0), np.int64(2)), np.array([0, 1], np.int8)), "items": ()},
]

KINDS: dict[str, tuple[Any, list[Any]]] = {
    **{np.dtype(dtype).name: of_floats(dtype) for dtype in (np.float16, np.float32, np.float64)},
    **{
        np.dtype(dtype).name: of_whole(dtype)
        for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
    },
    "bool": (spaces.Box(0, 1, (3,), np.bool_), [np.array([True, False, True]), np.zeros(3, np.bool_)]),
    "no axes": (spaces.Box(-1, 1, ()), [np.array(0.25, np.float32), np.array(np.nan, np.float32)]),
    "nothing": (spaces.Box(-1, 1, (2, 0)), [np.zeros((2, 0), np.float32)]),
    "image": (spaces.Box(0, 255, (3, 4, 3), np.uint8), [np.arange(36, dtype=np.uint8).reshape(3, 4, 3)]),
    "half bounded": (
        spaces.Box(np.array([-INF, 0, -INF, 0]), np.array([INF, INF, 1, 1]), dtype=np.float64),
        [np.array([INF, -1, np.nan, -0.0])],
    ),
    "discrete": (spaces.Discrete(5, start=-2), [np.int64(-2), np.int64(2)]),
    "small discrete": (spaces.Discrete(5, start=250, dtype=np.uint8), [np.uint8(250), np.uint8(254)]),
    "multi discrete": (
        spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int32, start=[[0, -1], [5, 9]]),
        [np.array([[1, 1], [8, 13]], np.int32)],
    ),
    "multi binary": (spaces.MultiBinary([2, 3]), [np.array([[0, 1, 0], [1, 1, 1]], np.int8)]),
    "text": (spaces.Text(6, min_length=0, charset="aé€😀 "), ["", "é€😀", "a a"]),
    "dict": (
        spaces.Dict({"b": spaces.Box(-INF, INF, (2,)), "a": spaces.Dict({"d": spaces.Discrete(2)})}),
        [{"b": np.array([np.nan, -INF], np.float32), "a": {"d": np.int64(1)}}],
    ),
    "tuple": (
        spaces.Tuple([spaces.Discrete(2), spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 1)])]),
        [(np.int64(1), (np.array([1, 0], np.int8), HALF))],
    ),
    "text in a dict": (
        spaces.Dict({"say": spaces.Text(3), "go": spaces.Box(-1, 1)}),
        [{"say": "abc", "go": HALF}, {"say": "z", "go": np.array([np.nan], np.float32)}],
    ),
    "sequence": (spaces.Sequence(spaces.Box(-1, 1)), [(), (HALF,), (HALF, np.array([np.nan], np.float32))]),
    "stack": (
        spaces.Sequence(spaces.Box(-1, 1, (2,)), stack=True),
        [np.zeros((0, 2), np.float32), np.array([[1, INF]], np.float32)],
    ),
    "graph": (spaces.Graph(NODES, EDGES), [GRAPH, LONE]),
    "graph without edges": (spaces.Graph(NODES, None), [LONE]),
    "one of": (
        spaces.OneOf([spaces.Discrete(3), spaces.Box(-INF, INF)]),
        [(np.int64(0), np.int64(2)), (np.int64(1), np.array([np.nan], np.float32))],
    ),
    "deep": (DEEP, DEEP_VALUES),
}


class Colours(spaces.Space[str]):
    """A space of somebody's own."""


REFUSED: dict[str, tuple[Any, str]] = {
    "own": (Colours(), r" is a .*Colours, which cannot be carried"),
    "nested": (
        spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2), Colours()])}),
        r"\['a'\]\[1\] is a .*Colours, which cannot be carried",
    ),
    "complex": (spaces.Dict({"z": spaces.Box(-1, 1)}), r"\['z'\] is a Box of complex64, which cannot be carried"),
    "key": (spaces.Dict([(3, spaces.Discrete(2))]), r" has the key 3; only text keys can be carried"),  # type: ignore[list-item]
}
REFUSED["complex"][0]["z"].dtype = np.dtype(np.complex64)


def made(kind: str = "discrete", role: str = "") -> Says:
    """The env of a kind; with a role, one whose space in that role is to be refused."""
    space, values = KINDS[kind] if not role else (REFUSED[kind][0], [None])
    plain = spaces.Discrete(2)
    return Says(plain if role == "action" else space, plain if role == "observation" else space, values)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_from_thread(made, allow_arg="kind,role", workers=2) as served:
        yield served


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_of_this_kind_is_carried_as_observation_and_as_action(url: str, kind: str) -> None:
    local = made(kind)
    with VirtualEnv(url, arguments={"kind": kind}) as env:
        assert (env.observation_space, env.action_space) == (local.observation_space, local.action_space)
        env.action_space.seed(7)
        for seed in range(3):
            assert_same(env.reset(seed=seed), local.reset(seed=seed), "reset")
            for _ in range(3):
                action = env.action_space.sample()
                assert_same(env.step(action), local.step(action), "step")


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("kind", KINDS)
def test_a_space_of_this_kind_is_carried_in_batches(url: str, kind: str, mode: AutoresetMode) -> None:
    local = SyncVectorEnv([lambda: made(kind)] * 3, autoreset_mode=mode)
    with closing(VirtualVectorEnv(url, num_envs=3, autoreset_mode=mode, arguments={"kind": kind})) as envs:
        assert_batches_equal(envs, local, kind, mode)


def assert_batches_equal(envs: Any, local: Any, kind: str, mode: AutoresetMode) -> None:
    assert (envs.observation_space, envs.action_space) == (local.observation_space, local.action_space)
    assert (envs.single_observation_space, envs.single_action_space) == KINDS[kind][:1] * 2
    envs.action_space.seed(7)
    assert_same(envs.reset(seed=1), local.reset(seed=1), "reset")
    for index in range(1, 8):
        actions = envs.action_space.sample()
        assert_same(envs.step(actions), local.step(actions), "step")
        if mode is AutoresetMode.DISABLED and index % 3 == 0:
            options = {"reset_mask": np.ones(3, np.bool_)}
            assert_same(envs.reset(options=dict(options)), local.reset(options=options), "reset")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinite_actions_pass_as_they_are(url: str, dtype: Any) -> None:
    with VirtualEnv(url, arguments={"kind": np.dtype(dtype).name}) as env:
        env.reset()
        action = extremes(dtype)
        action[np.isnan(action)] = 1.5
        assert_same(env.step(action)[4]["got"], action)


@pytest.mark.parametrize("make", [VirtualEnv, VirtualVectorEnv])
@pytest.mark.parametrize("role", ["observation", "action"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_space_that_cannot_be_carried_is_refused_by_name_at_the_start(
    url: str, kind: str, role: str, make: Any
) -> None:
    with pytest.raises(SpaceError, match=f"the {role} space{REFUSED[kind][1]}"):
        make(url, arguments={"kind": kind, "role": role})


class Tells(Says):
    """Its infos are of every kind; some of their keys are there in some steps of some envs alone."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, _ = super().reset(seed=seed)
        return obs, {} if self.at % 2 else {"began": {"with": np.array([self.at, np.nan]), "at": self.at}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *ends, _ = super().step(action)
        info: dict[str, Any] = {"count": self.at, "ratio": np.float32(self.at) / 3, "is_odd": self.at % 2 == 1}
        if self.at % 2:
            info["nested"] = {"deep": {"array": np.full((2, 2), self.at), "text": "é"}, "pair": (1, "two")}
        if self.at % 3 == 0:
            info |= {"list": [1, None, {"x": 2.5}], "nothing": None, "bytes": b"\x00", "big": 2**62, "nan": np.nan}
        return obs, *ends, info


def tells() -> Tells:
    return Tells(*KINDS["discrete"][:1] * 2, KINDS["discrete"][1])


@pytest.fixture(scope="module")
def telling() -> Iterator[str]:
    with serving_from_thread(tells, workers=2) as served:
        yield served


def test_infos_of_every_kind_are_carried(telling: str) -> None:
    local = tells()
    with VirtualEnv(telling) as env:
        assert_same(env.reset(seed=0), local.reset(seed=0), "reset")
        for _ in range(7):
            assert_same(env.step(1), local.step(1), "step")


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
def test_infos_of_many_have_gymnasiums_masks(telling: str, mode: AutoresetMode) -> None:
    local = SyncVectorEnv([tells] * 3, autoreset_mode=mode)
    with closing(VirtualVectorEnv(telling, num_envs=3, autoreset_mode=mode)) as envs:
        assert_infos_equal(envs, local, mode)


def assert_infos_equal(envs: Any, local: Any, mode: AutoresetMode) -> None:
    told = [envs.reset(seed=4)[1]]
    assert_same(told, [local.reset(seed=4)[1]], "reset")
    for index in range(1, 8):
        told.append(envs.step(np.ones(3, np.int64))[4])
        assert_same(told[-1], local.step(np.ones(3, np.int64))[4], f"step {index}")
        if mode is AutoresetMode.DISABLED and index % 3 == 0:
            masks = [np.array([True, False, True]), np.array([False, True, False])]
            for mask in masks:
                wanted = local.reset(options={"reset_mask": mask})
                assert_same(envs.reset(options={"reset_mask": mask}), wanted, "reset of some")
    assert told[0]["_began"].tolist() == [False, True, False]
    assert [info["nested"]["_deep"].tolist() for info in told[1:3]] == [[False, True, False], [True, False, True]]
