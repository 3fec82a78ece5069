"""MinAtar's Breakout for a server or a run: `bench/minatar_env.py:Breakout`; needs the extra `minatar`.

10×10 bools in 4 channels, 3 actions, each repeated with a chance of 0.1 (Young and Tian, arXiv:1903.03176).
"""

from __future__ import annotations

from typing import Any

import gymnasium
from minatar.gym import register_envs

ENV_ID = "MinAtar/Breakout-v1"

if ENV_ID not in gymnasium.registry:
    register_envs()


def Breakout(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:  # noqa: N802 (named as an env's class is)
    return gymnasium.make(ENV_ID, render_mode=render_mode, disable_env_checker=True)
