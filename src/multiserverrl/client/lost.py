"""A link whose lost session does not end its virtual env: `on_lost="truncate"`.

It opens another session and plays the server's part for the one that was lost. Every episode that ran is answered for
once: its last observation, reward 0, truncated, and the cause in `info["multiserverrl"]["lost"]`, as a server
answers for envs whose worker died. What follows begins as autoreset begins it, without a seed and without options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from multiserverrl.client.batches import rows_of
from multiserverrl.client.coding import Wanted
from multiserverrl.client.link import Link
from multiserverrl.client.retries import Budgets, Failure, Outage
from multiserverrl.client.transport import Address
from multiserverrl.errors import MultiServerRLError, SeqError, ServerFull, ServerUnreachable, SessionLost, SpaceError
from multiserverrl.wire import frames
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import Open, Request, Reset, Stepped
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree

__all__ = ["TruncatingLink", "patiently"]

Told = tuple[Any, memoryview]


def patiently(open_session: Callable[[], Any], for_s: float) -> Any:
    """Open a session where the last one was lost: its server may be away for a while, or full of our own ghost."""
    outage = Outage(Budgets(for_s, for_s, for_s))
    while True:
        outage.pause()
        try:
            return open_session()
        except (ServerUnreachable, ServerFull):
            if outage.is_over(Failure.CUT):
                raise


class TruncatingLink(Link):
    """A Link that outlives its sessions; steps raise SessionLost only when it was closed or belongs to a fork's parent.

    ServerUnreachable or ServerFull when no other session can be opened for `timeout_s`; the next step tries again.
    """

    def __init__(self, address: Address, request: Open, *, timeout_s: float, wanted: Wanted) -> None:
        self._last: dict[int, Told] = {}  # by lane: the last answer, with the last observations
        self._stepping: set[int] = set()  # lanes whose step was not answered to the caller yet
        self._owed: set[int] = set()  # those of them that the lost session left without an answer
        self._untold: dict[int, str] = {}  # by lane: the cause, where the caller has not heard of the loss
        self._firsts: dict[int, Told] = {}  # by lane: the answer to the new session's first reset
        self._is_mended = True
        self._mode = request.autoreset_mode
        self.reopens = 0
        super().__init__(address, request, timeout_s=timeout_s, wanted=wanted)

    def send(self, lane: int, make: Callable[[int], Request], body: bytes = b"") -> None:
        """As Link does, whatever is no step."""
        request = make(self.lanes[lane].next_seq)
        if isinstance(request, Reset) and (request.mask is None or all(request.mask)):
            self._untold.pop(lane, None)
            self._firsts.pop(lane, None)
        self._stepping.discard(lane)
        super().send_frame(lane, frames.encode(request, body))

    def send_frame(self, lane: int, frame: bytes) -> None:
        """Send a step. Where an episode was lost, or is to begin, it goes nowhere: its answer is known."""
        if lane not in self._untold and lane not in self._firsts:
            super().send_frame(lane, frame)
        else:
            if lane in self._arrived:
                raise SeqError(f"the answer to the last step of lane {lane} was not taken yet")
            self._mend()
            if lane in self._untold:
                self._tell(lane)
            else:
                self._arrived[lane] = self._firsts.pop(lane)
        self._stepping.add(lane)

    def receive(self, lane: int) -> Told:
        """As Link does; a step of a session that is lost is answered as truncated."""
        try:
            told = super().receive(lane)
        except SessionLost:
            if lane not in self._owed:
                raise
            self._tell_owed()
            told = self._arrived.pop(lane)
        finally:
            if not self.is_pending(lane):
                self._stepping.discard(lane)
        if type(told[0]) is Stepped:
            self._last[lane] = told[0], memoryview(bytes(told[1]))
        return told

    def receive_any(self, lanes: Iterable[int]) -> int:
        wanted = list(lanes)
        try:
            return super().receive_any(wanted)
        except SessionLost:
            if not self._owed.intersection(wanted):
                raise
            self._tell_owed()
            return super().receive_any(wanted)

    def _give_up(self, error: MultiServerRLError) -> MultiServerRLError:
        arrived = dict(self._arrived)
        ended = super()._give_up(error)
        if isinstance(error, SessionLost):
            self._arrived.update(arrived)  # what came in time stays true
            self._owed = self._stepping - arrived.keys()
            self._untold.update({lane: error.headline for lane in self._last if lane not in self._firsts})
            self._is_mended = False
        return ended

    def _tell_owed(self) -> None:
        owed = set(self._owed)
        self._mend()
        for lane in owed:
            self._tell(lane)

    def _mend(self) -> None:
        """Have a session again, with envs that were reset where an autoreset mode says so."""
        self._owed = set()
        if self._is_mended:
            return
        if self.has_ended():
            env = self.opened.env
            patiently(self._open, self._timeout_s)
            self._ended = self._outage = None
            self.reopens += 1
            if self.opened.env != env:
                raise self._end(SpaceError(f"{self.address} serves another {env.env_id} than before"))
        if self._mode != "none":
            self._firsts = self._reset_all()
        self._is_mended = True

    def _reset_all(self) -> dict[int, Told]:
        kept, self._arrived = self._arrived, {}
        try:
            for lane, state in enumerate(self.lanes):
                reset = Reset(lane, state.next_seq, None, b"", None, self.shared.in_use[lane])
                super().send_frame(lane, frames.encode(reset))
            return {lane: Link.receive(self, lane) for lane in range(len(self.lanes))}
        except BaseException:
            if not self.has_ended():
                self.leave()  # what was answered and what was not is not worth keeping apart
            raise
        finally:
            self._arrived = kept

    def _tell(self, lane: int) -> None:
        """Answer the lane's step as truncated by the loss."""
        cause, num_envs = self._untold.pop(lane), self.opened.lanes[lane]
        layout = StepLayout(restore_space(self.opened.env.observation_space), num_envs)
        last = self._last[lane]
        shown = last if self._mode in ("none", "next_step") else self._firsts.pop(lane)
        infos: dict[int, dict[str, Any]] = {row: {} for row in range(num_envs)}
        if self._mode == "same_step":
            finals = layout.rows(bytearray(last[1])) if layout.is_fixed else rows_of(last[0].observations)
            begun = rows_of(shown[0].infos)
            infos = {row: {"final_obs": finals[row], "final_info": {}, **begun.get(row, {})} for row in infos}
        elif self._mode == "disabled":
            shown = last
        told = pack_tree({row: {**info, "multiserverrl": {"lost": cause}} for row, info in infos.items()})
        body = bytearray(shown[1])
        layout.rewards(body)[:] = 0.0
        layout.terminated(body)[:] = False
        layout.truncated(body)[:] = True
        self._arrived[lane] = Stepped(lane, self.lanes[lane].seq, [told], shown[0].observations), memoryview(body)
