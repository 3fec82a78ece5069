"""The settings of `serve` from a TOML file, and the wrappers and arguments of envs from their flags.

A file has the names of docs/settings.md, `env_ids`, and a [[wrapper]] table for each wrapper:

    env_ids = ["CartPole-v1"]
    count = 8

    [[wrapper]]
    name = "gymnasium.wrappers:TimeLimit"
    arguments = { max_episode_steps = 100 }
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from multiserverrl.errors import ConfigError
from multiserverrl.server.config import ServerConfig, WrapperConfig
from multiserverrl.settings import settings_of
from multiserverrl.settingsfile import read_settings

__all__ = ["env_arguments_of", "read_config_file", "wrappers_of"]


def read_config_file(path: str) -> dict[str, Any]:
    """Values for ServerConfig's fields; ConfigError names the file and the key that is unknown or of another type."""
    kinds: dict[str, Any] = {
        "env_ids": tuple[str, ...],
        "wrapper": list[dict[str, Any]],
        "env_arguments": dict[str, Any],
    }
    kinds.update({name: kind for name, kind, *_ in settings_of(ServerConfig)})
    found = read_settings(path, kinds, "serve")
    if "wrapper" in found:
        found["wrappers"] = tuple(_wrapper(path, table) for table in found.pop("wrapper"))
    return found


def wrappers_of(flags: Iterable[tuple[str, str]]) -> tuple[WrapperConfig, ...]:
    """Wrappers from ("--wrapper", "module:Class") and ("--wrapper-arg", "key=value") in the order of the command line.

    An argument belongs to the wrapper before it; its value is JSON where it parses, else text.
    """
    wrappers: list[WrapperConfig] = []
    for flag, text in flags:
        if flag == "--wrapper":
            wrappers.append(WrapperConfig(text))
            continue
        if not wrappers:
            raise ConfigError(f"--wrapper-arg {text} belongs to the --wrapper before it, and there is none")
        wrappers[-1].arguments.update([_argument(flag, text)])
    return tuple(wrappers)


def env_arguments_of(texts: Iterable[str]) -> dict[str, Any]:
    """Constructor arguments from --env-arg's "key=value"."""
    return dict(_argument("--env-arg", text) for text in texts)


def _argument(flag: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ConfigError(f"{flag} is given as key=value, not {text!r}")
    return key, _value(value)


def _wrapper(path: str, table: dict[str, Any]) -> WrapperConfig:
    unknown = [key for key in table if key not in ("name", "arguments")]
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]!r} is no key of [[wrapper]]; it has name and arguments")
    try:
        return msgspec.convert(table, WrapperConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: [[wrapper]]: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
