"""How fast something steps, and how fast two things step that are measured in turns.

A machine's speed drifts within seconds. So both sides run in short slices, one right after the other and
with the order swapped each time; the figure is the median of the slices' own ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rows import Part

SLICE_S = 0.2
WARM_S = 0.3

Rate = Callable[[float], float]  # how many env steps a second, measured for so many seconds


def rate_of(step: Callable[[Any], Any], actions: Sequence[Any], num_envs: int, stride: int | None = None) -> Rate:
    """The rate of calling `step` with one of the actions after the other; looks at the clock every `stride` calls."""
    calls, index = stride or max(1, 64 // num_envs), 0

    def rate(seconds: float) -> float:
        nonlocal index
        count, began = 0, time.perf_counter()
        while True:
            for _ in range(calls):
                step(actions[index])
                index = (index + 1) % len(actions)
            count += calls * num_envs
            elapsed = time.perf_counter() - began
            if elapsed >= seconds:
                return count / elapsed

    return rate


def in_turns(reference: Rate, ours: Rate, seconds: float) -> Part:
    """Both sides for `seconds` each, in slices; medians of their rates and of the slices' ratios."""
    slices = max(1, round(seconds / SLICE_S))
    reference(min(WARM_S, seconds)), ours(min(WARM_S, seconds))
    pairs = []
    for number in range(slices):
        if number % 2:
            own = ours(seconds / slices)
            pairs.append((reference(seconds / slices), own))
        else:
            pairs.append((reference(seconds / slices), ours(seconds / slices)))
    middle = statistics.median
    return Part(middle(r for r, _ in pairs), middle(o for _, o in pairs), middle(o / r for r, o in pairs))
