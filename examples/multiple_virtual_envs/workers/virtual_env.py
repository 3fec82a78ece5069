"""One virtual env: the API is here, the env itself is in a server's process."""

import time
from collections.abc import Iterator

import numpy as np

import multiserverrl
from model.agents import ExploringAgent

# obs, action, reward, next_obs, terminated, truncated
Transition = tuple[np.ndarray, int, float, np.ndarray, bool, bool]


def open_virtual_env(host: str, port: int, wait_s: float = 60.0) -> multiserverrl.VirtualEnv:
    """Tries for `wait_s`, because the server may still be starting."""
    deadline, has_said = time.monotonic() + wait_s, False
    while True:
        try:
            return multiserverrl.VirtualEnv(f"http://{host}:{port}")
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            if not has_said:
                print(f"nobody answers at {host}:{port} yet; waiting for server.py", flush=True)
                has_said = True
            time.sleep(0.2)


def play_episode(env: multiserverrl.VirtualEnv, agent: ExploringAgent, seed: int | None = None) -> Iterator[Transition]:
    """Every transition of one episode, the last one too: it alone says that falling over is bad."""
    obs, _ = env.reset(seed=seed)
    is_over = False
    while not is_over:
        action = agent.act(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        yield obs, action, float(reward), next_obs, terminated, truncated
        obs, is_over = next_obs, terminated or truncated
