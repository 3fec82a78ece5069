"""examples/serve_your_env.py serves its own environment and plays on it."""

from __future__ import annotations

from tests.examples.support import EXAMPLES, free_ports, run


def test_it_serves_itself_and_plays_an_episode() -> None:
    printed = run(EXAMPLES, "serve_your_env.py", "--port", str(free_ports(1)))
    assert "reset   place 0.00" in printed
    assert "reached the door (a frame is (20, 180, 3))" in printed
