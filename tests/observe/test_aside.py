"""A logger in a process of its own: W&B and trackio (stand-ins for them) get all numbers, and harm no run."""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from multiserverrl.observe import aside
from multiserverrl.observe.aside import Aside
from multiserverrl.observe.loggers import RunName
from tests.observe.logging_contract import (
    SETTINGS,
    Read,
    keeps_every_number_by_tag_and_env_steps,
    says_nothing_of_a_run_without_numbers,
)

DEADLINE_S = 30.0
# Both packages have init(…) → run, run.log, run.finish; what they are told goes to a file beside them.
STAND_IN = """
import json, os, pathlib, time
HERE = pathlib.Path(__file__).parent

def note(*what):
    with open(HERE / "told.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")

class Settings:
    def __init__(self, **chosen):
        pass

class Run:
    def define_metric(self, name, step_metric=None):
        note("axis", name, step_metric)
    def log(self, numbers, step=None):
        if (HERE / "broken").exists():
            raise ValueError("the service is\\naway")
        note("log", numbers, step)
    def finish(self):
        note("finish")
        while (HERE / "endless").exists():
            time.sleep(0.01)

def init(**named):
    print("noise")
    if (HERE / "closed").exists():
        raise PermissionError("log in first")
    if (HERE / "deadly").exists():
        os._exit(7)
    named.pop("settings", None)
    note("init", named, "HUSH" in os.environ)
    return Run()
"""


@pytest.fixture(params=["wandb", "trackio"])
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in of the package lies; its name is the file's."""
    folder = tmp_path / "packages"
    folder.mkdir()
    path = folder / f"{request.param}.py"
    path.write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    return path


def logger_of(package: Path) -> Aside:
    return Aside(package.stem, RunName("run-1", "ab12", str(package.parent)), secrets=["HUSH"])


def told(package: Path) -> list[list[object]]:
    return [json.loads(line) for line in (package.parent / "told.jsonl").read_text().splitlines()]


def read(package: Path) -> Read:
    found: Read = defaultdict(list)
    for what in told(package):
        if what[0] == "log":
            numbers, step = dict(what[1]), what[2]
            step = numbers.pop("env_steps", step)
            for tag, value in numbers.items():
                found[tag].append((step, value))
    return found


def wait_for_news(logger: Aside) -> None:
    """Until its process has said something that was not heard yet, or has ended."""
    assert select.select([logger._told_fd], [], [], DEADLINE_S)[0]


def failure_of(logger: Aside) -> str:
    """What writing raises, once there is news."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        try:
            logger.write({"a": 1.0}, 1)
        except OSError as error:
            return str(error.strerror)
        wait_for_news(logger)
    raise AssertionError("nothing was raised")


def children() -> set[psutil.Process]:
    """Servers that other tests share may be among them."""
    return set(psutil.Process().children())


def test_every_number_arrives_and_no_secret(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setenv("HUSH", "word")
    keeps_every_number_by_tag_and_env_steps(logger_of(package), lambda: read(package))
    first, last = told(package)[0], told(package)[-1]
    assert first[0] == "init"
    assert first[1]["config"] == SETTINGS
    assert first[1]["resume"] == "allow"
    assert "ab12" in {first[1].get("id"), first[1]["name"].rpartition("-")[2]}
    assert first[2] is False
    assert last == ["finish"]
    assert children() <= before


def test_a_run_without_numbers_starts_no_process(package: Path) -> None:
    says_nothing_of_a_run_without_numbers(logger_of(package))
    assert not (package.parent / "told.jsonl").exists()


def test_what_the_package_raises_comes_back_in_one_line_and_so_does_that_all_is_well_again(package: Path) -> None:
    logger = logger_of(package)
    (package.parent / "broken").touch()
    assert failure_of(logger) == "ValueError: the service is away"
    (package.parent / "broken").unlink()
    with contextlib.suppress(OSError):  # it is not known yet that it will be taken
        logger.write({"a": 2.0}, 2)
    wait_for_news(logger)
    logger.write({"a": 3.0}, 3)
    logger.close()
    assert read(package)["a"][-2:] == [(2, 2.0), (3, 3.0)]


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_one_that_cannot_begin_says_why_and_is_not_begun_again_at_once(package: Path) -> None:
    (package.parent / "closed").touch()
    logger = logger_of(package)
    assert failure_of(logger) == "PermissionError: log in first"
    (package.parent / "closed").unlink()
    for call in (lambda: logger.write({"a": 2.0}, 2), logger.close):
        with pytest.raises(OSError, match="PermissionError: log in first"):
            call()
    assert not (package.parent / "told.jsonl").exists()


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_a_process_that_dies_is_told_of_and_started_again_only_after_a_while(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package.parent / "deadly").touch()
    logger = logger_of(package)
    assert failure_of(logger) == "its process died by exit code 7"
    (package.parent / "deadly").unlink()
    with pytest.raises(OSError, match="its process died by exit code 7"):
        logger.write({"a": 2.0}, 2)
    later_s = time.monotonic() + aside.AGAIN_AFTER_S
    monkeypatch.setattr(aside.time, "monotonic", lambda: later_s)
    logger.write({"a": 3.0}, 3)
    logger.close()
    assert read(package) == {"a": [(3, 3.0)]}


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_one_that_never_ends_is_ended(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setattr(aside, "CLOSE_S", 0.3)
    (package.parent / "endless").touch()
    logger = logger_of(package)
    logger.write({"a": 1.0}, 1)
    with pytest.raises(OSError, match="it did not end within 0 s"):
        logger.close()
    assert children() <= before
