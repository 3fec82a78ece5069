"""The fault matrix: what was done to a server, a client or a trainer, what was promised, what was seen.

    python bench/faults.py [--rows 1,6] [--whole] [--judge-figures] [--markdown]

Without `--whole` each row does its fault a few times, in seconds; with it, as often as docs/reliability.md says.
Times, rates and sizes are judged with `--whole` or `--judge-figures`, on a machine that does nothing else; without
them, what is worse than promised is shown as `slow`. Rows that need root (network namespaces) are left out without it.
The last lines name the rows that did not hold. The exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from dataclasses import replace
from typing import NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "fault_matrix"))

import action_rows
import checkpoint_rows
import clock_rows
import limit_rows
import network_rows
import session_rows
import stopping_rows
import trainer_rows
import worker_rows
from matrix import Effort, FaultRow, Unavailable, as_markdown, as_summary, as_text, outcome_of

_MODULES = (
    session_rows,
    worker_rows,
    limit_rows,
    trainer_rows,
    checkpoint_rows,
    action_rows,
    network_rows,
    stopping_rows,
    clock_rows,
)


def all_rows() -> list[FaultRow]:
    """Every row, by number."""
    rows = [row for module in _MODULES for row in module.ROWS]
    return sorted(rows, key=lambda row: (int("".join(filter(str.isdigit, row.name))), row.name))


def chosen_rows(names: str) -> list[FaultRow]:
    """The rows of these names, separated by commas; all without names."""
    rows, wanted = all_rows(), [name for name in names.split(",") if name]
    if unknown := set(wanted) - {row.name for row in rows}:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not wanted or row.name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="names, separated by commas (default all)")
    parser.add_argument("--whole", action="store_true", help="as often as docs/reliability.md says; takes long")
    parser.add_argument(
        "--judge-figures", action="store_true", help="a figure that is short breaks its row, as with --whole"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is random about the faults (default 0)")
    parser.add_argument("--markdown", action="store_true", help="print the rows of docs/reliability.md")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    arguments = parser.parse_args()
    rows = chosen_rows(arguments.rows)
    if arguments.list:
        print("\n".join(f"{row.name:4} {row.fault}" for row in rows))
        return
    os.environ.setdefault("MULTISERVERRL_LOG", "warning")  # a line for every session would bury the rows
    show = as_markdown if arguments.markdown else as_text
    effort = Effort(arguments.whole, arguments.seed, judges_figures=arguments.whole or arguments.judge_figures)
    outcomes = []
    for row in rows:
        outcomes.append(outcome_of(row if os.geteuid() == 0 else _without_root(row), effort))
        print(show(outcomes[-1]), flush=True)
    if not arguments.markdown:
        print(as_summary(outcomes))
    sys.exit(any(outcome.verdict == "BROKEN" for outcome in outcomes))


def _without_root(row: FaultRow) -> FaultRow:
    def leave_out(effort: Effort) -> NoReturn:
        raise Unavailable("it needs root")

    return replace(row, run=leave_out) if row.needs_root else row


if __name__ == "__main__":
    main()
