"""wire/ is pure: bytes and time come in as arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

WIRE = Path(__file__).resolve().parents[2] / "src" / "multiserverrl" / "wire"
FORBIDDEN = {"asyncio", "logging", "os", "random", "secrets", "select", "selectors", "socket", "threading", "time"}
FORBIDDEN |= {"pickle", "marshal", "multiprocessing", "subprocess", "shelve"}


def imported(text: str) -> set[str]:
    """The top-level names of all modules that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            found |= {str(getattr(argument, "value", "?")).partition(".")[0] for argument in node.args[:1]}
    return found


def random_sources(text: str) -> list[str]:
    """Uses of NumPy's random numbers."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(text)) if ast.unparse(node).startswith("np.random")]


@pytest.mark.parametrize("file", sorted(WIRE.glob("*.py")), ids=lambda file: file.name)
def test_the_wire_knows_no_socket_clock_thread_random_source_or_log(file: Path) -> None:
    text = file.read_text("utf-8")
    assert imported(text) & FORBIDDEN == set()
    assert random_sources(text) == []


@pytest.mark.parametrize(
    "text",
    ["import time", "from os import path", "def f():\n    import socket", "import os.path as p", "__import__('time')"],
)
def test_the_check_sees_every_way_to_import(text: str) -> None:
    assert imported(text) & FORBIDDEN


def test_the_check_looks_at_the_files_that_are_there() -> None:
    names = {file.stem for file in WIRE.glob("*.py")}
    assert {"session", "frames", "trees", "spaces"} <= names
    assert {f"test_{name}" for name in names - {"__init__"}} <= {
        file.stem for file in Path(__file__).parent.glob("*.py")
    }
