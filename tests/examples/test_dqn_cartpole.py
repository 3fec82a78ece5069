"""examples/dqn_cartpole.py runs on a server, and on nothing else of ours than VirtualEnv."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.examples.support import EXAMPLES, port_of, run, running


def test_it_plays_and_learns_for_a_few_episodes() -> None:
    with running(EXAMPLES, "-m", "multiserverrl", "serve", "CartPole-v1", "--port", "0") as server:
        printed = run(EXAMPLES, "dqn_cartpole.py", "--port", port_of(server), "--episodes", "30")
    steps = re.search(r"episode 30  steps (\d+)", printed)
    assert steps is not None, printed
    assert int(steps[1]) > 500, "it never got past its warm-up: nothing was learned from"
    assert re.search(r"ended: mean return \d+\.\d", printed)


def test_without_a_server_it_says_so_in_one_line() -> None:
    command = [sys.executable, str(EXAMPLES / "dqn_cartpole.py"), "--port", "1"]  # a port that nobody listens at
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "nobody answers at http://localhost:1" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_it_uses_virtual_env_alone() -> None:
    text = (EXAMPLES / "dqn_cartpole.py").read_text("utf-8")
    assert set(re.findall(r"multiserverrl\.(\w+)", text)) == {"MultiServerRLError", "VirtualEnv"}
