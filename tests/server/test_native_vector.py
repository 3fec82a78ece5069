"""Native vector envs: a session gets one whole, with the autoreset mode, infos and masks that it has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import multiserverrl as msr
from multiserverrl.client.api import describe
from multiserverrl.errors import ConfigError, EnvFault, SpaceError
from multiserverrl.server.config import WrapperConfig
from multiserverrl.testing.contract import assert_same, vector_trajectory
from multiserverrl.testing.envs import DictObs, Scripted, TextObs
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread
from tests.server.support import HttpSession

MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def native(make: Callable[[], Any], mode: str, num_envs: int, **arguments: Any) -> SyncVectorEnv:
    """A vector env that is as good a native one as any."""
    return SyncVectorEnv([partial(make, **arguments)] * num_envs, autoreset_mode=MODES[mode])


@contextmanager
def served(make: Callable[[], Any], mode: str, num_envs: int = 3, **options: Any) -> Iterator[msr.VirtualVectorEnv]:
    with serving_from_thread(lambda num_envs: native(make, mode, num_envs), vector=True) as url:
        envs = msr.VirtualVectorEnv(url, num_envs=num_envs, autoreset_mode=mode, **options)
        yield envs
        envs.close()


@pytest.mark.parametrize("make", [Scripted, DictObs], ids=["box", "dict"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_its_steps_infos_and_final_observations_are_its_own(mode: str, make: Callable[[], Any]) -> None:
    with served(make, mode) as envs:
        assert envs.metadata["autoreset_mode"] is MODES[mode]
        assert_same(vector_trajectory(envs, 20), vector_trajectory(native(make, mode, 3), 20))


def test_disabled_is_reset_by_mask() -> None:
    local = native(Scripted, "disabled", 2)
    with served(Scripted, "disabled", 2) as envs:
        for one in (envs, local):
            one.reset(seed=1, options={"length": 2})
        steps = [[one.step(np.array([1, 0])) for _ in range(2)] for one in (envs, local)]
        assert_same(*steps)
        assert steps[0][1][2].all()
        masks = np.array([True, False])
        assert_same(*[one.reset(options={"reset_mask": masks, "length": 5}) for one in (envs, local)])
        assert_same(*[one.reset(options={"reset_mask": ~masks, "length": 5}) for one in (envs, local)])
        assert_same(*[one.step(np.array([1, 0])) for one in (envs, local)])


def test_the_vector_entry_point_of_an_id_is_served_by_flag_in_a_process() -> None:
    with serving("CartPole-v1", vector=True, count=64, workers=2) as server:
        assert describe(server.url).envs[0].autoreset_modes == ["next_step"]
        envs = msr.VirtualVectorEnv(server.url, num_envs=64)
        local = CartPoleVectorEnv(64)
        assert_same(envs.reset(seed=3)[0], local.reset(seed=3)[0])
        actions = np.random.default_rng(0).integers(0, 2, (60, 64))
        ends = 0
        for action in actions:
            got, wanted = envs.step(action), local.step(action)
            assert_same(list(got[:1] + got[2:]), list(wanted[:1] + wanted[2:]))
            assert np.array_equal(got[1], wanted[1])
            ends += int(got[2].sum())
        assert ends > 50
        envs.close()


def test_a_class_in_a_file_needs_no_flag_and_takes_arguments_and_wrappers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv\n"
        "class Mine(CartPoleVectorEnv):\n    pass\n"
    )
    wrapper = WrapperConfig("gymnasium.wrappers.vector:RecordEpisodeStatistics")
    settings: dict[str, Any] = {"allow_arg": "max_episode_steps", "allow_attr": "length", "wrappers": (wrapper,)}
    with serving(f"{tmp_path}/mine.py:Mine", **settings) as server:
        envs = msr.VirtualVectorEnv(server.url, num_envs=2, arguments={"max_episode_steps": 4})
        envs.reset(seed=0)
        told = [envs.step(np.array([0, 1])) for _ in range(4)][-1]
        assert told[3].tolist() == [True, True] and told[4]["episode"]["l"].tolist() == [4, 4]
        assert envs.get_attr("length") == (0.5, 0.5)
        envs.close()


def test_a_mode_that_it_lacks_is_refused_naming_those_it_has() -> None:
    with serving_from_thread(lambda num_envs: native(Scripted, "same_step", num_envs), vector=True) as url:
        with pytest.raises(ConfigError, match="with the autoreset_mode same_step; it cannot be had as 'disabled'"):
            msr.VirtualVectorEnv(url, num_envs=2, autoreset_mode="disabled")
        with pytest.raises(ConfigError, match=r"it cannot be had as single env \(VirtualEnv\)"):
            msr.VirtualEnv(url)
        with pytest.raises(ConfigError, match="it has one lane, not 2"):
            msr.VirtualVectorEnv(url, num_envs=2, autoreset_mode="same_step", lanes=2)
        assert describe(url).free == 8


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_one_that_raises_is_a_fault_of_all_its_envs_and_is_made_anew(mode: str) -> None:
    script = {"how": "raise", "at": 2, "seed": 1}
    with served(Scripted, mode, on_fault="truncate") as envs:
        envs.reset(seed=0, options=script)
        before = envs.step(np.zeros(3, int))[0]
        observations, rewards, terminated, truncated, infos = envs.step(np.zeros(3, int))
        assert truncated.all() and not terminated.any() and not rewards.any()
        assert all("fail" in fault for fault in infos["multiserverrl"]["fault"])
        last = np.stack(infos["final_obs"]) if mode == "same_step" else observations
        assert np.array_equal(last, before)
        if mode == "disabled":
            envs.reset(seed=0)
        for _ in range(2):
            observations, _, _, truncated, infos = envs.step(np.zeros(3, int))
        assert not truncated.any() and "multiserverrl" not in infos
        assert observations[:, 0].tolist() == [1.0 if mode == "next_step" else 2.0] * 3


def test_by_default_its_fault_is_raised_and_reset_works() -> None:
    with served(Scripted, "next_step") as envs:
        envs.reset(seed=0, options={"how": "raise", "at": 1, "seed": 1})
        with pytest.raises(EnvFault, match="the script says: fail"):
            envs.step(np.zeros(3, int))
        envs.reset(seed=0)
        assert envs.step(np.zeros(3, int))[0][:, 0].tolist() == [1, 1, 1]


def test_a_reset_that_raises_is_a_fault_and_the_next_one_works() -> None:
    with served(Scripted, "next_step") as envs:
        envs.reset(seed=0, options={"how": "reset", "at": 1, "seed": 1})
        envs.step(np.zeros(3, int))
        with pytest.raises(EnvFault, match="the vector env raised ValueError: the script says: fail at reset"):
            envs.reset(seed=0)
        assert envs.reset(seed=0)[0][:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_one_that_dies_is_a_fault_of_all_its_envs(tmp_path: Path, mode: str) -> None:
    (tmp_path / "mine.py").write_text(
        "from gymnasium.vector import AutoresetMode, SyncVectorEnv\n"
        "from multiserverrl.testing.envs import Scripted\n"
        "def make(num_envs):\n"
        f"    return SyncVectorEnv([Scripted] * num_envs, autoreset_mode=AutoresetMode.{mode.upper()})\n"
    )
    with serving(f"{tmp_path}/mine.py:make", vector=True, workers=1) as server:
        envs = msr.VirtualVectorEnv(server.url, num_envs=3, autoreset_mode=mode, on_fault="truncate")
        envs.reset(seed=0, options={"how": "kill", "at": 2, "seed": 1})
        before = envs.step(np.zeros(3, int))[0]
        observations, _, _, truncated, infos = envs.step(np.zeros(3, int))
        assert truncated.all() and all("SIGKILL" in fault for fault in infos["multiserverrl"]["fault"])
        assert np.array_equal(np.stack(infos["final_obs"]) if mode == "same_step" else observations, before)
        for _ in range(2):
            told = envs.step(np.zeros(3, int))
        assert told[0][:, 0].tolist() == [1.0 if mode == "next_step" else 2.0] * 3
        envs.close()


class Wrong(CartPoleVectorEnv):
    """Gives an observation of another shape in its second step."""

    def step(self, action: Any) -> Any:
        told = super().step(action)
        return (told[0][:, :3], *told[1:]) if self.steps.max() > 1 else told


def test_an_observation_that_its_space_says_otherwise_of_is_a_fault_that_says_so() -> None:
    with serving_from_thread(Wrong, vector=True) as url:
        envs = msr.VirtualVectorEnv(url, num_envs=2)
        envs.reset(seed=0)
        envs.step(np.zeros(2, int))
        with pytest.raises(EnvFault, match=r"obs is float32\[2, 3\], the space says float32\[2, 4\]"):
            envs.step(np.zeros(2, int))
        envs.close()


class Modeless(CartPoleVectorEnv):
    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own way


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (Modeless, ConfigError, "does not say how it resets its envs"),
        (lambda num_envs: Scripted(), ConfigError, "made a Scripted, which is no VectorEnv"),
        (lambda num_envs: native(TextObs, "next_step", num_envs), SpaceError, "of spaces without a fixed size"),
    ],
    ids=["mode", "single", "text"],
)
def test_what_cannot_be_served_is_refused_at_start(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), serving_from_thread(make, vector=True):
        raise AssertionError("it was served")


def test_an_id_without_a_vector_entry_point_is_refused_under_the_flag() -> None:
    with pytest.raises(ConfigError, match="Acrobot-v1 has no vector_entry_point"), serving("Acrobot-v1", vector=True):
        raise AssertionError("it was served")


def test_over_plain_http_its_infos_stand_whole() -> None:
    with serving_from_thread(lambda num_envs: native(Scripted, "next_step", num_envs), vector=True) as url:
        session = HttpSession(url, num_envs=2)
        session.ask("reset", seed=0)
        told = session.ask("step", actions=[0, 1]).json
        assert told["infos"]["steps"] == [1, 1] and told["infos"]["_steps"] == [True, True]
        session.close()


def test_it_renders_a_frame_an_env() -> None:
    def make(num_envs: int, render_mode: str | None = None) -> VectorEnv[Any, Any, Any]:
        return native(Scripted, "next_step", num_envs, render_mode=render_mode)

    with serving_from_thread(make, vector=True) as url:
        envs = msr.VirtualVectorEnv(url, num_envs=2, render_mode="rgb_array")
        envs.reset(seed=0)
        envs.step(np.zeros(2, int))
        frames = envs.render()
        assert frames is not None and [frame[0, 0, 0] for frame in frames] == [1, 1]
        envs.close()
