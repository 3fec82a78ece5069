"""`train` that is told to stop, or whose launcher is killed: what of it is left."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import tempfile
import time
from collections.abc import Callable

import psutil

from matrix import Effort, Seen, at_most
from run_process import TrainingRun, training
from scene import environment

__all__ = ["stop_trains"]

GONE_WITHIN_S, LEFT_AFTER_S = 10.0, 60.0
FLAGS = ("CartPole-v1", "--count", 4, "--warmup-steps", 50, "--eval-episodes", 2, "--stop-at-return", 1e9)


def _kill(run: TrainingRun) -> int:
    run.process.kill()
    return -signal.SIGKILL


def _terminate(run: TrainingRun) -> int:
    run.process.send_signal(signal.SIGTERM)
    return 128 + signal.SIGTERM


def _interrupt(run: TrainingRun) -> int:
    run.process.send_signal(signal.SIGINT)
    return 128 + signal.SIGINT


def _interrupt_twice(run: TrainingRun) -> int:
    """The orderly end waits for a learner that stands still; the second Ctrl-C, well after the first, does not."""
    (learner,) = run.pids(["entries:learner"])
    os.kill(learner, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    return _interrupt(run)


MANNERS: tuple[Callable[[TrainingRun], int], ...] = (_kill, _terminate, _interrupt, _interrupt_twice)


def stop_trains(effort: Effort) -> Seen:
    """Row 17b: each manner of ending a run that serves its own envs, while it learns."""
    slowest_s, left, wrong = 0.0, list[str](), list[str]()
    times = effort.times(1, 5)
    for manner in MANNERS * times:
        with tempfile.TemporaryDirectory() as folder:
            took_s, remains, is_right = _stop(manner, pathlib.Path(folder))
        slowest_s = max(slowest_s, took_s)
        left += [f"{what} after {manner.__name__.strip('_')}" for what in remains]
        wrong += [] if is_right else [manner.__name__.strip("_")]
    return Seen(
        f"{len(MANNERS) * times} runs ended by kill -9 of the launcher, SIGTERM, SIGINT, SIGINT twice",
        f"s until all was gone {slowest_s:.1f} at most; processes, ports, shared memory and temporary files left: "
        f"{', '.join(left) or 0}; wrong exit codes: {', '.join(wrong) or 0}",
        not left and not wrong,
        (at_most(GONE_WITHIN_S, "s", "all gone", slowest_s),),
    )


def _stop(manner: Callable[[TrainingRun], int], folder: pathlib.Path) -> tuple[float, list[str], bool]:
    """Seconds until all was gone, what was left, whether the exit code was right."""
    temporary, blocks = folder / "tmp", set(os.listdir("/dev/shm"))
    temporary.mkdir()
    with environment(TMPDIR=str(temporary)), training(*FLAGS, "--run-dir", folder / "run") as run:
        metrics = folder / "run" / "metrics.jsonl"
        run.wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "it learns")
        pids, ports = run.pids(), _ports(run.pids())
        assert len(pids) > 4 and ports
        began = time.monotonic()
        wanted = manner(run)
        code = run.process.wait(LEFT_AFTER_S)
        while (remains := _remains(pids, ports)) and time.monotonic() < began + LEFT_AFTER_S:
            time.sleep(0.02)
        took_s = time.monotonic() - began
        remains += [f"/dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - blocks]
        remains += [f"temporary {path.name}" for path in temporary.iterdir()]
    return took_s, remains, code == wanted


def _remains(pids: list[int], ports: set[int]) -> list[str]:
    alive = [f"process {pid}" for pid in pids if _is_alive(pid)]
    return alive + [f"port {port}" for port in ports if not _is_free(port)]


def _ports(pids: list[int]) -> set[int]:
    """What they listen on."""
    connections = [one for pid in pids for one in psutil.Process(pid).net_connections("tcp")]
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
