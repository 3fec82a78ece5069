"""./check and .ci/run: what failed is named, and pytest's own last line closes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(folder: Path, failing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ./check from elsewhere with a `python` that prints its arguments and fails at those that match."""
    python = folder / "python"
    script = f'#!/bin/sh\ncase "$*" in\n*"{failing}"*) echo "7 failed in 0.01s"; exit 1;;\nesac\necho "$* 9 passed"\n'
    python.write_text(script, "utf-8")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    return subprocess.run(
        [str(ROOT / "check"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ("ruff format --check", "format"),
        ("ruff check", "lint"),
        ("mypy --strict src", "types"),
        ("tests/test_layers.py", "walls, layers, documents"),
        ("pytest -n 2", "tests"),
    ],
)
def test_what_failed_is_named_and_fails_the_whole(tmp_path: Path, failing: str, name: str) -> None:
    done = check(tmp_path, failing)
    assert done.returncode == 1
    *_, said, last = done.stdout.splitlines()
    assert said == f"failed: {name}"
    assert last.endswith("7 failed in 0.01s" if name == "tests" else "9 passed")


def test_all_well_ends_with_pytests_last_line(tmp_path: Path) -> None:
    done = check(tmp_path, "nothing fails")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "-m pytest -n 2 -q -m not trainers and not root and not long 9 passed"


def test_quick_leaves_out_the_slow_tests(tmp_path: Path) -> None:
    assert "-m not slow and not trainers" in check(tmp_path, "nothing fails", "--quick").stdout.splitlines()[-1]


SAID = {  # by each step of CI, before it fails
    "audit": "VULNERABLE: a 1.0",
    "faults": "BROKEN 6: a fault: 3 wrong",
    "test": "FAILED tests/test_a.py::test_b - assert 1 == 2",
}


def ci(folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """Runs .ci/run with a `make` that fails at one step."""
    for step, said in SAID.items():
        (folder / f"{step}.said").write_text(f"{said}\n", "utf-8")
    make = folder / "make"
    script = f'''#!/bin/sh
        echo "made $*"
        if [ "$1" = {failing} ]; then cat "{folder}/$1.said"; fi
        if [ "$1" = test ]; then echo "= 9 passed in 0.01s ="; fi
        test "$1" != {failing}
    '''
    make.write_text(script, "utf-8")
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(ROOT / ".ci" / "run"), "VENV=elsewhere"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.parametrize("failing", ["audit", "faults", "test", "nothing"])
def test_ci_runs_all_of_its_steps_whatever_fails(tmp_path: Path, failing: str) -> None:
    done = ci(tmp_path, failing)
    made = [line for line in done.stdout.splitlines() if line.startswith("made ")]
    assert made == [f"made {step} VENV=elsewhere" for step in ("audit", "faults", "test")]
    assert done.returncode == (failing != "nothing")
    assert done.stdout.splitlines()[-1] == "= 9 passed in 0.01s ="


@pytest.mark.parametrize("failing", ["audit", "faults", "test"])
def test_cis_last_lines_say_what_failed(tmp_path: Path, failing: str) -> None:
    assert ci(tmp_path, failing).stdout.splitlines()[-3:-1] == [f"failed: make {failing}", SAID[failing]]


@pytest.mark.parametrize("failing", ["bench/faults.py", "bench/fuzz.py", "pytest", "nothing"])
def test_make_faults_runs_all_of_its_parts_and_names_those_that_failed(tmp_path: Path, failing: str) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *{failing}*) echo "BROKEN it: why"; exit 1;; esac\n', "utf-8")
    python.chmod(0o755)
    for installed in ("made", "installed-train", "installed-dev", "installed-fuzz"):
        (tmp_path / f".{installed}").touch()
    command = ["make", "-C", str(ROOT), "--no-print-directory", "faults", f"VENV={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    parts = [line.removeprefix(f"{python} ") for line in done.stdout.splitlines() if line.startswith(f"{python} ")]
    assert parts == ["bench/faults.py", "bench/fuzz.py --inputs 130000", "-m pytest -m root or long tests"]
    assert (done.returncode != 0) == (failing != "nothing")
    told = [line.rstrip() for line in done.stdout.splitlines() if line.startswith(("failed: ", "BROKEN "))]
    name = {"pytest": "-m pytest", "bench/fuzz.py": "bench/fuzz.py --inputs"}.get(failing, failing)
    assert told[-2:] == ([] if failing == "nothing" else [f"failed: {name}", "BROKEN it: why"])
