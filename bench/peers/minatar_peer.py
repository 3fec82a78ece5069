"""Stable-Baselines3's PPO on MinAtar's Breakout: the curve that the row `minatar` of `train.py` is held against.

    python bench/peers/minatar_peer.py [--seeds 0-2] [--max-steps 1000000] --out bench/peers/minatar_breakout.json

Needs the extras `sb3` and `minatar`. The network is MinAtar's own (a convolution of 16 kernels of 3×3, 128 hidden). A
point of a curve is the mean return of the last 100 training episodes, as in ours; the clock counts training alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from minatar.gym import register_envs
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

ENV_ID = "MinAtar/Breakout-v1"
NUM_ENVS = 8
POINT_EVERY = 20_000
SETTINGS: dict[str, Any] = {
    "n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.95, "ent_coef": 0.01,
    "clip_range": 0.1,
}  # fmt: skip
LEARNING_RATE = 5e-4  # falling to 0 over the run


class ChannelsFirst(gymnasium.ObservationWrapper[Any, Any, Any]):
    """(10, 10, 4) bools → (4, 10, 10) float32."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        height, width, channels = env.observation_space.shape or ()
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (channels, height, width), np.float32)

    def observation(self, observation: Any) -> Any:
        return observation.transpose(2, 0, 1).astype(np.float32)


class SmallNetwork(BaseFeaturesExtractor):
    """Images of 10×10 are too small for Stable-Baselines3's own."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, features_dim=128)
        channels, height, width = space.shape
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(16 * (height - 2) * (width - 2), 128), torch.nn.ReLU(),
        )  # fmt: skip

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


class Points(BaseCallback):
    """Env steps and mean return, every so often."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        if self.num_timesteps % POINT_EVERY < NUM_ENVS and episodes:
            self.points.append((self.num_timesteps, float(np.mean([episode["r"] for episode in episodes]))))
        return True


def one_seed(seed: int, max_steps: int) -> dict[str, Any]:
    envs = make_vec_env(ENV_ID, n_envs=NUM_ENVS, seed=seed, wrapper_class=ChannelsFirst)
    policy = {"features_extractor_class": SmallNetwork, "normalize_images": False, "net_arch": []}
    rate = lambda left: LEARNING_RATE * left  # noqa: E731
    model = PPO("CnnPolicy", envs, learning_rate=rate, seed=seed, device="cpu", policy_kwargs=policy, **SETTINGS)
    points, began_s = Points(), time.perf_counter()
    model.learn(max_steps, callback=points)
    wall_s = time.perf_counter() - began_s
    return {"seed": seed, "wall_s": wall_s, "steps": model.num_timesteps, "curve": points.points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2", help="first-last; a seed that --out holds already is left out")
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; each seed is added to it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    register_envs()
    first, _, last = arguments.seeds.partition("-")
    told = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"peer": "SB3 PPO", "runs": []}
    for seed in range(int(first), int(last or first) + 1):
        if any(run["seed"] == seed for run in told["runs"]):
            continue
        run = one_seed(seed, arguments.max_steps)
        told["runs"].append(run)
        print("RESULT " + json.dumps({**run, "curve": run["curve"][-1:]}), flush=True)
        arguments.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
