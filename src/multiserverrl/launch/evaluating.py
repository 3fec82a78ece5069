"""The `eval` command: greedy episodes of a run's policy on fresh envs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.envs import open_envs, open_rendered
from multiserverrl.launch.filming import Film, Shot, play_before
from multiserverrl.launch.places import open_place
from multiserverrl.launch.seats import MOST_EVALUATION_ENVS
from multiserverrl.observe.rundir import RunDir
from multiserverrl.train.evaluate import greedy_returns
from multiserverrl.train.interval import half_width
from multiserverrl.train.policy import Policy, load_policy

__all__ = ["Score", "evaluate"]

_STREAM, _FILM_STREAM = 4, 5  # of random numbers: 0 to 3 are training's


@dataclass(frozen=True)
class Score:
    """Returns of `n` greedy episodes of these weights; `ci95` as of `Evaluation`, None where n is 1."""

    env_id: str
    mean: float
    std: float
    n: int
    version: int
    ci95: float | None
    shot: Shot | None = None  # of the film, where one was asked for


def evaluate(path: Path, launch: LaunchConfig, episodes: int, film: Film | None = None) -> Score:
    """Play greedy episodes with the policy of the run in `path`, on the envs that `launch` names; film others before.

    ConfigError when `path` is no run or its env is another; CheckpointError when it has no policy.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, not {episodes}")
    run_dir = RunDir.open(path)
    env_id = run_dir.config().get("env_id")
    if not isinstance(env_id, str):
        raise CheckpointError(f"{path / 'config.json'} does not say which env the run is of")
    policy = load_policy(run_dir.policy)
    num_envs = min(episodes, MOST_EVALUATION_ENVS)
    where = replace(launch, env_id=env_id, servers=1, count=num_envs, run_dir=None, resume=None)
    with open_place(where, evaluation_envs=0) as place:
        task = place.task.stacked(policy.task.frame_stack)
        if task != policy.task:
            raise ConfigError(f"the policy is of {policy.task}, {env_id} at {place.offers[0].url} is {task}")
        num_envs = min(num_envs, place.offers[0].free)
        if num_envs == 0:
            raise ConfigError(f"no environment is free at {place.offers[0].url}")
        shot = None if film is None else _shoot(film, place.offers[0].url, env_id, launch, policy)
        envs = open_envs(place.offers[0].url, env_id, num_envs, owner=None, trust=launch.trust)
        try:
            seed = int(np.random.SeedSequence([policy.config.seed, _STREAM]).generate_state(1)[0])
            returns = greedy_returns(envs, policy, episodes, seed)
        finally:
            envs.close()
    mean, std, n = float(returns.mean()), float(returns.std()), len(returns)
    return Score(env_id, mean, std, n, policy.version, half_width(std, n) if n > 1 else None, shot)


def _shoot(film: Film, url: str, env_id: str, launch: LaunchConfig, policy: Policy) -> Shot:
    seed = int(np.random.SeedSequence([policy.config.seed, _FILM_STREAM]).generate_state(1)[0])
    env = open_rendered(url, env_id, launch.trust)
    try:
        return play_before(env, policy, film, seed)
    finally:
        env.close()
