"""An environment of your own, served over HTTP and stepped from another process.

    multiserverrl serve examples/serve_your_env.py:Corridor --count 4

serves it. `python examples/serve_your_env.py` does both in one go: it starts that server, plays one
episode on it through a VirtualEnv, and stops it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np

import multiserverrl


class Corridor(gymnasium.Env):
    """Walk right to the door, without running out of time. Observed: place / length, and where the wind blows."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, length: int = 8, render_mode: str | None = None) -> None:
        self.length = length
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)  # left, right
        self.place, self.wind, self.steps = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)  # makes self.np_random from the seed
        self.place, self.steps = 0, 0
        self.wind = int(self.np_random.integers(-1, 2))
        return self._obs(), {}

    def step(self, action: int):
        self.steps += 1
        self.place = int(np.clip(self.place + (1 if action == 1 else -1) + self.wind, 0, self.length))
        self.wind = int(self.np_random.integers(-1, 2))
        terminated = self.place == self.length
        truncated = not terminated and self.steps >= 10 * self.length
        return self._obs(), 1.0 if terminated else -0.01, terminated, truncated, {"place": self.place}

    def render(self) -> np.ndarray:
        frame = np.full((20, 20 * (self.length + 1), 3), 230, np.uint8)
        frame[:, 20 * self.place : 20 * (self.place + 1)] = (40, 90, 160)
        return frame

    def _obs(self) -> np.ndarray:
        return np.array([self.place / self.length, self.wind], np.float32)


def connect(url: str, server: subprocess.Popen, wait_s: float = 60.0) -> multiserverrl.VirtualEnv:
    """Tries until the server is up; ConnectionError when it is not in time, or has ended."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return multiserverrl.VirtualEnv(url, render_mode="rgb_array")
        except ConnectionError:
            if time.monotonic() > deadline or server.poll() is not None:
                raise
            time.sleep(0.1)


def play_one_episode(env: multiserverrl.VirtualEnv) -> None:
    obs, _ = env.reset(seed=1)
    print(f"reset   place {obs[0]:.2f}  wind {obs[1]:+.0f}")
    is_over = False
    while not is_over:
        obs, reward, terminated, truncated, info = env.step(1)
        print(f"step    place {obs[0]:.2f}  wind {obs[1]:+.0f}  reward {reward:+.2f}  info {info}")
        is_over = terminated or truncated
    print("reached the door" if terminated else "out of time", f"(a frame is {env.render().shape})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800)
    options = parser.parse_args()

    command = [sys.executable, "-m", "multiserverrl", "serve", f"{__file__}:Corridor", "--count", "1"]
    server = subprocess.Popen([*command, "--host", options.host, "--port", str(options.port)])
    try:
        env = connect(f"http://{options.host}:{options.port}", server)
        play_one_episode(env)
        env.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
