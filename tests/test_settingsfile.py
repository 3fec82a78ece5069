"""A TOML file of settings is read with every wrong thing named, and what is written reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiserverrl.errors import ConfigError
from multiserverrl.settingsfile import read_settings, settings_text

KINDS: dict[str, Any] = {
    "count": int,
    "learning_rate": float,
    "host": str | None,
    "is_lit": bool,
    "more": dict[str, Any],
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(-(2**63), 2**63 - 1),
    "learning_rate": st.floats(allow_nan=False),
    "host": st.none() | TEXTS,
    "is_lit": st.booleans(),
    "more": st.dictionaries(TEXTS, st.integers(-9, 9) | st.floats(allow_nan=False) | TEXTS | st.booleans()),
}


def written(folder: Path, text: str) -> str:
    path = folder / "oven.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_values_are_typed_by_their_fields_and_keys_may_have_hyphens(tmp_path: Path) -> None:
    file = written(tmp_path, 'learning-rate = 1\nhost = "sim"\nis_lit = true\n')
    values = read_settings(file, KINDS, "bake")
    assert values == {"learning_rate": 1.0, "host": "sim", "is_lit": True}
    assert isinstance(values["learning_rate"], float)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("coumt = 3", "{file}: 'coumt' is no setting of bake; did you mean count?"),
        ("zzz = 3", "{file}: 'zzz' is no setting of bake"),
        ("[count]\nmore = 3", "{file}: count: Expected `int`, got `object`"),
        ('count = "3"', "{file}: count: Expected `int`, got `str`"),
        ("count = true", "{file}: count: Expected `int`, got `bool`"),
        ("learning_rate = 'fast'", "{file}: learning_rate: Expected `float`, got `str`"),
        ("count = ", "--config {file} is not TOML"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read_settings(file, KINDS, "bake")
    assert str(refused.value).startswith(told.format(file=file))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*absent.toml cannot be read: No such file"):
        read_settings(str(tmp_path / "absent.toml"), KINDS, "bake")
    (tmp_path / "picture.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"--config .*picture.toml is not TOML"):
        read_settings(str(tmp_path / "picture.toml"), KINDS, "bake")


@given(values=st.fixed_dictionaries(VALUES))
def test_what_is_written_reads_back_without_what_is_none(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    file = written(tmp_path_factory.getbasetemp(), settings_text(values))
    assert read_settings(file, KINDS, "bake") == {name: value for name, value in values.items() if value is not None}
