"""Deadlines are kept by the monotonic clock: the wall's, which may jump, is read in named places only, to be shown."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "multiserverrl"
OF_THE_WALL = {
    *("time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "time.asctime", "time.strftime"),
    *("datetime.datetime", "datetime.date", "time.clock_gettime", "time.CLOCK_REALTIME"),
}
# Who reads it, and what for: to name a run's directory, and to say when something was.
MAY_READ = {
    ("launch/records.py", "begin_run"): "the name of the run's directory",
    ("launch/runlog.py", "evaluation"): "shown in evaluations.jsonl",
    ("launch/status.py", "first_step_unix_s"): "shown in result.json",
    ("launch/status.py", "read"): "shown in the status",
    ("launch/training.py", "_result"): "shown in result.json",
    ("observe/eventfile.py", "__init__"): "the name of TensorBoard's file",
    ("observe/eventfile.py", "write"): "shown by TensorBoard",
    ("observe/rundir.py", "default_path"): "the name of the run's directory",
}


def readings_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(the function, the name) of every use of the wall's clock, by whatever name it was imported."""
    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }

    def within(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            inside = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            name = ""
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
                name = f"{names.get(child.value.id, '')}.{child.attr}"
            elif isinstance(child, ast.Name):
                name = names.get(child.id, "")
            if name in OF_THE_WALL:
                yield inside, name
            yield from within(child, inside if is_function else function)

    return within(tree, "")


def test_the_clock_of_the_wall_is_read_only_to_be_shown() -> None:
    found = {
        (file.relative_to(SOURCE).as_posix(), function): name
        for file in sorted(SOURCE.rglob("*.py"))
        for function, name in readings_of(ast.parse(file.read_text("utf-8")))
    }
    assert set(found) == set(MAY_READ), (
        "a deadline is kept by time.monotonic; what only shows the time goes on the list"
    )


@pytest.mark.parametrize(
    "text",
    [
        "import time\ndef wait(): return time.time() + 5",
        "from time import time as now\ndef wait(): return now() + 5",
        "import datetime\nclass A:\n    def wait(self): return datetime.datetime.now()",
        "from datetime import datetime\ndef wait(): return datetime.now()",
    ],
)
def test_a_deadline_by_the_wall_is_found(text: str) -> None:
    assert [function for function, _ in readings_of(ast.parse(text))] == ["wait"]


def test_the_monotonic_clock_is_none_of_the_walls() -> None:
    assert not list(readings_of(ast.parse("import time\ndef wait(): return time.monotonic() + 5")))
