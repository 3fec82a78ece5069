"""What a client does not believe of a server: answers that fit no request, or that nobody waits for."""

from __future__ import annotations

import math

from multiserverrl.errors import WireError
from multiserverrl.wire.brief import brief
from multiserverrl.wire.messages import Open, Opened, Resumed

__all__ = ["Strays", "check_opened", "check_resumed"]

_MOST_STRAYS = 4096


class Strays:
    """Late repeats of answers that were taken: they are dropped, but a server that sends nothing else is not heard."""

    def __init__(self) -> None:
        self._awaited: list[int] = []
        self._count = 0

    def drop(self, seq: int, awaited: list[int]) -> None:
        """One more, while the answers to these seqs were waited for; WireError when there were too many."""
        if awaited != self._awaited:
            self._awaited, self._count = awaited, 0
        self._count += 1
        if self._count > _MOST_STRAYS:
            raise WireError(f"the server answers seq {seq} again and again, which nobody waits for")


def check_opened(opened: Opened, request: Open) -> None:
    """WireError for a session that is not the one that was asked for."""
    lanes = request.lanes or [request.num_envs]
    if opened.lanes != lanes:
        raise WireError(f"the server opened {brief(opened.lanes)} lanes, where {lanes} were asked for")
    if not 0 <= opened.time_to_live_s < math.inf:
        raise WireError(f"a session cannot live for {opened.time_to_live_s} s")


def check_resumed(resumed: Resumed, num_lanes: int) -> None:
    """WireError for a session with other lanes than before."""
    if len(resumed.last_seqs) != num_lanes:
        raise WireError(f"the server resumed {len(resumed.last_seqs)} lanes of {num_lanes}")
