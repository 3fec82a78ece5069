"""What run directories say of their runs, for listing and comparing; nothing in them is changed.

What is no run, or a broken one, is passed over by name: a reader of many directories must not stumble over one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from multiserverrl.errors import CheckpointError, ConfigError, MultiServerRLError
from multiserverrl.observe.rundir import RunDir

__all__ = ["Found", "PassedOver", "Point", "Run", "find_runs"]

TAIL_BYTES = 1 << 16  # the last line of metrics.jsonl is in it


class Point(msgspec.Struct):
    """One line of evaluations.jsonl; None where the number was none (NaN)."""

    env_steps: int
    wall_s: float
    mean: float | None
    ci95: float | None = None


class _Config(msgspec.Struct):
    """config.json, as far as it is shown."""

    env_id: str
    launch: dict[str, Any]
    train: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run; `status` is running, solved, ended or interrupted, and numbers are None while there are none."""

    name: str
    path: str
    env_id: str
    algorithm: str
    seed: int
    status: str
    env_steps: int | None
    wall_s: float | None  # training time
    best_eval: float | None
    begun_unix_s: float  # or gone on with
    settings: dict[str, Any] = field(repr=False)
    curve: list[Point] = field(repr=False)


class PassedOver(NamedTuple):
    """A directory that was not read, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Found:
    """The runs, and what was passed over; `is_chosen` when each run was named by itself."""

    runs: list[Run]
    passed_over: list[PassedOver]
    is_chosen: bool


def find_runs(paths: Sequence[Path]) -> Found:
    """The runs at these paths, in their order; of a single directory that is no run, those in it, the newest first.

    ConfigError when a path is no directory.
    """
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is no directory: name one that holds runs, or runs themselves")
    is_chosen = len(paths) > 1 or _is_run(paths[0])
    runs, passed_over = [], []
    for path in paths if is_chosen else sorted(path for path in paths[0].iterdir() if path.is_dir()):
        try:
            runs.append(_read(path))
        except (MultiServerRLError, OSError) as error:
            why = error.headline if isinstance(error, MultiServerRLError) else str(error)
            passed_over.append(PassedOver(str(path), why))
    if not is_chosen:
        runs.sort(key=lambda run: run.begun_unix_s, reverse=True)
    return Found(runs, passed_over, is_chosen)


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file()


def _read(path: Path) -> Run:
    run_dir = RunDir.open(path)
    try:
        config = msgspec.convert(run_dir.config(), _Config)
        named = msgspec.convert((config.train.get("algorithm"), config.train.get("seed")), tuple[str, int])
        result = run_dir.result()
        points = _lines(run_dir.evaluations)
        last = result or _last_line(run_dir.metrics)
        means: list[Any] = [point.mean for point in points] or [last.get("eval_mean")]
        numbers = msgspec.convert([last.get("env_steps"), last.get("wall_s"), *means], list[float | None])
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold what a run writes: {error}") from error
    env_steps, wall_s, *best = numbers
    return Run(
        name=path.resolve().name,
        path=str(path),
        env_id=config.env_id,
        algorithm=named[0],
        seed=named[1],
        status=_status(run_dir, result),
        env_steps=None if env_steps is None else int(env_steps),
        wall_s=wall_s,
        best_eval=max((mean for mean in best if mean is not None), default=None),
        begun_unix_s=(path / "config.json").stat().st_mtime,
        settings={**config.launch, **config.train},
        curve=_learning_curve(points),
    )


def _status(run_dir: RunDir, result: dict[str, Any] | None) -> str:
    if result is not None:
        return "solved" if result.get("solved") else "ended"
    return "running" if run_dir.is_running() else "interrupted"


def _lines(path: Path) -> list[Point]:
    """All whole lines; none when there is no file."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Point)
    return [decoder.decode(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def _learning_curve(points: list[Point]) -> list[Point]:
    """Without those that a resumed run went back behind: it did that part once more."""
    curve: list[Point] = []
    for point in points:
        while curve and curve[-1].env_steps > point.env_steps:
            curve.pop()
        curve.append(point)
    return curve


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line; empty when there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        whole = file.read().split(b"\n")[:-1]
    return dict(json.loads(whole[-1])) if whole else {}
