"""CleanRL's own dqn.py, with nothing changed but how its envs are made, learns on remote environments."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from multiserverrl.adapters.cleanrl import CleanRLEnvs
from tests.adapters.conftest import SCRIPTED

pytestmark = pytest.mark.trainers

LOCAL_ENVS = re.compile(r"gym\.vector\.SyncVectorEnv\(\n.*?\n    \)", re.DOTALL)


def script_on(url: str) -> str:
    """dqn.py as it is installed, with remote envs."""
    path = next(file for file in importlib.metadata.files("cleanrl") or [] if str(file) == "cleanrl/dqn.py")
    remote = f"multiserverrl.adapters.cleanrl.CleanRLEnvs({url!r}, args.env_id, args.num_envs, seed=args.seed)"
    text, changes = LOCAL_ENVS.subn(remote, path.read_text("utf-8"))
    assert changes == 1
    return "import multiserverrl.adapters.cleanrl\n" + text


def test_dqn_learns_on_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "dqn.py").write_text(script_on(url), "utf-8")
    settings = "--total-timesteps 16000 --learning-starts 1000 --train-frequency 2 --learning-rate 1e-3"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "dqn.py",
        *settings.split(),
        "--exploration-fraction",
        "0.3",
        "--seed",
        "1",
        "--cuda",
        "False",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    returns = [float(text) for text in re.findall(r"episodic_return=\[?([0-9.]+)", done.stdout)]
    assert np.mean(returns[:10]) < 40 and np.mean(returns[-10:]) > 80, returns


def test_only_the_envs_whose_episode_ended_say_so(url: str) -> None:
    envs = CleanRLEnvs(url, "CartPole-v1", 3, seed=1)
    envs.reset(seed=1)
    length, ended = 0, np.zeros(3, np.bool_)
    while not ended.any():
        observations, _, terminated, truncated, infos = envs.step(np.array([0, 1, 0]))
        length, ended = length + 1, terminated | truncated
    assert not ended.all()
    assert infos["_final_info"].tolist() == infos["_final_observation"].tolist() == ended.tolist()
    for env in range(3):
        if ended[env]:
            assert infos["final_info"][env]["episode"]["l"] == infos["final_info"][env]["episode"]["r"] == length
            assert abs(infos["final_observation"][env][2]) > 0.2 > abs(observations[env][2])  # the pole fell
        else:
            assert infos["final_info"][env] is None and infos["final_observation"][env] is None
    envs.close()


def test_what_the_env_itself_said_at_the_end_is_kept(url: str) -> None:
    envs = CleanRLEnvs(url, SCRIPTED, 2)
    envs.reset(seed=1)
    for _ in range(7):
        *_, infos = envs.step(np.array([0, 1]))
    assert [info["steps"] for info in infos["final_info"]] == [7, 7]
    assert "final_info" not in envs.step(np.array([0, 1]))[4]
    envs.close()
