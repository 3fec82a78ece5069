from __future__ import annotations

import pytest

from multiserverrl.errors import EnvFault
from multiserverrl.train.fruitless import LEAST_S, LEAST_TRIES, Fruitless
from tests.train.fakes import FakeCounters


class Asked:
    """A group of envs that fails once every `every_s`, in a run whose other explorer counts its own steps."""

    def __init__(self, every_s: float) -> None:
        self.now_s, self._every_s, counters = 100.0, every_s, FakeCounters()
        self.other = counters.row("other")
        self._fruitless = Fruitless(counters.row("e"), lambda: self.now_s)

    def fails(self, times: int) -> None:
        for _ in range(times):
            self._fruitless.again("it broke")
            self.now_s += self._every_s


@pytest.mark.parametrize(
    ("every_s", "most"), [(30.0, LEAST_TRIES - 1), (1.0, int(LEAST_S)), (3.0, LEAST_TRIES)], ids=["few", "soon", "both"]
)
def test_envs_are_given_up_after_so_many_tries_and_so_long(every_s: float, most: int) -> None:
    asked = Asked(every_s)
    asked.fails(most)
    with pytest.raises(
        EnvFault, match=rf"for \d+ s: the envs failed {most + 1} times in a row, the last time: it broke"
    ):
        asked.fails(1)


def test_any_step_of_the_run_begins_it_anew() -> None:
    asked = Asked(every_s=10.0)
    for _ in range(5):
        asked.fails(LEAST_TRIES - 1)
        asked.other.add("env_steps", 1.0)
    with pytest.raises(EnvFault):
        asked.fails(LEAST_TRIES)
