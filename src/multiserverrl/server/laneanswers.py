"""What a lane answers, and what it answered last: the shared block's bodies, and the frames made of them.

The last answer is what a fault falls back on: an env that is gone is answered for with its last observation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.server.commands import Done, Failed, KeptLane, Reply
from multiserverrl.server.laneblock import ANSWERED, LaneBlock
from multiserverrl.wire import frames
from multiserverrl.wire.messages import WHOLE_LANE, Call, Refused, Render, Reset, Step, Stepped
from multiserverrl.wire.trees import pack_tree, unpack_rows, unpack_tree

__all__ = ["LaneAnswers", "merged"]


class LaneAnswers:
    """Of one lane. `begin` before the envs are asked, `answer` of what they replied."""

    def __init__(self, index: int, block: LaneBlock, autoreset_mode: str) -> None:
        self._index, self._block, self._mode = index, block, autoreset_mode
        self._layout, self._body = block.layout, block.bodies[0]
        self._last_body = bytes(self._layout.size_bytes)  # as answered: what a fault falls back on
        self._loose: list[bytes] = []  # the same for a space without a fixed size
        self._is_open = False  # the envs are at something, and not answered for
        # rows that must be reset before the next step; None where something else resets them
        self.ended = self._ends() if autoreset_mode == "disabled" else None

    def begin(self, actions: memoryview | bytes = b"") -> None:
        """From here on body 0 is no answer's, until the next is there."""
        self._block.words[ANSWERED] = 0
        self._is_open = True
        if actions:
            self._block.actions[:] = actions

    def remember(self) -> bytes:
        """Keep what the block holds now, as answered."""
        self._last_body = body = bytes(self._body)
        self._is_open = False
        if self.ended is not None:
            self.ended = self._ends()
        return body

    def take_back(self, kept: KeptLane) -> bytes:
        """Go on where a worker left off; the last answer's frame."""
        self.remember()
        return kept.answer + self._last_body if kept.has_body else kept.answer

    def have_ended(self, rows: range) -> bool:
        """Whether these envs' episodes have all ended, as answered, and none has begun."""
        if self._is_open or self._mode == "same_step":
            return False
        return bool(self._ends()[rows.start : rows.stop].all())

    def _ends(self) -> NDArray[np.bool_]:
        """(num_envs,) whose episodes had ended in the last answer."""
        ends: NDArray[np.bool_] = self._layout.terminated(self._last_body) | self._layout.truncated(self._last_body)
        return ends

    def answer(self, request: Step | Reset, replies: list[Any]) -> bytes:
        """The answer to a step or reset, of what the shards' workers replied."""
        infos, loose, finals = [], [], []
        for reply in replies:
            if isinstance(reply, Failed):
                return self.refused(request, reply)
            assert isinstance(reply, Done)
            if reply.infos:
                infos.append(reply.infos)
            if reply.finals is not None:
                finals.append(reply.finals)
            if reply.values:
                loose.append(reply.values)
        body = self.remember()
        if not self._layout.is_fixed and isinstance(request, Reset) and request.mask is not None:
            loose = [pack_tree({**unpack_rows(self._loose), **unpack_rows(loose)})]  # those not reset keep theirs
        self._loose = loose
        return self._stepped(request, infos, loose, finals, body)

    def _stepped(self, request: Step | Reset, infos: Any, loose: Any, finals: Any, body: bytes) -> bytes:
        self._block.words[ANSWERED] = request.seq
        if request.by_block and self._layout.is_fixed:
            return frames.encode(Stepped(self._index, request.seq, infos, loose, finals, 0))
        return frames.encode(Stepped(self._index, request.seq, infos, loose, finals), body)

    def refused(self, request: Step | Reset | Render | Call, failed: Failed) -> bytes:
        """An operation that failed, once and for all."""
        return frames.encode(Refused(self._index, request.seq, failed.code, failed.message, failed.traceback, True))

    # -- answers for envs that are gone -----------------------------------------------------------

    def last_observations(self, rows: range) -> dict[int, Any]:
        """As answered; None for an env that has never been reset."""
        if not self._layout.is_fixed:
            found = unpack_rows(self._loose)
            return {row: found.get(row) for row in rows}
        return {row: self._layout.row(bytearray(self._last_body), row) for row in rows}

    def restore(self, rows: range, last: dict[int, Any]) -> bytes:
        """Put back what a worker may have written over as it died; packed, where observations lie in no block."""
        if not self._layout.is_fixed:
            return pack_tree(last)
        before = self._layout.arrays(bytearray(self._last_body))
        for now, then in zip(self._layout.arrays(self._body), before, strict=True):
            now[rows.start : rows.stop] = then[rows.start : rows.stop]
        return b""

    def put_ends(self, rows: range, *, are_truncated: bool) -> None:
        """Reward 0 and no end, or an end by truncation, for these."""
        layout, where = self._layout, slice(rows.start, rows.stop)
        layout.rewards(self._body)[where], layout.terminated(self._body)[where] = 0.0, False
        layout.truncated(self._body)[where] = are_truncated


def merged(reply: Reply, infos: dict[int, dict[str, Any]]) -> bytes:
    """Packed infos of a reset, with `infos` added; without what a native vector env says of its whole lane."""
    assert isinstance(reply, Done)
    told = unpack_tree(reply.infos) if reply.infos else {}
    rows = {row: info for row, info in told.items() if row != WHOLE_LANE}
    return pack_tree({**rows, **{row: {**rows.get(row, {}), **info} for row, info in infos.items()}})
