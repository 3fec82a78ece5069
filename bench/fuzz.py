"""Coverage-guided fuzzing of every decoder (bench/fuzz_targets.py): any bytes give a message or one of our errors.

    pip install 'multiserverrl[fuzz]'
    python bench/fuzz.py [--inputs 1000000] [--targets trees,link] [--seed 1] [--markdown]

Each target runs in a process of its own, with its share of the inputs; one that takes more than `--limit-mb` in all
counts as a crash, as does any exception that is not ours. The exit code is 1 if there was a crash; its input
is written out, to become a test.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

_MOST_INPUT_BYTES = 4096
_SLOWEST_INPUT_S = 10


class Result(NamedTuple):
    """What came of one target; `crash` is the end of what was said, empty without one."""

    target: str
    inputs: int
    coverage: int
    peak_mb: int
    took_s: float
    crash: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets (default 1000000)")
    parser.add_argument("--targets", default="", help="names, separated by commas (default all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-mb", type=int, default=512, help="most memory of a target's process (default 512)")
    parser.add_argument("--markdown", action="store_true", help="print a table")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _fuzz(arguments.child[0], arguments.child[1:])
        return
    from fuzz_targets import TARGETS

    names = [name for name in arguments.targets.split(",") if name] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        raise SystemExit(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    share = -(-arguments.inputs // len(names))
    results = []
    for name in names:
        results.append(_run(name, TARGETS[name].seeds, share, arguments.seed, arguments.limit_mb))
        print(_shown(results[-1], arguments.markdown), flush=True)
    crashes = [result for result in results if result.crash]
    print(
        f"{sum(result.inputs for result in results)} inputs, {len(crashes)} crashes, "
        f"at most {max(result.peak_mb for result in results)} MB, {sum(result.took_s for result in results):.0f} s"
    )
    for result in crashes:
        print(f"\n{result.target}:\n{result.crash}")
    sys.exit(1 if crashes else 0)


def _run(name: str, seeds: list[bytes], inputs: int, seed: int, limit_mb: int) -> Result:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as corpus:
        for index, content in enumerate(seeds):
            pathlib.Path(corpus, str(index)).write_bytes(content)
        options = [
            f"-runs={inputs}", f"-seed={seed}", f"-max_len={_MOST_INPUT_BYTES}", f"-rss_limit_mb={limit_mb}",
            f"-timeout={_SLOWEST_INPUT_S}", "-print_final_stats=1", f"-artifact_prefix={tempfile.gettempdir()}/{name}-",
        ]  # fmt: skip
        command = [sys.executable, __file__, "--child", name, *options, corpus]
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = told.stderr + told.stdout
    number = {key: int(found[-1]) for key, pattern in _FIGURES.items() if (found := re.findall(pattern, said))}
    crash = "" if told.returncode == 0 else said[-3000:]
    return Result(
        name, number.get("inputs", 0), number.get("cov", 0), number.get("rss", 0), time.monotonic() - began, crash
    )


_FIGURES = {
    "inputs": r"stat::number_of_executed_units: (\d+)",
    "cov": r"cov: (\d+)",
    "rss": r"stat::peak_rss_mb: +(\d+)",
}


def _shown(result: Result, is_markdown: bool) -> str:
    verdict = "CRASH" if result.crash else "no crash"
    cells = (result.target, f"{result.inputs}", f"{result.coverage}", f"{result.peak_mb} MB", verdict)
    if is_markdown:
        return f"| {' | '.join(cells)} |"
    return "{:14} {:>9} inputs, {:>5} branches, {:>7}, {}".format(*cells) + f", {result.took_s:.0f} s"


def _fuzz(name: str, options: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["multiserverrl"]):
        import fuzz_targets
    run = fuzz_targets.TARGETS[name].run
    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
