"""Settings in a TOML file, one key a field: what is wrong is refused by file and key; what we write reads back."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from multiserverrl.errors import ConfigError

__all__ = ["read_settings", "settings_text"]


def read_settings(path: str, kinds: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The file's values by field name; `kinds` has each known field's type, `command` is whose settings they are.

    A key may have hyphens, as its flag has. ConfigError names the file and the key that is unknown (with the nearest
    known one) or of another type.
    """
    found: dict[str, Any] = {}
    for key, value in _parsed(path).items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise ConfigError(f"{path}: {key!r} is no setting of {command}{_hint(name, list(kinds))}")
        try:
            found[name] = msgspec.convert(value, kinds[name])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: {key}: {error}") from error
    return found


def settings_text(values: Mapping[str, Any]) -> str:
    """Lines of TOML that `read_settings` reads back: texts, booleans, numbers, tables of these.

    None, which TOML lacks, is left out.
    """
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _parsed(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from error


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _toml(value: bool | int | float | str | dict[str, Any]) -> str:
    """TOML's basic strings are JSON's, but that TOML also wants DEL escaped."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
