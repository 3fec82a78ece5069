"""CartPole, seen: an observation is a small grey picture of the cart and its pole, cut out of what the env renders.

Where the cart is, too, is read off the picture. Nothing but pixels goes into an observation, so one alone tells no
speed: stack two (`train --frame-stack 2`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

__all__ = ["CartPolePixels", "around_the_cart", "middle_of_the_cart"]

Screen = NDArray[np.uint8]  # (200, 300, 3)

SCREEN_WIDTH, SCREEN_HEIGHT = 300, 200  # 0.47 ms to render; 600×400, as CartPole has it, takes 1.3 ms and shows no more
TOP, BOTTOM = 30, 110  # the rows from the tip of the pole, where it stands upright, to well below the axle
CART_ROW = 106  # crosses the cart, below the pole and the black line on which the cart runs
WIDTH = 180  # columns that are cut out, with the cart in their middle but near the edges of the screen
ROWS_AS_ONE, COLUMNS_AS_ONE = 4, 2
SHAPE = (BOTTOM - TOP) // ROWS_AS_ONE, WIDTH // COLUMNS_AS_ONE  # 20, 90
BLUE = 2  # the channel in which cart, pole and axle differ most: 0, 101 and 203 on 255
BLACK = 50


def middle_of_the_cart(screen: Screen) -> int:
    """The column where the cart's middle is; of a cart that is partly out of the screen, the middle of the rest."""
    columns = np.flatnonzero(screen[CART_ROW, :, BLUE] < BLACK)
    return int(columns.mean()) if len(columns) else screen.shape[1] // 2


def around_the_cart(screen: Screen) -> Screen:
    """(200, 300, 3) → (20, 90), white is 0; each pixel is the mean of 4 × 2."""
    left = min(max(middle_of_the_cart(screen) - WIDTH // 2, 0), screen.shape[1] - WIDTH)
    cut = screen[TOP:BOTTOM, left : left + WIDTH, BLUE]
    pairs = cut[:, ::COLUMNS_AS_ONE].astype(np.uint16) + cut[:, 1::COLUMNS_AS_ONE]
    sums = pairs.reshape(SHAPE[0], ROWS_AS_ONE, SHAPE[1]).sum(axis=1, dtype=np.uint16)
    means: Screen = (sums // (ROWS_AS_ONE * COLUMNS_AS_ONE)).astype(np.uint8)
    return 255 - means


class CartPolePixels(gymnasium.ObservationWrapper[Screen, Any, NDArray[np.float32]]):
    """CartPole-v1's physics, rewards and picture; observations are (20, 90) uint8, `render()` gives the whole picture.

    Raises DependencyNotInstalled when there is no pygame, with which CartPole draws.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        if find_spec("pygame") is None:
            raise DependencyNotInstalled("CartPole draws with pygame: pip install 'multiserverrl[classic-control]'")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it would greet on the stdout of every program
        cartpole = CartPoleEnv(render_mode="rgb_array")
        cartpole.screen_width, cartpole.screen_height = SCREEN_WIDTH, SCREEN_HEIGHT
        super().__init__(cartpole)
        self.observation_space = gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)

    def observation(self, observation: NDArray[np.float32]) -> Screen:
        """What is seen now; the state that CartPole gives is left unused."""
        return around_the_cart(self.env.render())  # type: ignore[arg-type]
