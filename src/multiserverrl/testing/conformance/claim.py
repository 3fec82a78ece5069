"""What a claim is: a sentence about a server, how to find out, and what to do where it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiserverrl.testing.conformance.subject import Subject

__all__ = ["Claim", "Claims", "Look", "Skip"]

Look = Callable[["Subject"], str]


class Skip(Exception):
    """The claim cannot be judged here; the message says why."""


@dataclass(frozen=True)
class Claim:
    """`look` returns what was seen, or raises; `advice` is for who mends the server. Figures neither pass nor fail."""

    group: str
    title: str
    advice: str
    look: Look
    is_figure: bool = False

    def __str__(self) -> str:
        return self.title


class Claims:
    """Collects the claims of one group, in the order in which they are written: `@group("title", "advice")`."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.found: list[Claim] = []

    def __call__(self, title: str, advice: str = "", *, is_figure: bool = False) -> Callable[[Look], Look]:
        def keep(look: Look) -> Look:
            self.found.append(Claim(self.group, title, advice, look, is_figure))
            return look

        return keep
