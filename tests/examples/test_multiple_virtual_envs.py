"""examples/multiple_virtual_envs: it runs, it learns, and its maths is right."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.examples.support import EXAMPLES, free_ports, run, running

FOLDER = EXAMPLES / "multiple_virtual_envs"
SCREEN_LINES = 60


@pytest.fixture
def dqn(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    from model import dqn

    yield dqn
    for name in [name for name in sys.modules if name.split(".")[0] in ("model", "workers")]:
        del sys.modules[name]


@pytest.mark.long
def test_server_and_client_learn_cartpole() -> None:
    port = str(free_ports(4))
    with running(FOLDER, "server.py", "--port", port, "--count", "4"):
        printed = run(FOLDER, "client.py", "--port", port, "--count", "4", "--episodes", "200")
    ended = re.search(r"ended after (\d+) episodes: mean return ([\d.]+) over the last 20", printed)
    assert ended is not None, printed
    assert float(ended[2]) > 150


def test_every_exploration_worker_plays_its_episodes() -> None:
    port = str(free_ports(2))
    with running(FOLDER, "server.py", "--port", port, "--count", "2"):
        printed = run(FOLDER, "client.py", "--port", port, "--count", "2", "--episodes", "3")
    assert "ended after 6 episodes" in printed


def test_terminated_ends_the_return_and_truncated_bootstraps(dqn: ModuleType) -> None:
    torch.manual_seed(0)
    network, target = dqn.make_network(4, 2), dqn.make_network(4, 2)
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 3, 4)).astype(np.float32)
    action, reward = np.array([0, 1, 1]), np.array([1, 2, 3], np.float32)
    terminated = np.array([False, True, False])

    losses = []
    for row in range(3):  # slowly, and one by one
        best = int(network(torch.from_numpy(next_obs[row])).argmax())
        future = 0.0 if terminated[row] else dqn.GAMMA * target(torch.from_numpy(next_obs[row]))[best].item()
        error = network(torch.from_numpy(obs[row]))[action[row]].item() - (reward[row] + future)
        losses.append(0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5)

    batch = [torch.from_numpy(field) for field in (obs, action, reward, next_obs, terminated)]
    loss = dqn.update(network, target, torch.optim.SGD(network.parameters(), lr=0.0), batch)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_replay_overwrites_the_oldest(dqn: ModuleType) -> None:
    replay = dqn.Replay(capacity=3, obs_size=1)
    for number in range(5):
        replay.add([number], number, float(number), [number + 1], number == 4)
    obs, action, reward, next_obs, terminated = replay.sample(100, np.random.default_rng(0))
    assert set(action.tolist()) == {2, 3, 4}
    assert torch.equal(obs.squeeze(1).long(), action)
    assert torch.equal(next_obs.squeeze(1).long(), action + 1)
    assert torch.equal(terminated, action == 4)
    assert torch.equal(reward.long(), action)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_each_file_fits_on_one_screen_and_says_what_it_is(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= SCREEN_LINES
    assert text == "" or ast.get_docstring(ast.parse(text))
