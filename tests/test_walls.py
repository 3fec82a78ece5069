"""No function longer than 60 lines, no file longer than 400, in src."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FUNCTION_LINES = 60
FILE_LINES = 400

FILES = sorted(SOURCE.rglob("*.py"))


def long_functions(text: str) -> list[str]:
    """ "name (lines)" of each function beyond the wall; decorators count."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = node.end_lineno - first + 1
            if lines > FUNCTION_LINES:
                found.append(f"{node.name} ({lines})")
    return found


def test_no_function_is_beyond_the_wall() -> None:
    found = {str(file.relative_to(SOURCE)): long_functions(file.read_text("utf-8")) for file in FILES}
    assert {file: functions for file, functions in found.items() if functions} == {}


def test_no_file_is_beyond_the_wall() -> None:
    lines = {str(file.relative_to(SOURCE)): len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > FILE_LINES} == {}


@pytest.mark.parametrize(("body_lines", "expected"), [(59, []), (60, ["f (61)"])])
def test_the_wall_stands_at_sixty_lines(body_lines: int, expected: list[str]) -> None:
    assert long_functions("def f():\n" + "    pass\n" * body_lines) == expected
