"""examples/simple_virtual_env: it plays from pixels alone, learns, and its maths is right."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from multiserverrl.envs.cartpole_pixels import around_the_cart, middle_of_the_cart
from tests.examples.support import EXAMPLES, free_ports, port_of, run, running

FOLDER = EXAMPLES / "simple_virtual_env"
LINES = 250


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The client and the server of the example."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.syspath_prepend(str(FOLDER))
    import client
    import server

    yield client, server
    for name in ("client", "server"):
        del sys.modules[name]


@pytest.fixture
def client(modules: tuple[ModuleType, ModuleType]) -> ModuleType:
    return modules[0]


@pytest.fixture
def screens(modules: tuple[ModuleType, ModuleType]) -> Iterator[list[Any]]:
    env = modules[1].cartpole()
    env.reset(seed=0)
    shown = []
    for place in (-2.4, -1.5, -0.3, 0.0, 0.7, 2.1):
        env.unwrapped.state = (place, 0.0, 0.1, 0.0)
        shown.append(env.render())
    yield shown
    env.close()


def test_server_and_client_play_and_learn_for_a_few_episodes() -> None:
    with running(FOLDER, "server.py", "--host", "127.0.0.1", "--port", "0") as server:
        printed = run(FOLDER, "client.py", "--host", "127.0.0.1", "--port", port_of(server), "--episodes", "30")
    steps = re.search(r"episode 30  steps (\d+)", printed)
    assert steps is not None, printed
    assert int(steps[1]) > 500, "it never got past its warm-up: nothing was learned from"
    assert re.search(r"ended: greedy mean return \d+\.\d", printed)


def test_without_a_server_a_line_says_so(client: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["client.py", "--port", str(free_ports(1))])
    with pytest.raises(SystemExit, match="nobody answers at http://localhost"):
        client.main()


@pytest.mark.long
def test_it_keeps_the_pole_up_by_looking_at_it() -> None:
    with running(FOLDER, "server.py", "--port", "0") as server:
        printed = run(FOLDER, "client.py", "--port", port_of(server))
    ended = re.search(r"ended: greedy mean return ([\d.]+)", printed)
    assert ended is not None and float(ended[1]) >= 195, printed


def test_it_looks_at_nothing_but_what_is_rendered(modules: tuple[ModuleType, ModuleType]) -> None:
    client, server = modules
    env = server.cartpole()

    class Blindfolded:
        def reset(self, seed: int | None = None) -> tuple[None, None]:
            env.reset(seed=0)
            return None, None

        def step(self, action: int) -> tuple[None, float, bool, bool, None]:
            _, reward, terminated, truncated, _ = env.step(action)
            return None, reward, terminated, truncated, None

        def render(self) -> Any:
            return env.render()

    agent = client.Agent(2, seed=0)
    length = client.play(Blindfolded(), agent, is_greedy=False)
    assert agent.replay.added == length > 5, "each step of an episode, the last ones too, becomes a transition"
    env.close()


def test_it_sees_what_cartpole_pixels_sees(client: ModuleType, screens: list[Any]) -> None:
    for screen in screens:
        assert client.cart_column(screen) == middle_of_the_cart(screen)
        difference = client.picture_of(screen).astype(int) - around_the_cart(screen)
        assert np.abs(difference).max() <= 1  # means are rounded in other places


@pytest.mark.parametrize("is_terminated", [True, False])
def test_transitions_have_n_rewards_or_all_until_the_end(client: ModuleType, is_terminated: bool) -> None:
    replay, length, n = client.Replay(), 12, client.N_STEP
    steps = client.Steps(replay)
    pictures = np.arange(length + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 20, 90), np.uint8)
    rewards = np.arange(1.0, length + 1)
    for t in range(length):
        steps.add(pictures[t], t % 2, rewards[t], pictures[t + 1])
    steps.end(pictures[length], is_terminated)

    assert replay.added == length
    for t in range(length):  # slowly, and one by one
        last = min(t + n, length)
        wanted = sum(client.GAMMA ** (k - t) * client.REWARD_SCALE * rewards[k] for k in range(t, last))
        ends = is_terminated and t + n > length
        assert replay.reward[t] == pytest.approx(wanted, rel=1e-5)
        assert replay.discount[t] == pytest.approx(0.0 if ends else client.GAMMA ** (last - t))
        assert (replay.seen[t] == t).all() and (replay.then_seen[t] == last).all() and replay.action[t] == t % 2


def test_the_loss_is_that_of_double_dqn(client: ModuleType) -> None:
    torch.manual_seed(0)
    network, target = client.make_network(2), client.make_network(2)
    seen, then_seen = torch.rand(2, 3, client.STACK, *client.PICTURE_SHAPE)
    action, reward, discount = torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.9, 0.0, 0.5])
    losses = []
    for row in range(3):  # slowly, and one by one
        values, values_then, targets_then = (
            net(stacks[row : row + 1])[0].detach().numpy()
            for net, stacks in ((network, seen), (network, then_seen), (target, then_seen))
        )
        wanted = reward[row].item() + discount[row].item() * targets_then[values_then.argmax()]
        error = values[action[row]] - wanted
        losses.append(0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5)
    loss = client.loss_of(network, target, [seen, then_seen, action, reward, discount])
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_it_is_short_and_uses_virtual_env_alone() -> None:
    text = (FOLDER / "client.py").read_text("utf-8")
    assert len(text.splitlines()) <= LINES
    assert set(re.findall(r"multiserverrl\.(\w+)", text)) == {"VirtualEnv", "MultiServerRLError"}
