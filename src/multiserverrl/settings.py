"""Settings are frozen dataclasses; a flag, its help and its line in docs/settings.md come from one field.

    @dataclass(frozen=True)
    class ServerConfig:
        port: int = setting(1800, "TCP port to listen on")

`add_flags` gives the parser one flag a field, `from_flags` builds the dataclass (whose
`__post_init__` checks the values and raises ConfigError naming the flag).
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from typing import Any, TypeVar

__all__ = ["add_flags", "flag_name", "from_flags", "given_flags", "setting", "settings_of"]

Config = TypeVar("Config")


def setting(
    default: Any, text: str, *, unit: str = "", flag: bool = True, metavar: str | None = None, group: str = ""
) -> Any:
    """A field of a config dataclass: default, one line of text, unit; `flag=False` keeps it off the command line.

    `group` is the heading that it and all after it stand under, up to the next with one.
    """
    metadata = {"text": text, "unit": unit, "flag": flag, "metavar": metavar, "group": group}
    if isinstance(default, dict):  # each config has its own
        return dataclasses.field(default_factory=default.copy, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_name(field_name: str) -> str:
    """`step_deadline_s` → `--step-deadline-s`."""
    return "--" + field_name.replace("_", "-")


def settings_of(config: type[Any]) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """(name, type, default, metadata) of each field that was made by `setting`."""
    hints, found, group = typing.get_type_hints(config), [], ""
    for field in dataclasses.fields(config):
        if "text" in field.metadata:
            group = field.metadata["group"] or group
            found.append((field.name, hints[field.name], _default_of(field), {**field.metadata, "group": group}))
    return found


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def add_flags(
    parser: argparse.ArgumentParser, *configs: type[Any], skip: tuple[str, ...] = ()
) -> dict[str, argparse._ArgumentGroup]:
    """One flag a setting, under its group's heading; the groups by heading.

    Flags that are not given are absent from the namespace: defaults live in the dataclass.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, kind, default, meta in (one for config in configs for one in settings_of(config)):
        if name in skip or not meta["flag"]:
            continue
        heading = meta["group"]
        if heading and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        group = groups[heading] if heading else parser
        text = _help_text(meta["text"], meta["unit"], default)
        value_type = _value_type(kind)
        if value_type is bool:
            group.add_argument(
                flag_name(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(
                flag_name(name), type=value_type, default=argparse.SUPPRESS, help=text, metavar=meta["metavar"]
            )
    return groups


def from_flags(config: type[Config], namespace: argparse.Namespace, **values: Any) -> Config:
    """The dataclass from the flags that were given; `values` win over flags."""
    return config(**{**given_flags(config, namespace), **values})


def given_flags(config: type[Any], namespace: argparse.Namespace) -> dict[str, Any]:
    """The values of those flags that were given, by field name."""
    return {name: getattr(namespace, name) for name, *_ in settings_of(config) if hasattr(namespace, name)}


def _help_text(text: str, unit: str, default: Any) -> str:
    notes = [unit] if unit else []
    if default is not None and default is not dataclasses.MISSING and default != "":
        notes.append(f"default {default}")
    return (f"{text} ({', '.join(notes)})" if notes else text).replace("%", "%%")


def _value_type(kind: Any) -> Any:
    """`int | None` → `int`: what argparse makes of the text."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(member for member in typing.get_args(kind) if member is not type(None))
    return kind
