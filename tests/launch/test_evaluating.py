"""`eval` of a run that was never trained: scores, and films through an env server."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from multiserverrl.cli import main
from multiserverrl.errors import ConfigError
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.evaluating import evaluate
from multiserverrl.launch.filming import Film
from multiserverrl.observe.rundir import RunDir
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import start_server
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.policy import Policy, save_policy
from multiserverrl.train.task import Task
from multiserverrl.train.weights import stamped


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with the policy that a run on CartPole begins with."""
    path = tmp_path_factory.mktemp("runs") / "run"
    RunDir.create(path, {"env_id": "CartPole-v1"}).close()
    config, task = TrainConfig(hidden="8"), Task((4,), 2)
    weights = stamped(algorithm_for(config, task).init().weights(), 0, 0)
    save_policy(path / "policy.safetensors", Policy(config, task, weights, version=1))
    return path


def test_a_film_is_made_through_an_env_server_and_shows_every_step(run: Path, tmp_path: Path) -> None:
    film = Film(tmp_path / "out.mp4", episodes=2)
    score = evaluate(run, LaunchConfig(), episodes=5, film=film)
    assert score.n == 5
    assert score.ci95 is not None
    assert score.ci95 > 0
    assert score.shot is not None
    assert score.shot.fps == 50
    assert score.shot.frames == sum(score.shot.returns) + 2, "CartPole pays 1 a step, and begins with a frame"
    with av.open(str(film.path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == score.shot.frames
    assert {frame.shape for frame in frames} == {(400, 600, 3)}
    assert any(np.abs(frame.astype(int) - frames[0]).max() > 100 for frame in frames)


def test_one_episode_tells_its_return_and_no_interval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = evaluate(run, LaunchConfig(is_local=True), episodes=1)
    assert (score.n, score.ci95) == (1, None)


def test_a_server_whose_env_renders_no_pictures_is_named_before_anything_is_played(run: Path, tmp_path: Path) -> None:
    server = start_server(ServerConfig(env_ids=("tests/launch/plain_env.py:Plain",), port=0, count=2))
    try:
        launch = LaunchConfig(port=int(server.url.rpartition(":")[2]))
        (tmp_path / "run").mkdir()
        record = {**json.loads((run / "config.json").read_text()), "env_id": "tests/launch/plain_env.py:Plain"}
        (tmp_path / "run" / "config.json").write_text(json.dumps(record))
        (tmp_path / "run" / "policy.safetensors").write_bytes((run / "policy.safetensors").read_bytes())
        with pytest.raises(ConfigError, match="has no render_mode 'rgb_array'; it has none"):
            evaluate(tmp_path / "run", launch, episodes=1, film=Film(tmp_path / "out.mp4"))
    finally:
        server.stop()
    assert not (tmp_path / "out.mp4").exists()


def test_a_film_that_cannot_be_made_is_one_line_at_the_command_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run), "--video", "out.gif"]) == 2
    assert capsys.readouterr().err == "multiserverrl: --video out.gif must end in .mp4, the only kind that is written\n"
