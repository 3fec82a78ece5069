"""A client's connection in the hands of the env worker that holds all of the session's envs.

A step then needs no other process: the worker reads it, steps, and answers. It follows the rules of the
session (wire/session) for the usual case, the lane's next step or reset, and knows no other: whatever
else comes (a repeat, a refusal, another request, a control frame, the end) goes back to the front unread.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from multiserverrl.errors import MultiServerRLError
from multiserverrl.server.checks import check_reset, check_step
from multiserverrl.server.commands import Done, Failed, KeptLane, Lend, LentLane, Reply, Returned
from multiserverrl.server.faults import ENV_ERRORS, failed_by
from multiserverrl.server.laneblock import ANSWERED, AREA, BUSY_SINCE, WAS_RESET
from multiserverrl.server.shard import Shard
from multiserverrl.server.vectorshard import VectorShard
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Refused, Reset, Step, Stepped
from multiserverrl.wire.trees import unpack_tree
from multiserverrl.wire.websocket import BINARY, frame_head, next_message

__all__ = ["Borrowed"]

_CHUNK_BYTES = 1 << 16
_JOINED_BYTES = 1 << 13  # up to here one copy is cheaper than a list of parts
_LONGEST_HEAD_BYTES = 14
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # an env may have made SIGPIPE deadly


class _Lane:
    """One lane of the session: what it was last asked, and its shard."""

    def __init__(self, index: int, told: LentLane, shard: Shard | VectorShard) -> None:
        self.index, self.shard = index, shard
        self.is_native = isinstance(shard, VectorShard)  # it takes its actions off the block
        self.last_seq, self.was_reset = told.last_seq, told.was_reset
        self.request, self.answer, self.has_body = b"", b"", False
        self.words, self.check = shard.block.words, shard.codec.check
        self.words[ANSWERED], self.words[AREA] = told.last_seq, 0
        self.area = 0
        self.ends_wait = shard.spec.autoreset_mode == "disabled"  # an ended env must be reset before the next step

    def step(self, request: Step, body: memoryview) -> tuple[bytes, memoryview | bytes] | None:
        """(answer without its body, body); None when the request is to be refused at the door."""
        shard = self.shard
        try:
            if self.ends_wait or not self.was_reset:
                check_step(self.was_reset, self._ended())
            actions = self.check(body)
        except Exception:
            return None
        if actions is None or self.is_native:
            shard.block.actions[:] = body
            actions = None
        self.words[BUSY_SINCE] = time.monotonic_ns()
        shard.write_to(1 - self.area)
        try:
            reply: Reply = shard.step(actions, may_lag=request.by_block)
        except ENV_ERRORS as error:  # whatever it is, it is the client's to see
            reply = failed_by(error)
        return self._answered(request, reply)

    def reset(self, request: Reset) -> tuple[bytes, memoryview | bytes] | None:
        """The same for a reset."""
        shard, mask = self.shard, request.mask
        try:
            check_reset(request, shard.spec.num_envs, self.was_reset)
        except Exception:
            return None
        if mask is not None and not any(mask):
            return None
        self.words[BUSY_SINCE] = time.monotonic_ns()
        was_reset, self.was_reset = self.was_reset, False
        shard.write_to(1 - self.area, keeps=True)
        try:
            options = unpack_tree(request.options) if request.options else None
            reply: Reply = shard.reset(request.seeds, options, mask)
            self.was_reset = was_reset or mask is None or all(mask)
        except ENV_ERRORS as error:
            reply = failed_by(error)
        self.words[WAS_RESET] = self.was_reset
        return self._answered(request, reply)

    def _answered(self, request: Step | Reset, reply: Reply) -> tuple[bytes, memoryview | bytes]:
        self.last_seq = seq = request.seq
        if type(reply) is Done:
            self.area, self.has_body = 1 - self.area, True
            infos, finals = [reply.infos] if reply.infos else [], [reply.finals] if reply.finals is not None else []
            body: memoryview | bytes = b""
            if request.by_block:  # the client takes it from there, and so it does when the answer is repeated
                self.has_body = False
                self.answer = frames.encode(Stepped(self.index, seq, infos, [], finals, self.area))
            else:
                self.answer = frames.encode(Stepped(self.index, seq, infos, [], finals))
                body = self.shard.block.bodies[self.area]
        else:
            assert isinstance(reply, Failed)
            self.shard.is_behind = False
            self.shard.write_to(self.area)
            self.has_body, body = False, b""
            self.answer = frames.encode(Refused(self.index, seq, reply.code, reply.message, reply.traceback, True))
        if not self.shard.is_behind:
            self._mark()
        return self.answer, body

    def _mark(self) -> None:
        words = self.words
        words[AREA] = self.area
        words[ANSWERED] = self.last_seq  # from here on a repeat is no new step, whatever becomes of this process
        words[BUSY_SINCE] = 0

    def catch_up(self) -> None:
        """Write what the answer left in the block, when it is on its way: the client wakes up meanwhile, and waits.

        It does not take the answer before it is marked; so whatever becomes of this process, the rules hold.
        """
        if self.shard.is_behind:
            self.shard.catch_up()
            self._mark()

    def _ended(self) -> Any:
        layout, body = self.shard.block.layout, self.shard.block.bodies[self.area]
        return layout.terminated(body) | layout.truncated(body)

    def kept(self) -> KeptLane:
        """Where it stands, with the last body where the front looks."""
        shard = self.shard
        shard.block.settle()
        shard.write_to(0, keeps=True)
        shard.write_to(0)  # both what was written last, and what is written next
        return KeptLane(self.last_seq, self.was_reset, self.request, self.answer, self.has_body)


class Borrowed:
    """One connection, until it is returned."""

    def __init__(self, lend: Lend, fd: int, shards: dict[int, Shard | VectorShard]) -> None:
        self.number, self._most_bytes = lend.number, lend.max_message_bytes + _LONGEST_HEAD_BYTES
        self._lanes = [_Lane(index, told, shards[told.shard]) for index, told in enumerate(lend.lanes)]
        self._socket = socket.socket(fileno=fd)  # last: what fails before leaves the descriptor to the caller
        self._unread = bytearray()
        self.unsent = b""
        self.has_more = False  # something lies here that was not looked at

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def serve(self) -> bool:
        """Take in what has come, and answer one request; False when the front must see to the connection."""
        if self.has_more:
            return self._work()
        try:
            arrived = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not arrived:
            return False
        if not self._unread:
            message, end = next_message(arrived)
            if message is not None and end == len(arrived) and self._answer(message):  # the usual case
                return True
        self._unread += arrived
        return self._work()

    def _work(self) -> bool:
        """Answer the next of the requests that have come, if the client takes its answers."""
        self.has_more = False
        unread = self._unread
        if not unread or self.unsent:
            return True
        message, end = next_message(unread)
        if message is None or not self._answer(message):
            return message is None and 0 < end <= self._most_bytes
        del unread[:end]
        self.has_more = bool(unread) and not self.unsent
        return True

    def _answer(self, message: bytes) -> bool:
        try:
            request, body = frames.decode_request(message)
        except MultiServerRLError:
            return False
        if not isinstance(request, (Step, Reset)) or not 0 <= request.lane < len(self._lanes):
            return False
        lane = self._lanes[request.lane]
        if request.seq != lane.last_seq + 1:
            return False
        answer = lane.step(request, body) if isinstance(request, Step) else lane.reset(request)
        if answer is None:
            return False
        lane.request = message
        self._send(*answer)
        if request.by_block:
            lane.catch_up()
        return True

    def _send(self, answer: bytes, body: memoryview | bytes) -> None:
        size = len(answer) + len(body)
        head = frame_head(BINARY, size)
        size += len(head)
        try:
            if size <= _JOINED_BYTES:
                sent = self._socket.send(b"".join((head, answer, body)), _NO_SIGNAL)
            else:
                sent = self._socket.sendmsg((head + answer, body), (), _NO_SIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:  # shows again when it is read
            return
        if sent < size:
            self.unsent = b"".join((head, answer, body))[sent:]

    def send_rest(self) -> bool:
        """Send more of what the client has not taken yet, then go on; False as `serve` says."""
        try:
            self.unsent = self.unsent[self._socket.send(self.unsent, _NO_SIGNAL) :]
        except BlockingIOError:
            pass
        except OSError:  # shows again when it is read
            self.unsent = b""
        return self._work()

    def returned(self) -> Returned:
        """Give it up."""
        kept = [lane.kept() for lane in self._lanes]
        self._socket.close()
        return Returned(self.number, kept, bytes(self._unread), self.unsent)

    def close(self) -> None:
        """Close this process's hold on the connection; the front has its own."""
        self._socket.close()
