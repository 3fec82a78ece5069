"""What `train` is asked to do: defaults, recipe, config file and flags, in this order, become one pair of settings."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from multiserverrl.errors import ConfigError
from multiserverrl.launch.config import DEFAULT_ENV_ID, LaunchConfig
from multiserverrl.settings import flag_name, settings_of
from multiserverrl.settingsfile import read_settings, settings_text
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.meanings import meaningless
from multiserverrl.train.recipes import Recipe, parts_of, recipe_for

__all__ = ["Asked", "all_settings", "asked_settings", "config_text", "differences", "settings_of_run"]

WIDTH = 110  # of lines that tell settings

_HEAD = "# The effective settings of this run; `multiserverrl train --config FILE` reads them.\n"
_KEPT_APART = ("env_id", "recipe", "run_dir", "resume")  # told of in words, or of one start alone
# what a checkpoint's arrays are made for
_OF_CHECKPOINTS = (
    "hidden", "network", "image_channels", "dueling", "head_hidden", "noisy", "distributional", "atoms", "v_min",
    "v_max", "frame_stack", "buffer_size", "prioritised", "sequence_length",
)  # fmt: skip
_LISTS: dict[str, Any] = {"hidden": str | list[int], "log": str | list[str]}  # texts with commas, in a file lists, too


class Asked(NamedTuple):
    """`recipe` names the one that the settings began from; empty for none."""

    launch: LaunchConfig
    train: TrainConfig
    recipe: str = ""


def asked_settings(flags: Mapping[str, Any], file: str | None = None) -> Asked:
    """Settings from flags (field → value, only those given; `env_id` among them) and a TOML file; flags win.

    They stand above the recipe of the algorithm and env, and that above the defaults. With `resume` they stand above
    the settings of the run that is gone on with, and no recipe counts. ConfigError names what is wrong, and its file.
    """
    in_file = {} if file is None else _read(file)
    given = {**in_file, **flags}
    with _naming(file, in_file.keys() - flags.keys()):
        launch = LaunchConfig(**_of(LaunchConfig, given))
        if launch.resume is not None:
            return _resumed(in_file, flags)
        algorithm = given.get("algorithm", TrainConfig.algorithm)
        recipe = _recipe(launch, algorithm) if launch.recipe else parts_of(algorithm)
        if launch.is_embedded and launch.count is None:
            launch = dataclasses.replace(launch, count=recipe.settings.get("count"))
        return Asked(launch, _layered(recipe.settings, in_file, flags), recipe.name)


def config_text(launch: LaunchConfig, train: TrainConfig) -> str:
    """All settings of a run as TOML that `asked_settings` reads; a recipe is in them already, and counts no more."""
    return _HEAD + settings_text(settings_of_run(dataclasses.replace(launch, recipe=False), train))


def settings_of_run(launch: LaunchConfig, train: TrainConfig) -> dict[str, Any]:
    """Every value by its field's name, those that are None left out."""
    values = {**_values(launch), **_values(train)}
    return {name: value for name, value in values.items() if value is not None}


def differences(launch: LaunchConfig, train: TrainConfig) -> str:
    """The settings that are not the defaults, for people: "count 64, hidden 16"."""
    standard = {**_values(LaunchConfig()), **_values(TrainConfig())}
    values = {**_values(launch), **_values(train)}
    return ", ".join(
        f"{name} {value}" for name, value in values.items() if name not in _KEPT_APART and value != standard[name]
    )


def all_settings(launch: LaunchConfig, train: TrainConfig) -> list[str]:
    """Every setting in lines for people: "env_id CartPole-v1, count 64, …"."""
    told = (f"{name} {value}" for name, value in settings_of_run(launch, train).items())
    return textwrap.wrap(", ".join(told), WIDTH, break_on_hyphens=False)


def _read(file: str) -> dict[str, Any]:
    values = read_settings(file, _kinds(), "train")
    return {name: ",".join(map(str, one)) if isinstance(one, list) else one for name, one in values.items()}


def _kinds() -> dict[str, Any]:
    """Every key that a file may have, and its type."""
    return {
        "env_id": str,
        **{name: kind for config in (LaunchConfig, TrainConfig) for name, kind, *_ in settings_of(config)},
        **_LISTS,
    }


def _of(config: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values that are fields of this dataclass."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if name in names}


def _values(config: LaunchConfig | TrainConfig) -> dict[str, Any]:
    """What a file may say of it."""
    return {name: getattr(config, name) for name in _kinds() if hasattr(config, name)}


def _recipe(launch: LaunchConfig, algorithm: str) -> Recipe:
    """Servers that run already are asked which env they serve, when nobody said it."""
    from multiserverrl.launch.places import served_env_id

    if launch.env_id is not None or launch.is_embedded:
        return recipe_for(algorithm, launch.env_id or DEFAULT_ENV_ID)
    return recipe_for(algorithm, served_env_id(launch))


def _shown(name: str, value: Any) -> str:
    """As a flag: --hidden 64,64; --no-dueling."""
    if isinstance(value, bool):
        return flag_name(name if value else f"no_{name}")
    return f"{flag_name(name)} {str(value).replace(' ', '')}"


def _layered(*layers: Mapping[str, Any]) -> TrainConfig:
    """Each layer over those before it. What a layer leaves without a meaning below it is left out: nobody asked for it
    beside that; what has none in its own layer is refused.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        above = _of(TrainConfig, layer)
        void = _void({**values, **above}) - _void(values)
        values = {**{name: value for name, value in values.items() if name not in void}, **above}
    return TrainConfig(**values)


def _void(values: Mapping[str, Any]) -> set[str]:
    return {name for name, _ in meaningless({**vars(TrainConfig()), **values})}


def _resumed(in_file: dict[str, Any], flags: Mapping[str, Any]) -> Asked:
    from multiserverrl.launch.records import resumed_settings

    given = {**in_file, **flags}
    launch, train = resumed_settings(Path(given["resume"]))
    if given.get("env_id") not in (None, launch.env_id):
        raise ConfigError(f"--resume {given['resume']} goes on with {launch.env_id}, not {given['env_id']}")
    if given.get("algorithm", train.algorithm) != train.algorithm:  # its weights and its replay buffer are of this one
        raise ConfigError(f"--resume {given['resume']} goes on with {train.algorithm}, not {given['algorithm']}")
    for name in _OF_CHECKPOINTS:
        own, wanted = _shown(name, getattr(train, name)), _shown(name, given.get(name, getattr(train, name)))
        if own != wanted:
            why = "its weights and its replay buffer are of that; begin a new run for another"
            raise ConfigError(f"--resume {given['resume']} goes on with {own}, not {wanted}: {why}")
    return Asked(
        dataclasses.replace(launch, **_of(LaunchConfig, {**given, "env_id": launch.env_id})),
        _layered(vars(train), in_file, flags),
    )


@contextmanager
def _naming(file: str | None, names: Collection[str]) -> Iterator[None]:
    """A value that cannot work is refused by its flag; here also by the file, when it stands there."""
    try:
        yield
    except ConfigError as error:
        if str(error).partition(" ")[0] in map(flag_name, names):
            raise ConfigError(f"{file}: {error}") from error
        raise
