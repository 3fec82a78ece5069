"""An env worker's process, before it answers: what it prepares for its envs."""

from __future__ import annotations

import os
import sys

import pytest

from multiserverrl.server.worker import draw_without_screen


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a screen has no variable")
@pytest.mark.parametrize(
    ("variables", "driver"),
    [({}, "dummy"), ({"DISPLAY": ":0"}, None), ({"WAYLAND_DISPLAY": "w"}, None), ({"SDL_VIDEODRIVER": "x11"}, "x11")],
)
def test_without_a_screen_pygame_draws_into_memory_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], driver: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(variables))
    draw_without_screen()
    assert os.environ.get("SDL_VIDEODRIVER") == driver
