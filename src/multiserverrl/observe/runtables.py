"""Runs as a table, side by side, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from multiserverrl.observe.runs import Found, Run

__all__ = ["differing_settings", "runs_json", "runs_text"]

_COLUMNS = ("run", "env", "algorithm", "seed", "status", "env steps", "wall", "best evaluation")
_OF_ONE_START = ("run_dir", "resume", "recipe", "env_id", "algorithm", "seed")  # told of elsewhere, or of no weight


def runs_text(found: Found) -> str:
    """One run a line, of one run at least; where runs were named, one a column, with the settings that differ."""
    rows = [_cells(run) for run in found.runs]
    if not found.is_chosen:
        return _table([_COLUMNS, *rows])
    settings = [[name, *map(_shown, values)] for name, values in differing_settings(found.runs).items()]
    results = [[name, *(row[place] for row in rows)] for place, name in enumerate(_COLUMNS)]
    return _table([*results, *settings])


def runs_json(found: Found) -> str:
    """One object: `runs`, `differing_settings` (a list a setting, in the runs' order), `passed_over`."""
    runs = [{name: value for name, value in asdict(run).items() if name != "curve"} for run in found.runs]
    for run, source in zip(runs, found.runs, strict=True):
        run["evaluations"] = len(source.curve)
    told = {
        "runs": runs,
        "differing_settings": differing_settings(found.runs) if found.is_chosen else {},
        "passed_over": [item._asdict() for item in found.passed_over],
    }
    return json.dumps(told, indent=2)


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Setting → its value in each run, for those that are not the same in all; None where a run has no such setting."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in _OF_ONE_START)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: of_all for name, of_all in values.items() if any(value != of_all[0] for value in of_all)}


def _cells(run: Run) -> list[str]:
    wall = "–" if run.wall_s is None else f"{run.wall_s:.1f} s"
    best = "–" if run.best_eval is None else f"{run.best_eval:.1f}"
    return [run.name, run.env_id, run.algorithm, str(run.seed), run.status, _shown(run.env_steps), wall, best]


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _printable(text: str) -> str:
    """Who wrote a run's files must not steer the terminal that shows them."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
