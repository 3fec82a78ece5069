"""The contract of an environment that pretends to be local: claims about any Env or VectorEnv, against a local twin.

Each claim takes functions that make the environments, and raises AssertionError. `ENV_CLAIMS` and
`VECTOR_CLAIMS` are there to be parametrised over; they hold for local environments too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

__all__ = ["ENV_CLAIMS", "VECTOR_CLAIMS", "MakeEnv", "MakeVector", "assert_same", "trajectory", "vector_trajectory"]

MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
MakeVector = Callable[[], "VectorEnv[Any, Any, Any]"]

_SEED = 123


def assert_same(got: Any, wanted: Any, path: str = "value") -> None:
    """Equal to the bit, with the same types, dtypes, shapes and keys; NaN equals NaN, and np.int64(1) equals 1."""
    if _is_whole(got) and _is_whole(wanted):
        assert int(got) == int(wanted), f"{path} is {got}, not {wanted}"
        return
    assert type(got) is type(wanted), f"{path} is a {type(got).__name__}, not a {type(wanted).__name__}"
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), f"{path} has the keys {sorted(got)}, not {sorted(wanted)}"
        for key in wanted:
            assert_same(got[key], wanted[key], f"{path}[{key!r}]")
    elif isinstance(wanted, (list, tuple)):
        assert len(got) == len(wanted), f"{path} has {len(got)} parts, not {len(wanted)}"
        for index, (one, other) in enumerate(zip(got, wanted, strict=True)):
            assert_same(one, other, f"{path}[{index}]")
    elif isinstance(wanted, np.ndarray):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), (
            f"{path} is {got.dtype}{got.shape}, not {wanted.dtype}{wanted.shape}"
        )
        if wanted.dtype == object:
            assert_same(list(got.ravel()), list(wanted.ravel()), path)
        else:
            assert got.tobytes() == wanted.tobytes(), f"{path} is {got}, not {wanted}"
    else:
        assert got == wanted or got != got, f"{path} is {got!r}, not {wanted!r}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def trajectory(env: gymnasium.Env[Any, Any], num_steps: int, *, seed: int = _SEED) -> list[Any]:
    """What `reset(seed)` and `num_steps` steps with seeded actions gave; resets where an episode ended."""
    env.action_space.seed(seed)
    told: list[Any] = [env.reset(seed=seed)]
    for _ in range(num_steps):
        obs, reward, is_terminated, is_truncated, info = env.step(env.action_space.sample())
        told.append((obs, float(reward), bool(is_terminated), bool(is_truncated), _without_time(info)))
        if is_terminated or is_truncated:
            told.append(env.reset())
    return told


def vector_trajectory(envs: VectorEnv[Any, Any, Any], num_steps: int, *, seed: int = _SEED) -> list[Any]:
    """The same of a vector env; where the mode is DISABLED, envs that ended are reset by `reset_mask`."""
    envs.action_space.seed(seed)
    told: list[Any] = [copy.deepcopy(envs.reset(seed=seed))]
    for _ in range(num_steps):
        step = envs.step(envs.action_space.sample())
        told.append(copy.deepcopy((*step[:4], _without_time(step[4]))))
        ended = step[2] | step[3]
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            told.append(copy.deepcopy(envs.reset(options={"reset_mask": ended.copy()})))
    return told


def _without_time(info: dict[str, Any]) -> dict[str, Any]:
    """RecordEpisodeStatistics puts the wall clock in `episode`: no two runs agree on it."""
    if not isinstance(info.get("episode"), dict):
        return info
    return {**info, "episode": {key: value for key, value in info["episode"].items() if key not in ("t", "_t")}}


# -- claims about an Env -----------------------------------------------------------------------


def env_moves_as_its_local_twin(make: MakeEnv, make_local: MakeEnv) -> None:
    """Equal spaces; equal observations, rewards, ends and infos for the same seed and actions. One after the other."""
    told = []
    for made in (make, make_local):
        env = made()
        try:
            told.append(((env.observation_space, env.action_space), trajectory(env, 60)))
        finally:
            env.close()
    (spaces, got), (wanted_spaces, wanted) = told
    assert spaces == wanted_spaces
    assert_same(got, wanted, "trajectory")


def env_repeats_itself_for_a_seed(make: MakeEnv, make_local: MakeEnv) -> None:
    """A seed begins the same episode again, on the same object."""
    env = make()
    try:
        assert_same(trajectory(env, 15), trajectory(env, 15), "second trajectory")
    finally:
        env.close()


def env_passes_gymnasiums_checker(make: MakeEnv, make_local: MakeEnv) -> None:
    """`gymnasium.utils.env_checker.check_env`, but for what it would make another env for: rendering, and closing."""
    env = make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of infinite bounds and the like: the served env's matter
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    finally:
        env.close()


def env_never_overwrites_what_it_gave(make: MakeEnv, make_local: MakeEnv) -> None:
    """Observations and infos that were handed out stay as they were."""
    env = make()
    try:
        env.action_space.seed(_SEED)
        given: list[Any] = [env.reset(seed=_SEED)]
        kept = [copy.deepcopy(given[0])]
        for _ in range(10):
            step = env.step(env.action_space.sample())
            given.append((step[0], step[4]))
            kept.append(copy.deepcopy(given[-1]))
            if step[2] or step[3]:
                env.reset()
        assert_same(given, kept, "given")
    finally:
        env.close()


def env_gives_what_its_spaces_say(make: MakeEnv, make_local: MakeEnv) -> None:
    """Members of the observation space; reward a number, ends bools, info a dict."""
    env = make()
    try:
        obs, info = env.reset(seed=_SEED)
        assert obs in env.observation_space and isinstance(info, dict)
        obs, reward, is_terminated, is_truncated, info = env.step(env.action_space.sample())
        assert obs in env.observation_space and isinstance(info, dict)
        assert isinstance(float(reward), float)
        assert isinstance(is_terminated, (bool, np.bool_)) and isinstance(is_truncated, (bool, np.bool_))
    finally:
        env.close()


def env_closes_twice(make: MakeEnv, make_local: MakeEnv) -> None:
    """A second close, and a close before the first reset, are no errors."""
    env = make()
    env.close()
    env.close()


def env_wants_a_reset_first(make: MakeEnv, make_local: MakeEnv) -> None:
    """`step` before `reset` is ResetNeeded."""
    env = make()
    try:
        _expect(ResetNeeded, lambda: env.step(env.action_space.sample()))
    finally:
        env.close()


# -- claims about a VectorEnv ------------------------------------------------------------------


def vector_moves_as_its_local_twin(make: MakeVector, make_local: MakeVector) -> None:
    """Equal spaces and trajectories, infos included, in the mode that both were made with. One after the other."""
    told = []
    for made in (make, make_local):
        envs = made()
        try:
            spaces = (
                envs.observation_space,
                envs.action_space,
                envs.single_observation_space,
                envs.single_action_space,
            )
            told.append(((*spaces, envs.num_envs, envs.metadata["autoreset_mode"]), vector_trajectory(envs, 60)))
        finally:
            envs.close()
    (facts, got), (wanted_facts, wanted) = told
    assert facts == wanted_facts
    assert_same(got, wanted, "trajectory")


def vector_takes_a_list_of_seeds(make: MakeVector, make_local: MakeVector) -> None:
    """One seed an env, as a list; a list of another length is a ValueError."""
    told = []
    for made in (make, make_local):
        envs = made()
        try:
            seeds: list[int | None] = [7 * row for row in range(envs.num_envs)]
            told.append(copy.deepcopy(envs.reset(seed=seeds)))  # type: ignore[arg-type]
            if made is make:
                _expect(ValueError, lambda: envs.reset(seed=[1] * (envs.num_envs + 1)))  # type: ignore[arg-type] # noqa: B023
        finally:
            envs.close()
    assert_same(told[0], told[1], "reset")


def vector_never_overwrites_what_it_gave(make: MakeVector, make_local: MakeVector) -> None:
    """All arrays that were handed out stay as they were."""
    envs = make()
    try:
        envs.action_space.seed(_SEED)
        given: list[Any] = [envs.reset(seed=_SEED)]
        kept = [copy.deepcopy(given[0])]
        for _ in range(10):
            if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and len(given) > 1:
                ended = given[-1][2] | given[-1][3]
                if ended.any():
                    envs.reset(options={"reset_mask": ended.copy()})
            given.append(envs.step(envs.action_space.sample()))
            kept.append(copy.deepcopy(given[-1]))
        assert_same(given, kept, "given")
    finally:
        envs.close()


def vector_gives_arrays_of_its_own_types(make: MakeVector, make_local: MakeVector) -> None:
    """Rewards (N,) float64, terminations and truncations (N,) bool, infos a dict."""
    envs = make()
    try:
        envs.reset(seed=_SEED)
        _, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        assert (rewards.dtype, rewards.shape) == (np.float64, (envs.num_envs,))
        for ends in (terminations, truncations):
            assert (ends.dtype, ends.shape) == (np.bool_, (envs.num_envs,))
        assert isinstance(infos, dict)
    finally:
        envs.close()


def vector_closes_twice(make: MakeVector, make_local: MakeVector) -> None:
    """A second close is no error."""
    envs = make()
    envs.close()
    envs.close()


def vector_refuses_calls_out_of_turn(make: MakeVector, make_local: MakeVector) -> None:
    """Where there is step_async: not twice, and no step_wait without it (as AsyncVectorEnv has it)."""
    envs: Any = make()
    try:
        if not hasattr(envs, "step_async"):
            return
        envs.reset(seed=_SEED)
        _expect(NoAsyncCallError, envs.step_wait)
        envs.step_async(envs.action_space.sample())
        _expect(AlreadyPendingCallError, lambda: envs.step_async(envs.action_space.sample()))
        assert len(envs.step_wait()) == 5
    finally:
        envs.close()


def _expect(kind: type[Exception], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


ENV_CLAIMS: tuple[Callable[[MakeEnv, MakeEnv], None], ...] = (
    env_moves_as_its_local_twin,
    env_repeats_itself_for_a_seed,
    env_passes_gymnasiums_checker,
    env_never_overwrites_what_it_gave,
    env_gives_what_its_spaces_say,
    env_closes_twice,
    env_wants_a_reset_first,
)

VECTOR_CLAIMS: tuple[Callable[[MakeVector, MakeVector], None], ...] = (
    vector_moves_as_its_local_twin,
    vector_takes_a_list_of_seeds,
    vector_never_overwrites_what_it_gave,
    vector_gives_arrays_of_its_own_types,
    vector_closes_twice,
    vector_refuses_calls_out_of_turn,
)
