"""examples/dqn_cartpole.py runs on a server, and on nothing else of ours than VirtualEnv."""

from __future__ import annotations

import re

from tests.examples.support import EXAMPLES, port_of, run, running


def test_it_plays_and_learns_for_a_few_episodes() -> None:
    with running(EXAMPLES, "-m", "multiserverrl", "serve", "CartPole-v1", "--port", "0") as server:
        printed = run(EXAMPLES, "dqn_cartpole.py", "--port", port_of(server), "--episodes", "30")
    steps = re.search(r"episode 30  steps (\d+)", printed)
    assert steps is not None, printed
    assert int(steps[1]) > 500, "it never got past its warm-up: nothing was learned from"
    assert re.search(r"ended: mean return \d+\.\d", printed)


def test_it_uses_virtual_env_alone() -> None:
    text = (EXAMPLES / "dqn_cartpole.py").read_text("utf-8")
    assert set(re.findall(r"multiserverrl\.(\w+)", text)) == {"VirtualEnv"}
