"""What a run writes down about itself at its start, and what a later part of it reads back."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.launch.asked import config_text
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.places import Place
from multiserverrl.launch.seats import Seats
from multiserverrl.observe.loggers import RunName
from multiserverrl.observe.rundir import RunDir, default_path
from multiserverrl.train.config import TrainConfig, config_from_json

__all__ = ["EarlierRun", "begin_run", "effective", "resumed_settings", "run_name"]


class _Record(msgspec.Struct):
    """config.json, the versions left out."""

    env_id: str
    launch: LaunchConfig
    train: dict[str, Any]
    seats: Seats
    owner: str  # the key of the run's sessions: a later part of the run takes their places over
    id: str = ""  # no other run has it: loggers know the run by it


class EarlierRun:
    """A run that is gone on with; this process holds its lock."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._record = _read(run_dir)
        self.owner, self.id = self._record.owner, self._record.id

    @classmethod
    @contextmanager
    def lock(cls, path: Path) -> Iterator[EarlierRun]:
        """ConfigError when it is no run, or one that still runs; CheckpointError when its config is broken."""
        run_dir = RunDir.resume(path)
        try:
            yield cls(run_dir)
        finally:
            run_dir.close()

    def result_for(self, config: TrainConfig) -> dict[str, Any] | None:
        """What result.json holds where the run is solved, and is not asked for another end than it has reached."""
        try:
            result = self.run_dir.result()
        except CheckpointError:
            return None
        goal, episodes = self._record.train.get("stop_at_return"), self._record.train.get("episodes")
        is_same = config.stop_at_return in (None, goal) and config.episodes == episodes
        return result if result and result.get("solved") is True and is_same else None

    def claims(self) -> dict[str, int]:
        """Envs that the earlier part had on each server, and may hold still."""
        seats, claims = self._record.seats, Counter[str]()
        for group in seats.groups:
            claims[group.url] += group.num_envs
        if not seats.is_borrowed:
            claims[seats.evaluation_url] += seats.evaluation_envs
        return dict(claims)


def begin_run(
    launch: LaunchConfig,
    config: TrainConfig,
    place: Place,
    seats: Seats,
    earlier: EarlierRun | None,
    git: dict[str, Any] | None = None,
) -> tuple[RunDir, str]:
    """The run's directory, with its effective settings and the state of git written down, and its owner key."""
    settled = effective(launch, place)
    record = {
        "git": git,
        "env_id": place.env_id,
        "launch": dataclasses.asdict(settled),
        "train": dataclasses.asdict(config),
        "seats": msgspec.to_builtins(seats),
        "owner": earlier.owner if earlier else secrets.token_hex(16),
        "id": (earlier.id if earlier else "") or secrets.token_hex(4),
    }
    if earlier:
        earlier.run_dir.begin_again(record, config_text(settled, config))
        return earlier.run_dir, earlier.owner
    path = Path(launch.run_dir) if launch.run_dir else default_path(place.env_id, config.seed, time.time())
    return RunDir.create(path, record, config_text(settled, config)), str(record["owner"])


def run_name(run_dir: RunDir) -> RunName:
    """How loggers name the run that `begin_run` began."""
    return RunName(run_dir.path.resolve().name, _read(run_dir).id, str(run_dir.path))


def effective(launch: LaunchConfig, place: Place) -> LaunchConfig:
    """With what only the envs could tell, and without what is of one start alone."""
    count = place.count or sum(offer.free for offer in place.offers)
    return dataclasses.replace(launch, env_id=place.env_id, count=count, run_dir=None, resume=None)


def resumed_settings(path: Path) -> tuple[LaunchConfig, TrainConfig]:
    """The settings that the run in this directory was last begun with."""
    record = _read(RunDir.open(path, "--resume"))
    _refuse_unknown(path, record.train)
    try:
        return record.launch, config_from_json(msgspec.json.encode(record.train))
    except ConfigError as error:
        raise CheckpointError(f"{path / 'config.json'} does not hold the settings of a run: {error}") from error


def _refuse_unknown(path: Path, settings: dict[str, Any]) -> None:
    """A run of another version may have settings that mean nothing here, and checkpoints that do not load."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown := sorted(settings.keys() - known):
        raise CheckpointError(
            f"{path / 'config.json'} has settings that this version does not know ({', '.join(unknown)}): another "
            "version began the run, go on with that one, or begin a new run"
        )


def _read(run_dir: RunDir) -> _Record:
    try:
        return msgspec.convert(run_dir.config(), _Record)
    except (ConfigError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{run_dir.path / 'config.json'} does not hold the settings of a run: {error}") from error
