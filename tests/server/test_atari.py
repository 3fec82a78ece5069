"""An Atari game, preprocessed at the server as its command line or a file says, is as it would be here."""

import re
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

import multiserverrl as msr
from multiserverrl.errors import UnknownEnvError
from multiserverrl.testing.contract import assert_same, trajectory
from multiserverrl.testing.serving import serving
from tests.examples.support import port_of, running

gymnasium.register_envs(ale_py)
SETTINGS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
FLAGS = [
    *["--env-arg", "frameskip=1"],
    *["--wrapper", "gymnasium.wrappers:AtariPreprocessing", "--wrapper-arg", "frame_skip=3"],
    *["--wrapper-arg", "screen_size=42", "--wrapper-arg", "terminal_on_life_loss=true"],
]


def pong() -> Any:
    return gymnasium.make("ALE/Pong-v5", frameskip=1)


def assert_served_as(local: Any, tmp_path: Path, *arguments: str) -> None:
    command = ["-m", "multiserverrl", "serve", *arguments, "--port", "0", "--count", "1"]
    with running(tmp_path, *command) as server, msr.VirtualEnv(f"http://localhost:{port_of(server)}") as env, local:
        assert (env.observation_space, env.action_space) == (local.observation_space, local.action_space)
        assert_same(trajectory(env, 20), trajectory(local, 20))


def test_it_is_preprocessed_as_the_flags_say(tmp_path: Path) -> None:
    local = AtariPreprocessing(pong(), frame_skip=3, screen_size=42, terminal_on_life_loss=True)
    assert_served_as(local, tmp_path, "ale_py:ALE/Pong-v5", *FLAGS)


def test_the_file_in_the_documents_serves_it_as_it_says(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", SETTINGS_PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    (tmp_path / "serve.toml").write_text(example[1])
    local = FrameStackObservation(AtariPreprocessing(pong(), frame_skip=4, grayscale_obs=True), 4)
    assert_served_as(local, tmp_path, "--config", "serve.toml")


def test_an_id_without_its_module_is_answered_with_the_module() -> None:
    with pytest.raises(UnknownEnvError, match="ale_py:ALE/Pong-v5"):
        with serving("ALE/Pong-v5", workers=1):
            raise AssertionError("it was served")
