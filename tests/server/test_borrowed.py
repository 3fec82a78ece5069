"""What an env worker does with connections, spoken to as the front speaks to it."""

import socket
import threading
from collections.abc import Iterator

import pytest

from multiserverrl.memory import Block
from multiserverrl.server.commands import (
    LENGTH,
    Command,
    Done,
    Lend,
    LentLane,
    MakeShard,
    Probe,
    Probed,
    Returned,
    Told,
    decode_told,
    pack,
)
from multiserverrl.server.laneblock import LaneBlock
from multiserverrl.server.making import Source
from multiserverrl.server.worker import answer_commands
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import Reset, Step
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.websocket import BINARY, frame_head, unmasked

KEY = b"mask"


def masked(frame: bytes) -> bytes:
    head = bytearray(frame_head(BINARY, len(frame)))
    head[1] |= 0x80
    return bytes(head) + KEY + unmasked(KEY, frame)


class Front:
    """The other end of a worker's door; the worker is a thread."""

    def __init__(self) -> None:
        self.door, theirs = socket.socketpair()
        self.door.settimeout(20)
        self._thread = threading.Thread(target=answer_commands, args=(theirs, Source((), False)))
        self._thread.start()

    def told(self) -> Told:
        size = LENGTH.unpack(self.door.recv(LENGTH.size, socket.MSG_WAITALL))[0]
        return decode_told(self.door.recv(size, socket.MSG_WAITALL))

    def ask(self, command: Command) -> Told:
        self.door.sendall(pack(command))
        return self.told()

    def close(self) -> None:
        self.door.close()
        self._thread.join(20)


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.close()


def lend(number: int, shard: int = 0) -> Lend:
    return Lend(number, [LentLane(shard, 0, False)], 1 << 20)


def test_a_loan_of_envs_that_it_does_not_have_is_returned_and_the_worker_lives_on(front: Front) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(front.door, [pack(lend(7, shard=99))], [theirs.fileno()])
        told = front.told()
        assert isinstance(told, Returned) and told.number == 7 and told.lanes[0].request == b""
    assert isinstance(front.ask(Probe("CartPole-v1")), Probed)


def test_a_loan_without_its_descriptor_is_returned_and_the_worker_lives_on(front: Front) -> None:
    told = front.ask(lend(8))
    assert isinstance(told, Returned) and told.number == 8
    assert isinstance(front.ask(Probe("CartPole-v1")), Probed)


def test_requests_that_come_all_at_once_leave_the_others_their_turn(front: Front) -> None:
    probed = front.ask(Probe("CartPole-v1"))
    assert isinstance(probed, Probed)
    spaces = restore_space(probed.env.action_space), restore_space(probed.env.observation_space)
    size = LaneBlock.block_bytes(ActionCodec(spaces[0], 1), StepLayout(spaces[1], 1))
    block = Block.create(size, "test")
    assert front.ask(MakeShard(0, probed.env, None, b"", "next_step", block.handle, 1, 0, 1)) == Done()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        ours.settimeout(20)
        requests = [
            masked(frames.encode(Reset(0, 1))),
            *[masked(frames.encode(Step(0, n), bytes(8))) for n in range(2, 900)],
        ]
        ours.sendall(b"".join(requests))
        socket.send_fds(front.door, [pack(lend(9))], [theirs.fileno()])
        assert isinstance(front.ask(Probe("CartPole-v1")), Probed)  # between two of them
        answered = ours.recv(1 << 20, socket.MSG_DONTWAIT)
        assert 0 < answered.count(b"stepped") < 899
    block.close()
