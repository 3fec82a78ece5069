"""Environments of ours, known to Gymnasium by their ids wherever this package is imported.

This page imports none of them: an id is looked up, and its module loaded, where an env is made.
"""

from __future__ import annotations

import gymnasium

__all__ = ["CARTPOLE_PIXELS", "register"]

CARTPOLE_PIXELS = "CartPole-pixels"
_ENTRY_POINT = "multiserverrl.envs.cartpole_pixels:CartPolePixels"
_GOOD_RETURN = 195.0  # what CartPole-v0 called solved; from pixels most programs never get there


def register() -> None:
    """Tell Gymnasium of them, once."""
    if CARTPOLE_PIXELS not in gymnasium.registry:
        gymnasium.register(
            CARTPOLE_PIXELS, entry_point=_ENTRY_POINT, max_episode_steps=500, reward_threshold=_GOOD_RETURN
        )
