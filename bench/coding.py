"""What checksums and compression cost and save: steps per second on loopback, and bytes of an answer.

    python bench/coding.py [--seconds 1] [--rounds 5] [--envs ENV_ID:NUM …]

Placement `split`, as in step.py: this client on one core, the server on another. All codings are measured in turns
against one server; a figure is the median of the rounds, and its share of the plain connection's. `gains below` is
the speed of a link, full duplex, at which the bytes saved take as long as the computing costs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import multiserverrl as msr  # noqa: E402
from multiserverrl.testing.relay import Relay  # noqa: E402
from step import free_port, server, steps_per_s  # noqa: E402

CODINGS = {
    "plain": {"compression": False},
    "crc32": {"compression": False, "checksum": True},
    "zstd": {"compression": "zstd"},
    "zstd, crc32": {"compression": "zstd", "checksum": True},
}
ENVS = ["CartPole-v1:1", "CartPole-v1:64", "multiserverrl.testing.envs:Pictures:8"]


def opened(url: str, num_envs: int, coding: dict[str, object]) -> msr.VirtualVectorEnv:
    envs = msr.VirtualVectorEnv(url, num_envs=num_envs, autoreset_mode="same_step", **coding)
    envs.reset(seed=0)
    return envs


def answer_bytes(url: str, num_envs: int, coding: dict[str, object], steps: int = 20) -> float:
    with Relay(url) as relay:
        envs = opened(relay.url, num_envs, coding)
        before = relay.passed_bytes["reply"]
        for _ in range(steps):
            envs.step(envs.action_space.sample())
        passed = relay.passed_bytes["reply"] - before
        envs.close()
    return passed / steps


def measure(env_id: str, num_envs: int, seconds: float, rounds: int) -> None:
    port, rates = free_port(), {name: [] for name in CODINGS}
    command = ["-m", "multiserverrl", "serve", env_id, "--port", str(port), "--workers", "1"]
    with server([*command, "--count", str(num_envs * (len(CODINGS) + 1))], 1, "serving"):
        url = f"http://127.0.0.1:{port}"
        open_envs = {name: opened(url, num_envs, coding) for name, coding in CODINGS.items()}
        actions = [open_envs["plain"].action_space.sample() for _ in range(64)]
        for _ in range(rounds):
            for name, envs in open_envs.items():
                rates[name].append(steps_per_s(envs.step, actions, num_envs, seconds))
        for envs in open_envs.values():
            envs.close()
        sizes = {name: answer_bytes(url, num_envs, coding) for name, coding in CODINGS.items()}
    show(f"{num_envs} × {env_id}", num_envs, {name: statistics.median(found) for name, found in rates.items()}, sizes)


def show(title: str, num_envs: int, rates: dict[str, float], sizes: dict[str, float]) -> None:
    print(title)
    for name, rate in rates.items():
        extra_s = num_envs / rate - num_envs / rates["plain"]
        saved_bytes = sizes["plain"] - sizes[name]
        gains = (
            f"  gains below {8e-6 * saved_bytes / extra_s:,.0f} Mbit/s"
            if saved_bytes > 0.1 * sizes["plain"] and extra_s > 0
            else ""
        )
        share = rate / rates["plain"]
        print(f"  {name:12} {rate:10,.0f} steps/s  {share:.2f}  {1e6 * extra_s:+6.1f} µs  {sizes[name]:9,.0f} B{gains}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})
    for text in options.envs:
        env_id, _, num_envs = text.rpartition(":")
        measure(env_id, int(num_envs), options.seconds, options.rounds)


if __name__ == "__main__":
    main()
