"""Asks whether a vulnerability is known of any version in constraints.txt: `make audit`, a step of CI.

    python .ci/audit.py [--require-answer] [pip-audit's command …]

Exit code 1: one is known, and named. 0: none is known of those that could be asked about. What could not be asked
about (the service cannot be reached, or knows no such package) is said loudly; with --require-answer it is a 1, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
SERVICES = ("pypi", "osv")  # the second is asked when the first does not answer for all
KNOWN_EVERYWHERE = "numpy"  # asked about first: a service that does not know it is not asked about the rest
TIMEOUT_S = 300

Answers = dict[str, list[str]]  # by package, what is known of it


def main(arguments: list[str]) -> int:
    command = [word for word in arguments if word != "--require-answer"] or [sys.executable, "-m", "pip_audit"]
    pins = {name_of(line): line for line in CONSTRAINTS.read_text("utf-8").splitlines() if is_pin(line)}
    answers: Answers = {}
    for service in SERVICES:
        if not pins.keys() <= answers.keys() and ask(command, service, [pins[KNOWN_EVERYWHERE]]):
            answers.update(ask(command, service, list(pins.values())))
    known = sorted(told for found in answers.values() for told in found)
    silent = sorted(pins.keys() - answers.keys())
    for told in known:
        print(f"VULNERABLE: {told}")
    if silent:
        print(f"NOT ASKED: no service answered about {len(silent)} of {len(pins)} packages: {', '.join(silent)}")
    print(f"audit: {len(known)} known vulnerabilities in {len(pins) - len(silent)} of {len(pins)} packages")
    return 1 if known or (silent and "--require-answer" in arguments) else 0


def is_pin(line: str) -> bool:
    return "==" in line and not line.startswith("#")


def name_of(line: str) -> str:
    return line.partition("==")[0].strip().lower().replace("_", "-")


def ask(command: list[str], service: str, pins: list[str]) -> Answers:
    """What the service says of each package that it knows; nothing when it cannot be reached."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        options = ["--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json"]
        options += ["--vulnerability-service", service, "--progress-spinner", "off", "--timeout", "10"]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            told: dict[str, Any] = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            print(f"the service {service} could not be asked: {type(error).__name__}", flush=True)
            return {}
    return {
        name_of(package["name"]): [line_of(package, vulnerability) for vulnerability in package["vulns"]]
        for package in told["dependencies"]
        if "vulns" in package  # otherwise: why it was skipped
    }


def line_of(package: dict[str, Any], vulnerability: dict[str, Any]) -> str:
    fixed = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
    return f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
