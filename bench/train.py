"""How long `multiserverrl train` takes from the first env step to solved: whole processes, over seeds.

    python bench/train.py [--seeds 0-4] [--confirm 100] [-- further flags of train]

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
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "multiserverrl"]
COLUMNS = ("wall_s", "env_steps", "updates", "start_s", "process_s", "eval_mean", "confirm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", default="0-4", help="first-last")
    parser.add_argument("--confirm", type=int, default=100, help="greedy episodes of `eval`; 0: none")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="a seed that takes longer has failed")
    parser.add_argument("flags", nargs="*", help="further flags of train, behind --")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    print(f"{'seed':>6} {'solved':>6} " + " ".join(f"{name:>9}" for name in COLUMNS))
    rows = []
    for seed in range(int(first), int(last or first) + 1):
        rows.append(one_run(arguments, seed))
        print(line_of(str(seed), rows[-1]), flush=True)
    print(line_of("median", summary(rows, statistics.median)))
    print(line_of("least", summary(rows, min)))
    print(line_of("most", summary(rows, max)))
    return 0 if all(row["solved"] for row in rows) else 1


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
