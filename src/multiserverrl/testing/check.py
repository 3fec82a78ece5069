"""`multiserverrl check`: every claim of the server contract on one server, as a report that a person can read.

What goes wrong on the way, whatever it is, is a claim that does not hold, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from multiserverrl.client.trust import SYSTEM_TRUST, Trust
from multiserverrl.errors import (
    MisuseError,
    MultiServerRLError,
    ServerFull,
    ServerUnreachable,
    Unauthorized,
    UntrustedServer,
)
from multiserverrl.testing.conformance import SERVER_CLAIMS, Claim, Skip, Subject

__all__ = ["Finding", "check_server", "look_at"]

_MARKS = {"pass": "green", "FAIL": "bold red", "skip": "yellow", "told": "cyan"}


@dataclass(frozen=True)
class Finding:
    """What came of one claim: "pass", "FAIL", "skip", or "told" for a figure; and what was seen."""

    claim: Claim
    outcome: str
    seen: str


def check_server(
    url: str,
    env_id: str | None = None,
    *,
    token: str | None = None,
    timeout_s: float = 30.0,
    trust: Trust = SYSTEM_TRUST,
    claims: Iterable[Claim] = SERVER_CLAIMS,
    stream: TextIO | None = None,
) -> int:
    """Look at the server, write the report as it comes; 0: all that could be judged holds, 1: something does not.

    2, with one line on stderr: it cannot be reached or used, so that nothing was judged.
    """
    report = _Report(stream or sys.stdout)
    try:
        subject = Subject(url, env_id, token, timeout_s, trust)
        if not subject.description.free:
            raise ServerFull(f"no env of {subject.url} is free: try again when nobody uses it")
    except (MisuseError, ServerUnreachable, ServerFull, Unauthorized, UntrustedServer) as error:
        print(f"multiserverrl: {error.headline}", file=sys.stderr)
        return 2
    except MultiServerRLError as error:
        report.show(Finding(SERVER_CLAIMS[0], "FAIL", _told(error)))
        return 1
    report.begin(subject)
    findings = []
    for claim in claims:
        findings.append(look_at(claim, subject))
        report.show(findings[-1])
    report.end(findings)
    return 1 if any(finding.outcome == "FAIL" for finding in findings) else 0


def look_at(claim: Claim, subject: Subject) -> Finding:
    """Judge one claim."""
    try:
        return Finding(claim, "told" if claim.is_figure else "pass", claim.look(subject))
    except Skip as skipped:
        return Finding(claim, "skip", str(skipped))
    except Exception as error:  # a server may answer with anything: what it does to us is what was seen
        return Finding(claim, "skip" if claim.is_figure else "FAIL", _told(error))


def _told(error: Exception) -> str:
    if isinstance(error, AssertionError) and error.args:
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    said = error.headline if isinstance(error, MultiServerRLError) else str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class _Report:
    """Lines as the claims are judged; in colour on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, soft_wrap=True, markup=False)
        self._group = ""

    def begin(self, subject: Subject) -> None:
        self._console.print(f"{subject.url}: {subject.env.env_id}")
        self._console.print(f"  observations {_short(subject.observation_space)}")
        self._console.print(f"  actions      {_short(subject.action_space)}")

    def show(self, finding: Finding) -> None:
        claim = finding.claim
        if claim.group != self._group:
            self._group = claim.group
            self._console.print(f"\n{claim.group}")
        self._console.print(f"  {finding.outcome}  ", style=_MARKS[finding.outcome], end="")
        if finding.outcome == "told":
            self._console.print(f"{claim.title}: {finding.seen}")
            return
        self._console.print(claim.title)
        self._console.print(f"        {_one_line(finding.seen)}", style=None if finding.outcome == "FAIL" else "dim")
        if finding.outcome == "FAIL" and claim.advice:
            self._console.print(f"        what to do: {claim.advice}")

    def end(self, findings: list[Finding]) -> None:
        count = {name: sum(finding.outcome == name for finding in findings) for name in _MARKS}
        self._console.print(f"\n{count['pass']} passed, {count['FAIL']} failed, {count['skip']} skipped")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]


def _short(value: object) -> str:
    text = _one_line(str(value))
    return text if len(text) <= 110 else text[:107] + "…"
