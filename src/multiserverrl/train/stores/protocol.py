"""What a store is to the learner loop: it takes steps in, says when updates are owed, and gives them their batches."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from multiserverrl.train.algorithms.protocol import Batch, Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.replay import Source

__all__ = ["Arrays", "Store"]

Arrays = dict[str, NDArray[Any]]


class Store(Protocol):
    """Steps go in, batches come out. Which updates are owed follows from what was taken in, never from the clock."""

    publish_every: int  # updates after which the weights are published

    @property
    def inserted(self) -> int:
        """Items ever taken in, those of a dead learner before this one included."""

    @property
    def source(self) -> Source:
        """The steps that were taken in last: whoever reads on begins after them."""

    def __len__(self) -> int:
        """Items that there are now."""

    def take(self, raw: RawSteps) -> None:
        """Take steps in, wholly or (where the process dies meanwhile) not at all."""

    def retake(self, raw: RawSteps) -> None:
        """See steps again that a learner before us has taken in: windows that run on are made of them."""

    def owes(self, updates: int) -> bool:
        """Whether, after so many updates, another is due before more steps may be taken in."""

    def batch(self) -> Batch:
        """What the next update learns from."""

    def learned(self, updated: Updated) -> None:
        """What the update said of the last batch."""

    def achieved_ratio(self, updates: int) -> float:
        """Updates for each item since the warm-up; 0 before."""

    def go_on_from(self, updates: int) -> None:
        """A learner died after more updates than these: what was lost with it is not owed again."""

    def keep_ratio(self, updates: int) -> None:
        """After a resume: where the settings ask for another ratio than the run had, it holds from here on."""

    def contents(self) -> Arrays:
        """Views of all that a checkpoint must hold."""

    def tails(self) -> Arrays:
        """What the steps that wait in windows would become were all episodes cut off now; {} when nothing waits."""

    def cut_off(self) -> None:
        """End all episodes now: take in their tails; whatever comes next begins new windows."""

    def end_episodes(self, tails: Arrays) -> None:
        """Take in what `tails` gave before the run was ended."""

    def state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, as JSON: random numbers, ratios."""

    def restore(self, contents: Arrays, state: dict[str, Any]) -> None:
        """Become what these say; a content that outlived the learner is kept. ValueError when it is of others."""
