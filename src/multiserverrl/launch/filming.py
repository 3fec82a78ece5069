"""`eval --video`: greedy episodes as an MP4 (H.264, 4:2:0, which browsers play), in the env's own frames per second."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import ConfigError, RunError
from multiserverrl.observe.disk import aside_of, discard

__all__ = ["Film", "FilmWriter", "Shot", "play_before"]

Array = NDArray[Any]
DEFAULT_FPS = 30.0  # of an env whose metadata has no render_fps
QUALITY = "20"  # x264's constant rate factor: 0 is without loss, 51 the worst


@dataclass(frozen=True)
class Film:
    """What is asked for; ConfigError, before anything is played, when it cannot be made."""

    path: Path
    episodes: int = 1

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"--video-episodes must be at least 1, not {self.episodes}")
        if self.path.suffix.lower() != ".mp4":
            raise ConfigError(f"--video {self.path} must end in .mp4, the only kind that is written")
        if not self.path.parent.is_dir():
            raise ConfigError(f"--video {self.path}: there is no directory {self.path.parent}")
        if self.path.is_dir():
            raise ConfigError(f"--video {self.path} is a directory")
        if find_spec("av") is None:
            how = "pip install 'multiserverrl[video]' (in a checkout: pip install -e '.[video]')"
            raise ConfigError(f"--video needs the package av: {how}")


@dataclass(frozen=True)
class Shot:
    """What was filmed."""

    frames: int
    fps: float
    returns: tuple[float, ...]


class FilmWriter:
    """Writes frames aside; the file bears its name once it is whole. Leave it by an error, and nothing is left."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._aside = path, aside_of(path)
        self._fps = Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self.frames = 0

    def __enter__(self) -> FilmWriter:
        return self

    def write(self, frame: Array) -> None:
        """A frame, (height, width, 3) uint8, each of the size of the first. RunError when it is none."""
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise RunError(f"the env renders {frame.dtype}{frame.shape}, a film needs uint8 (height, width, 3)")
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")  # 4:2:0 wants pairs
        if self._container is None:
            self._open(*frame.shape[:2])
        if frame.shape[:2] != (self._stream.height, self._stream.width):
            raise RunError(f"the env renders frames of other sizes than the first: {frame.shape}")
        self._guarded(lambda: self._encode(frame))
        self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._container is not None and error is None:
                self._guarded(self._finish)
        finally:
            if self._container is not None:
                self._container.close()
            discard(self._aside)

    def _open(self, height: int, width: int) -> None:
        import av

        def begin() -> None:
            self._container = av.open(str(self._aside), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=self._fps, options={"crf": QUALITY})
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"

        self._guarded(begin)

    def _encode(self, frame: Array) -> None:
        import av

        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        self._container.mux(self._stream.encode())
        container, self._container = self._container, None
        container.close()
        self._aside.replace(self._path)

    def _guarded(self, write: Callable[[], None]) -> None:
        import av

        try:
            write()
        except (OSError, av.FFmpegError) as error:
            raise RunError(f"--video {self._path} cannot be written: {error}") from error


def fps_of(env: gymnasium.Env[Any, Any]) -> float:
    """Frames per second that the env's metadata names."""
    told = env.metadata.get("render_fps")
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return DEFAULT_FPS
    return float(told) if math.isfinite(told) and told > 0 else DEFAULT_FPS


def play_before(env: gymnasium.Env[Any, Any], policy: Callable[[Any, Array], Array], film: Film, seed: int) -> Shot:
    """Film greedy episodes, from the first frame after the reset to the one in which the episode ended."""
    returns = []
    fps = fps_of(env)
    with FilmWriter(film.path, fps) as writer:
        for episode in range(film.episodes):
            obs, _ = env.reset(seed=seed if episode == 0 else None)
            writer.write(_frame(env))
            total, has_ended, begins = 0.0, False, True
            while not has_ended:
                action = policy(_batch_of(obs), np.array([begins]))[0]
                obs, reward, terminated, truncated, _ = env.step(action)
                writer.write(_frame(env))
                total, has_ended, begins = total + float(reward), terminated or truncated, False
            returns.append(total)
    return Shot(writer.frames, fps, tuple(returns))


def _frame(env: gymnasium.Env[Any, Any]) -> Array:
    frame: Any = env.render()
    if frame is None:
        raise RunError("the env renders nothing, though it was opened with render_mode='rgb_array'")
    return np.asarray(frame)


def _batch_of(obs: Any) -> Any:
    """One env's observation as that of a vector env of one."""
    return (
        {name: np.asarray(part)[None] for name, part in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]
    )
