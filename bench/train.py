"""How long `multiserverrl train` takes from the first env step to solved: whole processes, over seeds.

    python bench/train.py [--row NAME] [--seeds 0-4] [--confirm 100] [-- further flags of train]

A row is a task with its figure: `pqn-cartpole` and `pqn-lunar` are `train --algorithm pqn` as it comes, `pixels` is
`train CartPole-pixels`. The last line then says whether it holds.
`start_s` runs from the shell to the first env step; `confirm` is the greedy mean of the same
weights on further episodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "multiserverrl"]


@dataclass(frozen=True)
class Row:
    """A task, and what is asked of it: every seed solved, the median wall, and the weights on further episodes."""

    env: str
    seeds: str
    flags: tuple[str, ...]
    most_wall_s: float
    least_confirm: float  # in the median, or by every seed
    is_every_seed_confirmed: bool = False

    def holds(self, rows: list[dict[str, Any]]) -> bool:
        """Whether these seeds are what is asked."""
        if not all(row["solved"] for row in rows):
            return False
        confirm = min if self.is_every_seed_confirmed else statistics.median
        is_confirmed = confirm(row.get("confirm", self.least_confirm) for row in rows) >= self.least_confirm
        return is_confirmed and statistics.median(row["wall_s"] for row in rows) <= self.most_wall_s


ROWS = {
    "pqn-cartpole": Row("CartPole-v1", "0-19", ("--algorithm", "pqn"), 1.5, 460.0),
    "pixels": Row("CartPole-pixels", "0-4", (), 30.0, 195.0, is_every_seed_confirmed=True),
    "pqn-lunar": Row("LunarLander-v3", "0-4", ("--algorithm", "pqn"), 20.0, 200.0, is_every_seed_confirmed=True),
}
COLUMNS = ("wall_s", "env_steps", "updates", "start_s", "process_s", "eval_mean", "confirm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS, help="a task with its figure")
    parser.add_argument("--env", help="default CartPole-v1, or the row's")
    parser.add_argument("--seeds", help="first-last; default 0-4, or the row's")
    parser.add_argument("--confirm", type=int, default=100, help="greedy episodes of `eval`; 0: none")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="a seed that takes longer has failed")
    parser.add_argument("flags", nargs="*", help="further flags of train, behind --")
    arguments = parser.parse_args()
    row = ROWS.get(arguments.row)
    arguments.env = arguments.env or (row.env if row else "CartPole-v1")
    arguments.seeds = arguments.seeds or (row.seeds if row else "0-4")
    arguments.flags = [*(row.flags if row else ()), *arguments.flags]
    first, _, last = arguments.seeds.partition("-")
    print(f"{'seed':>6} {'solved':>6} " + " ".join(f"{name:>9}" for name in COLUMNS))
    rows = []
    for seed in range(int(first), int(last or first) + 1):
        rows.append(one_run(arguments, seed))
        print(line_of(str(seed), rows[-1]), flush=True)
    print(line_of("median", summary(rows, statistics.median)))
    print(line_of("least", summary(rows, min)))
    print(line_of("most", summary(rows, max)))
    if row is None:
        return 0 if all(found["solved"] for found in rows) else 1
    print(f"{arguments.row}: {'holds' if row.holds(rows) else 'SHORT'}")
    return 0 if row.holds(rows) else 1


def one_run(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one seed as a whole process, then evaluate its weights."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began_s = time.time()
        command = [*COMMAND, "train", arguments.env, "--seed", str(seed), "--run-dir", str(run), *arguments.flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(arguments.max_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30.0)
            return {"solved": False}
        ended_s = time.time()
        result: dict[str, Any] = json.loads((run / "result.json").read_text())
        result["start_s"] = result["first_step_unix_s"] - began_s
        result["process_s"] = ended_s - began_s
        if arguments.confirm:
            command = [*COMMAND, "eval", str(run), "--episodes", str(arguments.confirm), "--json"]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result["confirm"] = json.loads(told)["mean"]
        return result


def summary(rows: list[dict[str, Any]], of: Any) -> dict[str, Any]:
    """One number a column, over the seeds that have it."""
    found = {name: [row[name] for row in rows if name in row] for name in COLUMNS}
    solved = sum(row["solved"] for row in rows)
    return {"solved": f"{solved}/{len(rows)}", **{name: of(values) for name, values in found.items() if values}}


def line_of(title: str, row: dict[str, Any]) -> str:
    numbers = " ".join(f"{row[name]:>9.2f}" if name in row else f"{'-':>9}" for name in COLUMNS)
    return f"{title:>6} {row['solved']!s:>6} {numbers}"


if __name__ == "__main__":
    sys.exit(main())
