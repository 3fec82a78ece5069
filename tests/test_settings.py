"""settings.py: one dataclass field becomes one flag."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.settings import add_flags, flag_name, from_flags, setting, settings_of


@dataclass(frozen=True)
class Oven:
    step_deadline_s: float = setting(30.0, "longest step", unit="s")
    count: int = setting(2, "how many, 100 % of them")
    host: str = setting("localhost", "address")
    token: str | None = setting(None, "secret")
    is_lit: bool = setting(True, "whether it burns")
    inner: int = setting(7, "no flag", flag=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")


def parse(*arguments: str) -> Oven:
    parser = argparse.ArgumentParser()
    add_flags(parser, Oven)
    return from_flags(Oven, parser.parse_args(list(arguments)))


def test_without_flags_the_dataclass_has_its_defaults() -> None:
    assert parse() == Oven()


def test_flags_are_typed_by_their_fields() -> None:
    oven = parse("--step-deadline-s", "1.5", "--count", "3", "--token", "x", "--no-is-lit")
    assert oven == Oven(step_deadline_s=1.5, count=3, token="x", is_lit=False)


def test_values_win_over_flags() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Oven)
    assert from_flags(Oven, parser.parse_args(["--count", "3"]), count=5).count == 5


def test_a_wrong_value_names_its_flag() -> None:
    with pytest.raises(ConfigError, match="--count must be at least 1, not 0"):
        parse("--count", "0")


def test_a_setting_without_a_flag_and_a_skipped_one_are_not_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Oven, skip=("host",))
    flags = parser.format_help()
    assert "--inner" not in flags
    assert "--host" not in flags
    assert "--count" in flags


def test_help_has_text_unit_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Oven)
    text = " ".join(parser.format_help().split())
    assert "longest step (s, default 30.0)" in text
    assert "100 % of them (default 2)" in text
    assert "secret" in text
    assert "secret (" not in text


@dataclass(frozen=True)
class Kitchen:
    name: str = setting("mine", "what it is called")
    plates: int = setting(4, "how many", group="crockery")
    cups: int = setting(4, "how many")
    watts: int = setting(9, "how bright", group="light")


@dataclass(frozen=True)
class Cellar:
    lamps: int = setting(1, "how many", group="light")


def test_a_flag_stands_under_the_last_heading_before_it_and_dataclasses_share_headings() -> None:
    parser = argparse.ArgumentParser()
    groups = add_flags(parser, Kitchen, Cellar)
    assert list(groups) == ["crockery", "light"]
    stands = {action.dest: group.title for group in parser._action_groups for action in group._group_actions}
    assert stands == {
        "help": "options",
        "name": "options",
        "plates": "crockery",
        "cups": "crockery",
        "watts": "light",
        "lamps": "light",
    }


def test_settings_of_lists_fields_in_order_with_resolved_types() -> None:
    assert [(name, kind) for name, kind, *_ in settings_of(Oven)][:2] == [("step_deadline_s", float), ("count", int)]


def test_flag_names_have_hyphens() -> None:
    assert flag_name("step_deadline_s") == "--step-deadline-s"
