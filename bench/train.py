"""How long `multiserverrl train` takes to solve a task, and what it learns: whole processes, over seeds.

    python bench/train.py --rows cartpole-dqn,lunar-pqn [--seeds 0-4] [--markdown]   # --list names all
    python bench/train.py [--env ENV_ID] [--seeds 0-4] [--confirm 100] [-- further flags of train]

A row is a task with its figures. `wall_s` runs from the first env step to the moment at which the weights that solved
the task were published, `start_s` from the shell to the first env step, `process_s` from the shell to the exit.
`confirm` is the greedy mean of the same weights on further episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path

from claims import Claim, Row, at_least, at_most, heading, markdown, seed_line, seeds_of, verdict
from train_runs import Curve, Pace, Solve, Updates, at_steps, column_at

SOLVE_COLUMNS = ("solved", "wall_s", "env_steps", "updates", "start_s", "process_s", "eval_mean", "confirm")
ALL_SOLVED = at_least("solved", 1.0, of="least")
HERE = Path(__file__).parent
PEER_CURVES = HERE / "peers" / "minatar_breakout.json"
MINATAR_AT = (200_000, 400_000, 600_000, 800_000, 1_000_000)
PQN = ("--algorithm", "pqn")
MINATAR_FLAGS = (
    *PQN, "--count", "32", "--rollout-steps", "32", "--epochs", "2", "--minibatches", "8", "--td-lambda", "0.65",
    "--reward-scale", "1", "--learning-rate", "5e-4", "--epsilon-end", "0.01", "--eval-every-s", "30",
)  # fmt: skip


def solving(name: str, what: str, seeds: str, measure: Solve, *claims: Claim) -> Row:
    return Row(name, what, seeds, SOLVE_COLUMNS, (ALL_SOLVED, *claims), measure)


def of_peer(file: Path, at: tuple[int, ...]) -> tuple[Claim, ...]:
    """At every point at least the median of what `peers/minatar_peer.py` gave; before it was run nothing is enough."""
    columns = [column_at(steps) for steps in at]
    if not file.exists():
        return tuple(at_least(column, math.inf) for column in columns)
    curves = [at_steps(run["curve"], at) for run in json.loads(file.read_text())["runs"]]
    return tuple(at_least(column, statistics.median(curve[column] for curve in curves)) for column in columns)


_ROWS = (
    solving(
        "cartpole-dqn", "train CartPole-v1 as it comes", "0-19", Solve("CartPole-v1"),
        at_most("wall_s", 1.5), at_most("wall_s", 6.0, of="most"), at_least("confirm", 490.0),
        at_most("process_s", 5.0), at_most("start_s", 2.0),
    ),
    solving(
        "cartpole-torch", "the same with --backend torch", "0-19", Solve("CartPole-v1", ("--backend", "torch")),
        at_most("wall_s", 4.0),
    ),
    solving(
        "cartpole-pqn", "train CartPole-v1 --algorithm pqn", "0-19", Solve("CartPole-v1", PQN),
        at_most("wall_s", 1.5), at_least("confirm", 460.0),
    ),
    solving(
        "lunar-pqn", "train LunarLander-v3 --algorithm pqn", "0-4", Solve("LunarLander-v3", PQN, 180.0),
        at_most("wall_s", 20.0), at_least("confirm", 200.0, of="least"),
    ),
    solving(
        "lunar-dqn", "train LunarLander-v3", "0-4", Solve("LunarLander-v3", (), 300.0),
        at_most("wall_s", 60.0), at_least("confirm", 200.0, of="least"),
    ),
    solving(
        "pixels", "train CartPole-pixels: rendered, in the env workers", "0-4", Solve("CartPole-pixels", (), 180.0),
        at_most("wall_s", 30.0), at_least("confirm", 195.0, of="least"),
    ),
    Row(
        "minatar", "MinAtar Breakout: return of training episodes after so many env steps", "0-2",
        ("wall_s", *map(column_at, MINATAR_AT)), of_peer(PEER_CURVES, MINATAR_AT),
        Curve(f"{HERE / 'minatar_env.py'}:Breakout", MINATAR_FLAGS, MINATAR_AT),
    ),
    Row(
        "steps", "env steps/s while training: an update of 128 per 4 env steps, 4-128-128-2", "0-2", ("numpy", "torch"),
        (at_least("numpy", 10_000.0), at_least("torch", 4_500.0)), Pace(),
    ),
    Row(
        "updates", "updates/s of a run's learner, as a share of a bare loop's", "0-2", ("numpy", "torch"),
        (at_least("numpy", 0.85), at_least("torch", 0.85)), Updates(),
    ),
)  # fmt: skip
ROWS = {row.name: row for row in _ROWS}


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        for row in ROWS.values():
            print(f"{row.name:<16} seeds {row.seeds:<5} {row.what}")
        return 0
    table = []
    for row in chosen(arguments):
        print(f"{row.name}: {row.what}\n{heading(row)}")
        runs = []
        for seed in arguments.seeds or seeds_of(row.seeds):
            runs.append(row.measure(seed))
            print(seed_line(row, seed, runs[-1]), flush=True)
        print(verdict(row, runs), flush=True)
        table.append((row, runs))
    if arguments.markdown:
        print(markdown(table))
    return 0 if all(row.holds(runs) for row, runs in table) else 1


def chosen(arguments: argparse.Namespace) -> list[Row]:
    """The rows that are named, or one of the flags alone; what the flags say stands above the row."""
    if not arguments.rows:
        env = arguments.env or "CartPole-v1"
        rows = [solving("train", f"train {env}", "0-4", Solve(env))]
    else:
        rows = [ROWS[name] for name in arguments.rows.split(",")]
    return [_told(row, arguments) for row in rows]


def _told(row: Row, arguments: argparse.Namespace) -> Row:
    measure = row.measure
    if not isinstance(measure, Solve | Curve):
        return row
    changed = {"env": arguments.env, "max_seconds": arguments.max_seconds, "confirm": arguments.confirm}
    given = {name: value for name, value in changed.items() if value is not None and hasattr(measure, name)}
    measure = dataclasses.replace(measure, flags=(*measure.flags, *arguments.flags), **given)
    claims = [claim for claim in row.claims if arguments.confirm != 0 or claim.column != "confirm"]
    return dataclasses.replace(row, measure=measure, claims=tuple(claims))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", "--row", metavar="A,B", help="tasks with their figures")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--markdown", action="store_true", help="close with a table of all figures")
    parser.add_argument("--env", help="default CartPole-v1, or the row's")
    parser.add_argument("--seeds", help="first-last; default 0-4, or the row's")
    parser.add_argument("--confirm", type=int, help="greedy episodes of `eval` (default 100); 0: none")
    parser.add_argument(
        "--max-seconds", type=float, help="a seed that takes longer has failed (default 120, or the row's)"
    )
    parser.add_argument("flags", nargs="*", help="further flags of train, behind --")
    arguments = parser.parse_args()
    try:
        arguments.seeds = arguments.seeds and seeds_of(arguments.seeds)
    except ValueError as error:
        parser.error(f"--seeds: {error}")
    if unknown := set(arguments.rows.split(",") if arguments.rows else ()) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
