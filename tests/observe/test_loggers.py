"""Loggers are chosen by name; what is unknown or not installed is refused before anything starts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.observe.loggers import RunName, logger_names, open_loggers, require_loggers


def test_names_are_told_apart_and_none_is_no_logger() -> None:
    assert logger_names("tensorboard") == ("tensorboard",)
    assert logger_names("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    assert logger_names("none") == ()


@pytest.mark.parametrize("text", ["", "tensorbord", "none,wandb", "wandb,"])
def test_what_is_no_logger_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--log is .* is none of tensorboard, wandb, trackio; none alone"):
        logger_names(text)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_package_that_is_not_installed_is_named_with_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiserverrl.observe.loggers.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"--log {name} needs the package {name}: pip install .*\[{name}\]"):
        require_loggers(["tensorboard", name])
    require_loggers(["tensorboard"])


def test_opening_loggers_writes_imports_and_starts_nothing(tmp_path: Path) -> None:
    loggers = open_loggers(["tensorboard", "wandb", "trackio"], RunName("run", "ab12", str(tmp_path)))
    assert [logger.name for logger in loggers] == ["tensorboard", "wandb", "trackio"]
    for logger in loggers:
        logger.close()
    assert list(tmp_path.iterdir()) == []
    assert "wandb" not in sys.modules
    assert importlib.util.find_spec("multiserverrl.observe.trackers") is not None
