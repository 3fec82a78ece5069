"""Whole runs killed and resumed; disks that are full; checkpoints cut short."""

from __future__ import annotations

import itertools
import json
import logging
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bad_disk import try_it
from counting_env import wrong_transitions
from matrix import Effort, FaultRow, Seen, Unavailable
from multiserverrl.train.checkpoint import Checkpoint, load_newest
from run_process import DEADLINE_S, TrainingRun, limit_files, training

UNREACHABLE = ("--stop-at-return", "1e9")
SOLVED = ("--stop-at-return", "475")
OFTEN = ("--checkpoint-every-s", "0.2")
N_STEP, GAMMA, REWARD_SCALE = 5, 0.9, 0.5
RESUMED = r"run_resumed checkpoint=(\S+) digest=(\S+) .*tails=(\d+)"
COUNTING = (
    f"{pathlib.Path(__file__).parent / 'counting_env.py'}:CountingEnv", "--count", 16, "--n-step", N_STEP,
    "--gamma", GAMMA, "--reward-scale", REWARD_SCALE, "--hidden", 16, *OFTEN, *UNREACHABLE,
)  # fmt: skip


AT_START, AT_DIGEST, LATER = "during the start of a resume", "right after its digest", "later"
MOMENTS = (LATER, AT_START, AT_DIGEST, LATER)  # of the parts of a run, by turns


@dataclass
class _Tally:
    """What came of the kills of whole runs."""

    kills: Counter[str] = field(default_factory=Counter)  # by their moment
    resumes: int = 0  # that were not killed before they could say what they have
    restored: int = 0  # those whose digest was that of the newest checkpoint
    truncated: int = 0  # transitions of broken episodes
    transitions: int = 0  # checked by their content
    wrong: int = 0
    solved: int = 0
    runs: int = 0
    backends: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def kill_whole_runs(effort: Effort) -> Seen:
    """CartPole runs, each killed a few times and then solved; and one whose transitions are checked by content."""
    tally, rng = _Tally(), random.Random(effort.seed)
    for number in range(effort.times(1, 4)):
        backends = ["numpy", "torch"] * 2 if effort.is_whole and number == 0 else ["numpy"] * effort.times(3, 4)
        _kill_and_solve(tally, rng, number, backends, longest_s=effort.times(1, 4))
    _kill_and_check(tally, rng, effort.times(1, 4))
    holds = tally.restored == tally.resumes and tally.solved == tally.runs and tally.wrong == 0 and tally.truncated > 0
    moments = ", ".join(f"{count} {moment}" for moment, count in tally.kills.items())
    return Seen(
        f"{tally.kills.total()} kills of a whole run ({moments}; with {' and '.join(sorted(tally.backends))})",
        f"{tally.restored}/{tally.resumes} resumes with the digest of the newest checkpoint, none without one; "
        f"{tally.solved}/{tally.runs} runs solved afterwards; {tally.truncated} transitions of broken episodes "
        f"truncated; of {tally.transitions} checked by content {tally.wrong} span a break"
        + "".join(f"; {problem}" for problem in tally.problems),
        holds and not tally.problems and len(tally.kills) == len(set(MOMENTS)),
    )


def _kill_and_solve(tally: _Tally, rng: random.Random, seed: int, backends: list[str], longest_s: float) -> None:
    """One run: a part with each backend, killed at a random moment; then a last part with NumPy, which solves it."""
    with _scratch() as directory:
        run_dir = directory / "run"
        begin: tuple[object, ...] = ("CartPole-v1", "--run-dir", run_dir, "--seed", seed, *OFTEN, *UNREACHABLE)
        for number, backend in enumerate(backends):
            tally.backends.add(backend)
            _kill_at(MOMENTS[number % len(MOMENTS)], tally, rng, run_dir, (*begin, "--backend", backend), longest_s)
            begin = ("--resume", run_dir, *UNREACHABLE)
        with training("--resume", run_dir, "--backend", "numpy", *SOLVED) as run:
            _follow(tally, run, run_dir)
            run.wait_until(lambda: (run_dir / "result.json").exists(), "it is solved")
            run.process.wait(DEADLINE_S)
        tally.runs += 1
        tally.solved += json.loads((run_dir / "result.json").read_text())["solved"]


def _kill_at(
    moment: str, tally: _Tally, rng: random.Random, run_dir: Path, arguments: tuple[object, ...], longest_s: float
) -> None:
    """Start a part of a run and kill it at such a moment; the same checkpoint must serve the next, or a newer one."""
    with training(*arguments) as run:
        if moment == AT_START:
            before = load_newest(run_dir / "checkpoints")
            time.sleep(rng.uniform(0.0, 1.5))
            run.kill()
            if run.all(RESUMED):  # it came so far
                _compare(tally, run, before)
        else:
            _follow(tally, run, run_dir)
            if moment == LATER:
                begun_with = _newest(run_dir)
                run.wait_until(lambda: _newest(run_dir) > begun_with, "there is a checkpoint of this part")
                time.sleep(rng.uniform(0.0, longest_s))
            run.kill()
    tally.kills[moment] += 1


def _kill_and_check(tally: _Tally, rng: random.Random, kills: int) -> None:
    with _scratch() as directory:
        run_dir = directory / "run"
        begin: tuple[object, ...] = (*COUNTING, "--run-dir", run_dir)
        for _ in range(kills):
            _kill_at(LATER, tally, rng, run_dir, begin, longest_s=2.0)
            begin = ("--resume", run_dir)
        with training(*begin) as run:
            _follow(tally, run, run_dir)
            before = _newest(run_dir)
            run.wait_until(lambda: _newest(run_dir) > before, "there is a newer checkpoint")
            run.end()
        checkpoint = load_newest(run_dir / "checkpoints")
        assert checkpoint is not None
        replay = {name.removeprefix("replay/"): array for name, array in checkpoint.arrays.items() if "replay/" in name}
        tally.transitions += len(replay["obs"])
        tally.wrong += wrong_transitions(replay, n=N_STEP, gamma=GAMMA, reward_scale=REWARD_SCALE)


def _follow(tally: _Tally, run: TrainingRun, run_dir: Path) -> None:
    """Wait until the run is at work; one that goes on from a checkpoint must have it back to the bit."""
    if not (run_dir / "config.json").exists():
        run.wait_for("env steps")
        if not _newest(run_dir):
            tally.problems.append("a run had stepped, and there was no checkpoint")
        return
    before = load_newest(run_dir / "checkpoints")
    run.wait_for(RESUMED)
    _compare(tally, run, before)


def _compare(tally: _Tally, run: TrainingRun, before: Checkpoint | None) -> None:
    """What the resumed run computed of itself, with what was on the disk before it was started."""
    wanted = ("none", "") if before is None else (before.name, before.digest())
    name, digest, tails = run.all(RESUMED)[0].groups()
    tally.resumes += 1
    tally.truncated += int(tails)
    if (name, digest) == wanted:
        tally.restored += 1
    else:
        tally.problems.append(f"{' '.join(wanted)} became {name} {digest}")


def fill_disks(effort: Effort) -> Seen:
    """Small checkpoints under every fault at every place; and a real run whose files cannot grow for a time."""
    trials = {}
    for name, stride in {
        "killed_at_each_change": 1,
        "killed_at_each_byte": effort.times(5, 1),
        "full_at_each_change": 1,
        "flipped_at_each_bit": effort.times(20, 1),
        "cut_at_each_byte": 1,
        "replaced_at_each_change": 1,
    }.items():
        with _scratch() as directory:
            trials[name] = try_it(directory, name, stride)
    with _scratch() as directory:
        outage, silence = _outage_by_limit(directory / "run"), _run_into_full_screen(directory / "silent")
    problems = [problem for trial in trials.values() for problem in trial.wrong[:3]] + outage + silence
    done = {name: f"{trial.done - len(trial.wrong)}/{trial.done}" for name, trial in trials.items()}
    return Seen(
        f"{sum(trial.done for trial in trials.values())} faults of a checkpoint's writer, and 2 runs",
        f"an intact one loads after a kill at each change {done['killed_at_each_change']}, "
        f"a kill inside write(2) at each byte {done['killed_at_each_byte']}, "
        f"no room from each change on {done['full_at_each_change']}, a flip of each bit {done['flipped_at_each_bit']}, "
        f"a cut at each byte {done['cut_at_each_byte']}; "
        f"config.json is whole after a kill at each change {done['replaced_at_each_change']}; "
        "a run whose files could not grow, and one that wrote its screen and log to /dev/full, "
        + ("went on and said so" if not outage + silence else "DID NOT GO ON WELL")
        + "".join(f"; {problem}" for problem in problems[:5]),
        not problems,
    )


def _outage_by_limit(run_dir: Path) -> list[str]:
    """Launcher, learner and evaluator get EFBIG for every write; then not any more. What went wrong."""
    with training("CartPole-v1", "--run-dir", run_dir, *OFTEN, *UNREACHABLE) as run:
        run.wait_until(lambda: _newest(run_dir) != "", "there is a checkpoint")
        pids = run.pids(("train CartPole", "entries:learner", "entries:evaluator"))
        limit_files(pids, 100)
        problems = _live_through(run, run_dir, "File too large", lambda: limit_files(pids, -1))
        code = run.end()
    return [*problems, *([f"its exit code was {code}"] if code != 130 else [])]


def _live_through(run: TrainingRun, run_dir: Path, why: str, mend: object) -> list[str]:
    """The disk refuses everything: it must be said once, learning go on, and its end be said. What went wrong."""
    refused = rf"^(\S+) cannot be written: {why}"
    run.wait_for(rf"^checkpoints cannot be written: {why}")
    run.wait_for(rf"not_written what=checkpoints why=.{why}")
    before = load_newest(run_dir / "checkpoints")
    said = len(run.all("env steps"))
    run.wait_for("env steps", count=said + 4)
    during = load_newest(run_dir / "checkpoints")
    assert callable(mend)
    mend()
    run.wait_for("^checkpoints can be written again, after")
    run.wait_for("written_again what=checkpoints")
    after = load_newest(run_dir / "checkpoints")
    problems = []
    if before is None or during is None or after is None or during.digest() != before.digest():
        return ["there was no intact checkpoint all the time"]
    if after.state["updates"] <= before.state["updates"]:
        problems.append("nothing was learned during the outage")
    names = [match.group(1) for match in run.all(refused)]
    if len(set(names)) != len(names):
        problems.append(f"it was said more than once: {names}")
    return problems


def _run_into_full_screen(run_dir: Path) -> list[str]:
    command = [sys.executable, "-m", "multiserverrl", "train", "CartPole-v1", "--count", "4", "--run-dir", str(run_dir)]
    with open("/dev/full", "w") as full:
        code = subprocess.run(
            [*command, "--episodes", "3", "--eval-episodes", "2", *UNREACHABLE],
            stdout=full,
            stderr=full,
            check=False,
            timeout=DEADLINE_S,
        ).returncode
    return [] if code == 0 and (run_dir / "result.json").exists() else [f"into /dev/full: exit code {code}"]


def fill_a_tmpfs(effort: Effort) -> Seen:
    """A run on a disk of its own that is filled to the last byte, emptied, filled again; killed, and resumed."""
    problems: list[str] = []
    with _scratch() as directory, _tmpfs(directory, size_kib=6144) as disk:
        run_dir, filler = disk / "run", disk / "filler"
        with training("CartPole-v1", "--run-dir", run_dir, "--buffer-size", 4000, *OFTEN, *UNREACHABLE) as run:
            for outage in range(effort.times(1, 5)):
                run.wait_until(lambda: _newest(run_dir) != "", "there is a checkpoint")
                outages = len(run.all("^checkpoints can be written again"))
                if outages != outage:
                    problems.append(f"{outages} outages were over, not {outage}")
                problems += _fill_for_a_time(run, run_dir, filler)
            _fill(filler)
            run.kill()
        _fill(filler)
        refusal = subprocess.run(
            [sys.executable, "-m", "multiserverrl", "train", "--resume", str(run_dir)],
            capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        )  # fmt: skip
        if refusal.returncode != 2 or "No space left" not in refusal.stderr or "Traceback" in refusal.stderr:
            problems.append(f"a resume on the full disk: {refusal.returncode} {refusal.stderr[-200:]}")
        filler.unlink()
        tally = _Tally()
        with training("--resume", run_dir, *SOLVED) as run:
            _follow(tally, run, run_dir)
            run.wait_until(lambda: (run_dir / "result.json").exists(), "it is solved")
            run.process.wait(DEADLINE_S)
        problems += tally.problems
        leftovers = [str(path) for path in run_dir.rglob(".writing-*")]
        problems += [f"left over: {leftovers}"] if leftovers else []
    return Seen(
        f"{effort.times(1, 5)} outages, and a kill on the full disk",
        "an intact checkpoint all the time, each outage said once and so was its end; "
        f"{tally.restored}/1 resumed with an equal digest, and solved"
        + "".join(f"; {problem}" for problem in problems),
        not problems and tally.restored == 1,
    )


def _fill_for_a_time(run: TrainingRun, run_dir: Path, filler: Path) -> list[str]:
    """Every byte that becomes free is taken at once, until the run has said that there is none, and for 4 s more."""
    said = len(run.all("^checkpoints cannot be written: No space left"))
    until_s, problems = time.monotonic() + 300.0, list[str]()
    refused_at_s = float("inf")
    while time.monotonic() < min(until_s, refused_at_s + 4.0):
        _fill(filler)
        if len(run.all("^checkpoints cannot be written: No space left")) > said:
            refused_at_s = min(refused_at_s, time.monotonic())
        if load_newest(run_dir / "checkpoints") is None:
            problems.append("no intact checkpoint while the disk was full")
        time.sleep(0.02)
    if len(run.all("^checkpoints cannot be written: No space left")) != said + 1:
        problems.append("the outage was not said once")
    ended = len(run.all("^checkpoints can be written again"))
    filler.unlink()
    run.wait_for("^checkpoints can be written again", count=ended + 1)
    return problems


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file:
        for size in itertools.chain([1 << 16] * 1000, [1 << 12] * 64, [1]):
            try:
                file.write(bytes(size))
            except OSError:
                if size == 1:
                    return


def _newest(run_dir: Path) -> str:
    """The name of the newest checkpoint; "" when there is none."""
    return max((path.name for path in (run_dir / "checkpoints").glob("checkpoint-*")), default="")


@contextmanager
def _scratch() -> Iterator[Path]:
    logging.getLogger("multiserverrl").setLevel(logging.ERROR)  # what is passed over here is meant to be
    with tempfile.TemporaryDirectory(prefix="multiserverrl-faults-") as name:
        yield Path(name)


@contextmanager
def _tmpfs(directory: Path, size_kib: int) -> Iterator[Path]:
    disk = directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise Unavailable(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


ROWS: list[FaultRow] = [
    FaultRow(
        "10",
        "the whole run killed at random moments, `--resume`",
        "what the last checkpoint held is back to the bit, sampling's random numbers too (exploration's and envs' are "
        "new ones, by seed and env steps); broken episodes count as truncated; it goes on to solved",
        kill_whole_runs,
    ),
    FaultRow(
        "11",
        "kill, full disk or damage at each place of a checkpoint; files that cannot grow; `/dev/full`",
        "an intact checkpoint always loads; training goes on and says so",
        fill_disks,
    ),
    FaultRow(
        "11b",
        "a run on a tmpfs that is filled to the last byte",
        "an intact checkpoint always loads; training goes on and says so",
        fill_a_tmpfs,
        needs_root=True,
    ),
]
