""".ci/audit.py: a known vulnerability fails it, silence is said loudly, and no word is taken for another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = """
import json, sys
service = sys.argv[sys.argv.index("--vulnerability-service") + 1]
pins = open(sys.argv[sys.argv.index("--requirement") + 1]).read().split()
said = {said!r}.get(service)
if said is None:
    sys.exit("ConnectionError: it cannot be reached")
told = [dict(zip(("name", "version"), pin.split("=="))) for pin in pins]
for package in told:
    package.update(said.get(package["name"], said["*"]))
print(json.dumps({{"dependencies": told, "fixes": []}}))
"""
CLEAN = {"vulns": []}
SKIPPED = {"skip_reason": "Dependency not found"}
BAD = {"vulns": [{"id": "CVE-2026-1", "fix_versions": ["9.9"], "aliases": [], "description": ""}]}


def audit(folder: Path, said: dict[str, dict[str, Any]], *arguments: str) -> subprocess.CompletedProcess[str]:
    """With services that say of each package what `said` has for it, or for "*"; one that is not there is down."""
    stub = folder / "stub.py"
    stub.write_text(STUB.format(said=said))
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), *arguments, sys.executable, str(stub)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_nothing_known_of_any_package_is_a_pass(tmp_path: Path) -> None:
    done = audit(tmp_path, {"pypi": {"*": CLEAN}})
    assert done.returncode == 0 and "NOT ASKED" not in done.stdout
    assert "audit: 0 known vulnerabilities in" in done.stdout


def test_a_known_vulnerability_is_named_and_fails(tmp_path: Path) -> None:
    done = audit(tmp_path, {"pypi": {"*": CLEAN, "starlette": BAD}})
    assert done.returncode == 1
    assert "VULNERABLE: starlette " in done.stdout and ": CVE-2026-1, fixed in 9.9" in done.stdout


def test_what_one_service_does_not_know_another_is_asked_about(tmp_path: Path) -> None:
    done = audit(tmp_path, {"pypi": {"*": CLEAN, "starlette": SKIPPED}, "osv": {"*": CLEAN, "starlette": BAD}})
    assert done.returncode == 1 and "VULNERABLE: starlette" in done.stdout and "NOT ASKED" not in done.stdout


@pytest.mark.parametrize("said", [{}, {"pypi": {"*": SKIPPED}}, {"pypi": {"*": SKIPPED}, "osv": {"*": SKIPPED}}])
def test_silence_is_no_answer_and_is_said_loudly(tmp_path: Path, said: dict[str, Any]) -> None:
    done = audit(tmp_path, said)
    assert done.returncode == 0
    assert "NOT ASKED: no service answered about" in done.stdout and "starlette" in done.stdout
    assert audit(tmp_path, said, "--require-answer").returncode == 1


def test_a_package_that_nobody_knows_does_not_hide_the_others(tmp_path: Path) -> None:
    done = audit(tmp_path, {"pypi": {"*": CLEAN, "starlette": BAD, "envpool": SKIPPED}})
    assert done.returncode == 1
    assert "VULNERABLE: starlette" in done.stdout and "packages: envpool" in done.stdout


def test_every_pin_is_asked_about(tmp_path: Path) -> None:
    done = audit(tmp_path, {"pypi": {"*": BAD}})
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert done.stdout.count("VULNERABLE") == len(pins)
    assert json.dumps(len(pins)) in done.stdout.splitlines()[-1]
