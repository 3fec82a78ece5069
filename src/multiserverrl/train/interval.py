"""How far a mean of few returns is to be believed: Student's 95 % confidence interval. Pure.

It holds for the mean over this env's episodes (start states, chance in the env) of one fixed policy, and says nothing
of what another seed of training would reach. Returns are seldom normal; for 20 or more of them that hardly matters.
Student's t was taken rather than the bootstrap, whose intervals are too narrow for 20 returns, and need random numbers.
"""

from __future__ import annotations

import math

__all__ = ["half_width", "quantile"]

# t(0.975) for 1 to 8 degrees of freedom; beyond, the expansion below is right to 3e-4
_FEW = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
_Z = 1.959963985  # of the normal distribution


def half_width(std: float, n: int) -> float:
    """Of the interval around the mean of `n` numbers of this (population) standard deviation; inf where n < 2."""
    return quantile(n - 1) * std / math.sqrt(n - 1) if n > 1 else math.inf


def quantile(degrees: int) -> float:
    """Student's t that 97.5 % stay below: the expansion in 1 / degrees of Abramowitz and Stegun, 26.7.5."""
    if degrees <= len(_FEW):
        return _FEW[degrees - 1]
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / math.pow(degrees, power) for power, term in enumerate(terms, start=1))
