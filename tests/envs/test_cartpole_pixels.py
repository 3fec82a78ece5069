"""CartPole-pixels: a picture around the cart, found by looking, the same here and served."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils.env_checker import check_env

import multiserverrl as msr
from multiserverrl.envs import CARTPOLE_PIXELS, cartpole_pixels
from multiserverrl.envs.cartpole_pixels import CartPolePixels, around_the_cart, middle_of_the_cart
from multiserverrl.testing.contract import assert_same, trajectory
from multiserverrl.testing.serving import serving

PIXELS_PER_UNIT = 300 / 4.8


@pytest.fixture(autouse=True)
def without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def env() -> Iterator[CartPolePixels]:
    with CartPolePixels() as env:
        env.reset(seed=0)
        yield env


def screen_at(env: CartPolePixels, place: float, angle: float = 0.0) -> Any:
    env.unwrapped.state = (place, 0.0, angle, 0.0)  # type: ignore[attr-defined]
    return env.render()


def test_gymnasium_makes_it_and_its_checker_passes() -> None:
    with gymnasium.make(CARTPOLE_PIXELS, disable_env_checker=True) as env:
        assert env.spec is not None
        assert (env.spec.max_episode_steps, env.spec.reward_threshold) == (500, 195.0)
        assert env.observation_space == gymnasium.spaces.Box(0, 255, (20, 90), np.uint8)
        assert env.reset(seed=0)[0] in env.observation_space
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version|.*not having a spec", UserWarning)
        check_env(CartPolePixels())


@pytest.mark.parametrize("place", [-2.4, -1.7, -0.31, 0.0, 0.02, 1.1, 2.4])
@pytest.mark.parametrize("angle", [-0.2, 0.2])
def test_the_cart_is_found_by_looking(env: CartPolePixels, place: float, angle: float) -> None:
    left, right = (150 + place * PIXELS_PER_UNIT + half for half in (-25, 25))
    middle = (max(left, 0) + min(right, 299)) / 2  # of what is on the screen
    assert abs(middle_of_the_cart(screen_at(env, place, angle)) - middle) <= 1


def test_a_screen_without_a_cart_is_cut_in_the_middle() -> None:
    assert middle_of_the_cart(np.full((200, 300, 3), 255, np.uint8)) == 150


def test_each_pixel_is_the_mean_of_eight_and_white_is_zero(env: CartPolePixels) -> None:
    screen = screen_at(env, 0.5, 0.1)
    left = middle_of_the_cart(screen) - 90
    wanted = np.zeros((20, 90))
    for row in range(20):
        for column in range(90):
            eight = screen[30 + 4 * row :, left + 2 * column :, 2][:4, :2]
            wanted[row, column] = 255 - eight.mean()
    seen = around_the_cart(screen)
    assert seen.dtype == np.uint8 and np.abs(seen - wanted).max() < 1
    assert seen[0, 0] == 0 and seen.max() == 255  # the background, and the cart


def test_it_goes_with_the_cart_until_the_screen_ends(env: CartPolePixels) -> None:
    step = 2 / PIXELS_PER_UNIT
    assert np.array_equal(*(around_the_cart(screen_at(env, place)) for place in (0.0, 16 * step)))
    assert not np.array_equal(*(around_the_cart(screen_at(env, place)) for place in (2.0, 2.0 + 4 * step)))


def test_a_leaning_pole_is_seen_and_its_mirror_image_is_another(env: CartPolePixels) -> None:
    left, upright, right = (around_the_cart(screen_at(env, 0.0, angle))[:10] for angle in (-0.1, 0.0, 0.1))
    columns = np.arange(90)
    assert left.sum(0) @ columns / left.sum() < upright.sum(0) @ columns / upright.sum() - 1
    assert right.sum(0) @ columns / right.sum() > upright.sum(0) @ columns / upright.sum() + 1


def test_nothing_but_the_picture_is_in_an_observation(env: CartPolePixels) -> None:
    obs, *_ = env.step(0)
    assert np.array_equal(env.observation(np.full(4, np.nan, np.float32)), obs)
    assert np.array_equal(around_the_cart(env.render()), obs)  # type: ignore[arg-type]


def test_it_is_cartpole(env: CartPolePixels) -> None:
    with gymnasium.make("CartPole-v1") as cartpole, gymnasium.make(CARTPOLE_PIXELS) as seen:
        cartpole.reset(seed=3)
        seen.reset(seed=3)
        for action in (0, 1) * 4:
            assert cartpole.step(action)[1:] == seen.step(action)[1:]
        assert np.allclose(cartpole.unwrapped.state, seen.unwrapped.state)  # type: ignore[attr-defined]


def test_served_it_is_as_it_is_here() -> None:
    with (
        serving(CARTPOLE_PIXELS) as server,
        msr.VirtualEnv(server.url, render_mode="rgb_array") as env,
        gymnasium.make(CARTPOLE_PIXELS) as local,
    ):
        assert_same(trajectory(env, 20), trajectory(local, 20))
        frame: Any = env.render()
        assert frame.shape == (200, 300, 3)


@pytest.mark.long
def test_the_trainer_learns_from_what_is_rendered(tmp_path: Path) -> None:
    flags = [
        "--stop-at-return",
        "100",
        "--confirm-episodes",
        "0",
        "--run-dir",
        str(tmp_path / "run"),
    ]  # at random it is 22
    command = [sys.executable, "-m", "multiserverrl", "train", CARTPOLE_PIXELS, *flags]
    subprocess.run(command, capture_output=True, timeout=240, check=True)
    assert json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["solved"]
    assert json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["train"]["frame_stack"] == 2


def test_without_pygame_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cartpole_pixels, "find_spec", lambda name: None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'multiserverrl\[classic-control\]'"):
        CartPolePixels()


def test_who_only_imports_the_package_loads_no_env() -> None:
    code = "import sys, multiserverrl; print({'pygame', 'multiserverrl.envs.cartpole_pixels'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
