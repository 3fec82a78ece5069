"""A film of greedy episodes is an MP4 that decodes to what was rendered, or a clear error and no file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest

from multiserverrl.errors import ConfigError, RunError
from multiserverrl.launch import filming
from multiserverrl.launch.filming import Film, FilmWriter, play_before


class Slide(gymnasium.Env[Any, Any]):
    """A white square that moves by one square a step over a picture of 33 × 47; an episode has 6 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12.5}  # noqa: RUF012 - gymnasium's own way
    observation_space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(0.0, 9.0, (1,))})
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0
        return {"place": np.zeros(1, np.float32)}, {}

    def step(self, action: Any) -> Any:
        self.place += int(action)
        return {"place": np.full(1, self.place, np.float32)}, 1.0, self.place == 6, False, {}

    def render(self) -> Any:
        frame = np.zeros((33, 47, 3), np.uint8)
        frame[8:24, 7 * self.place : 7 * self.place + 5] = 255
        return frame


class Seen:
    """A policy that always steps on, and notes what it was shown."""

    def __init__(self) -> None:
        self.begins: list[bool] = []

    def __call__(self, obs: Any, begins: np.ndarray) -> np.ndarray:
        assert obs["place"].shape == (1, 1)
        self.begins += begins.tolist()
        return np.ones(1, np.int64)


def decoded(path: Path) -> tuple[list[np.ndarray], float, str, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate or 0), stream.codec_context.name, str(stream.codec_context.pix_fmt)


def test_a_film_decodes_to_every_frame_that_was_rendered_at_the_envs_own_pace(tmp_path: Path) -> None:
    policy, film = Seen(), Film(tmp_path / "out.mp4", episodes=2)
    shot = play_before(Slide(), policy, film, seed=0)
    frames, fps, codec, pixels = decoded(film.path)
    assert (shot.frames, shot.fps, shot.returns) == (14, 12.5, (6.0, 6.0))
    assert (len(frames), fps, codec, pixels) == (14, 12.5, "h264", "yuv420p")
    assert {frame.shape for frame in frames} == {(34, 48, 3)}, "odd sizes are filled up"
    assert policy.begins == [True, *5 * [False]] * 2
    for number, frame in enumerate(frames):
        place = number % 7
        bright = frame[10:22, :47].mean(axis=(0, 2)) > 128
        assert set(np.flatnonzero(bright)) == set(range(7 * place, min(7 * place + 5, 47))), number
    assert list(tmp_path.iterdir()) == [film.path]


def test_a_film_that_breaks_off_leaves_no_file_and_keeps_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    frames = [np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)]
    with pytest.raises(RunError, match="other sizes"), FilmWriter(path, 30.0) as writer:
        list(map(writer.write, frames))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"float64\(2, 2\)"), FilmWriter(tmp_path / "out.mp4", 30.0) as writer:
        writer.write(np.zeros((2, 2)))


def test_an_env_without_a_pace_is_filmed_at_the_default_one() -> None:
    env = Slide()
    env.metadata = {"render_fps": None}
    assert filming.fps_of(env) == filming.DEFAULT_FPS


def test_a_film_that_cannot_be_made_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    for path, episodes, told in [
        (tmp_path / "out.avi", 1, "must end in .mp4"),
        (tmp_path / "nowhere" / "out.mp4", 1, "there is no directory"),
        (tmp_path / "out.mp4", 0, "--video-episodes must be at least 1"),
    ]:
        with pytest.raises(ConfigError, match=told):
            Film(path, episodes)


def test_a_missing_library_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(filming, "find_spec", lambda name: None if name == "av" else found(name))
    with pytest.raises(ConfigError, match=r"pip install 'multiserverrl\[video\]'"):
        Film(tmp_path / "out.mp4")
