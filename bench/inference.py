"""Who should act: one inference server, or a copy in every explorer? Env steps/s over network size and round trip.

    python bench/inference.py [--hidden 64,64 --hidden 512,512] [--delays-ms 0,5] [--explorers 1,2] [--seconds 3]

Real `train` runs on an env server behind a relay that delays each way (`slow_link.py`); the learner hardly learns
(--replay-ratio 0.001), so that acting is the limit. One line a setting: both rates in turns, their ratio, and the
mean batch of the inference server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "multiserverrl"]
RELAY = Path(__file__).with_name("slow_link.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MODES = ("central", "explorer")
WARM_LINES = 1  # of metrics.jsonl, one a second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", action="append", help="sizes of the hidden layers; may be given again")
    parser.add_argument("--delays-ms", default="0,5", help="each way, with commas")
    parser.add_argument("--explorers", default="1,2")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run that are measured")
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'hidden':>12} {'delay ms':>8} {'explorers':>9} {'central':>8} {'explorer':>8} {'ratio':>6} {'batch':>6}")
    with server(arguments.count + 8) as port:
        for delay_ms in map(float, arguments.delays_ms.split(",")):
            with relay(port, delay_ms / 1e3) as relayed:
                for hidden in arguments.hidden or ["64,64", "256,256", "1024,1024"]:
                    for explorers in map(int, arguments.explorers.split(",")):
                        flags = ["--hidden", hidden, "--explorers", str(explorers), "--count", str(arguments.count)]
                        rows = [
                            {mode: rates_of(relayed, mode, flags, arguments.seconds) for mode in MODES}
                            for _ in range(arguments.starts)
                        ]
                        print(line_of(hidden, delay_ms, explorers, rows), flush=True)
    return 0


def line_of(hidden: str, delay_ms: float, explorers: int, rows: list[dict[str, dict[str, float]]]) -> str:
    """The medians over the starts; the ratio is that of each start's own two runs."""
    central, explorer = (statistics.median(row[mode]["steps_per_s"] for row in rows) for mode in MODES)
    ratio = statistics.median(row["explorer"]["steps_per_s"] / row["central"]["steps_per_s"] for row in rows)
    batch = statistics.median(row["central"]["batch"] for row in rows)
    return f"{hidden:>12} {delay_ms:>8g} {explorers:>9} {central:>8.0f} {explorer:>8.0f} {ratio:>6.2f} {batch:>6.1f}"


def rates_of(port: int, mode: str, flags: list[str], seconds: float) -> dict[str, float]:
    """Env steps/s of a run, and the mean size of its batches."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*COMMAND, "train", "CartPole-v1", "--port", str(port), "--run-dir", str(run), "--inference", mode]
        command += ["--replay-ratio", "0.001", "--stop-at-return", "1e9", "--eval-every-s", "1000", "--log", "none"]
        process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        try:
            lines = lines_of(run / "metrics.jsonl", WARM_LINES + 1 + round(seconds), process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60.0)
    first, last = lines[WARM_LINES], lines[-1]
    steps = last["env_steps"] - first["env_steps"]
    return {
        "steps_per_s": steps / (last["wall_s"] - first["wall_s"]),
        "batch": float(last.get("batch_rows") or 0.0),
    }


def lines_of(path: Path, count: int, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """The first lines of a metrics.jsonl, once there are so many."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            lines = path.read_text().splitlines()
            if len(lines) >= count:
                return [json.loads(line) for line in lines[:count]]
        time.sleep(0.05)
    raise RuntimeError(f"the run ended with {process.returncode} before it was measured")


@contextlib.contextmanager
def server(count: int) -> Iterator[int]:
    """An env server; its port."""
    command = [*COMMAND, "serve", "CartPole-v1", "--port", "0", "--count", str(count)]
    with started(command, r"http://[^ ]*:(\d+)") as port:
        yield port


@contextlib.contextmanager
def relay(port: int, delay_s: float) -> Iterator[int]:
    """A relay to it; without a delay the port itself."""
    if delay_s == 0:
        yield port
        return
    with started([sys.executable, str(RELAY), str(port), str(delay_s)], r"ready (\d+)") as relayed:
        yield relayed


@contextlib.contextmanager
def started(command: list[str], says: str) -> Iterator[int]:
    """A process, and the number that it says."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(says, line):
                yield int(found[1])
                return
        raise RuntimeError(f"{command} ended before it was ready")
    finally:
        process.terminate()
        process.wait(30.0)


if __name__ == "__main__":
    sys.exit(main())
