"""Answers' bodies that stay in the server's shared memory, where client and server are on one host.

A body is copied out as soon as its answer is there, so what is handed out is never written over later. Whatever
stands in the way of a mapping (another user, another container, another system) means TCP, without a word.
"""

from __future__ import annotations

import contextlib
import os
import time

from multiserverrl.client.transport import ConnectionEnded
from multiserverrl.errors import WireError
from multiserverrl.memory import open_foreign
from multiserverrl.wire.messages import SharedBlock, Stepped

__all__ = ["LEAST_BODY_BYTES", "SharedBodies"]

LEAST_BODY_BYTES = 1 << 14  # smaller ones gain little (bench/body_sizes.py), and a mapping holds a descriptor
_SPINS, _NAP_S = 256, 5e-5  # about 0.1 ms of looking without a pause: most bodies are written by then
_PATIENCE_S = 1.0  # writing takes some microseconds; whoever writes has died, or is stopped


class SharedBodies:
    """The blocks of one session's lanes, as far as they are worth it and can be read; `close` before it is dropped."""

    def __init__(self, blocks: list[SharedBlock], num_lanes: int) -> None:
        self._lanes: list[_SharedLane | None] = [None] * num_lanes
        for lane, told in enumerate(blocks[:num_lanes]):
            if told.body_bytes >= LEAST_BODY_BYTES:
                with contextlib.suppress(OSError, ValueError):
                    self._lanes[lane] = _SharedLane(told)
        self.in_use = [lane is not None for lane in self._lanes]  # by lane: whether bodies may stay there

    def body(self, answer: Stepped) -> memoryview:
        """The body that the answer speaks of, as the caller's own; ConnectionEnded when it is there no more."""
        lane = self._lanes[answer.lane]
        if lane is None or not answer.block_body < len(lane.bodies):
            raise WireError(f"an answer speaks of body {answer.block_body} of a block that was not agreed on")
        lane.wait_for(answer.seq)
        body = memoryview(bytearray(lane.bodies[answer.block_body]))
        if lane.answered[0] != answer.seq:
            raise ConnectionEnded(f"the answer to seq {answer.seq} was written over in the server's block")
        return body

    def close(self) -> None:
        """Unmap all of it."""
        self.in_use = [False] * len(self._lanes)
        for index, lane in enumerate(self._lanes):
            if lane is not None:
                self._lanes[index] = None
                lane.close()


class _SharedLane:
    """One lane's block; ValueError or OSError when it is not the one that the server speaks of."""

    def __init__(self, told: SharedBlock) -> None:
        ends = [*(begin + told.body_bytes for begin in told.bodies), told.answered_at + 8, told.nonce_at + 8]
        begins = [*told.bodies, told.answered_at, told.nonce_at]
        if min(begins) < 0 or max(ends) > told.size_bytes:
            raise ValueError("parts of the block lie beyond its end")
        self._block = open_foreign(told.path, told.size_bytes)
        view = self._block.buffer
        self.bodies = [view[begin : begin + told.body_bytes] for begin in told.bodies]
        self._answered_bytes = view[told.answered_at : told.answered_at + 8]
        self.answered = self._answered_bytes.cast("q")
        if int.from_bytes(view[told.nonce_at : told.nonce_at + 8], "little") != told.nonce:
            self.close()
            raise ValueError("another process's block")

    def wait_for(self, seq: int) -> None:
        """The answer comes when its body is about to be written: until it is. ConnectionEnded when nobody does."""
        answered = self.answered
        for _ in range(_SPINS):
            if answered[0] == seq:
                return
            os.sched_yield()
        deadline = time.monotonic() + _PATIENCE_S
        while answered[0] != seq:
            if answered[0] > seq or time.monotonic() > deadline:
                raise ConnectionEnded(f"the body of the answer to seq {seq} is not in the server's block")
            time.sleep(_NAP_S)

    def close(self) -> None:
        for view in (self.answered, self._answered_bytes, *self.bodies):
            view.release()
        self._block.close()
