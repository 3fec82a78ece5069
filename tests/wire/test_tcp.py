"""What Linux tells of a connection: a peer that must answer and does not is told from one that is quiet."""

import select
import socket
import struct
import sys
import time

import pytest

from multiserverrl.wire.tcp import INFO_BYTES, unheard_s


def told(*, retransmits: int = 0, probes: int = 0, sent_ms: int = 0, data_ms: int = 0, ack_ms: int = 0) -> bytes:
    return struct.pack("=8B13I", 1, 0, retransmits, probes, 0, 0, 0, 0, *[0] * 9, sent_ms, 0, data_ms, ack_ms)


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        (told(data_ms=60_000, ack_ms=60_000), 0.0),  # nothing is owed: quiet
        (told(retransmits=3, sent_ms=5_000, data_ms=9_000, ack_ms=4_000), 0.0),  # it has no room yet, and said so
        (told(retransmits=3, sent_ms=1_000, data_ms=9_000, ack_ms=4_000), 4.0),
        (told(probes=2, data_ms=2_500, ack_ms=9_000), 2.5),
    ],
)
def test_only_an_answer_that_is_owed_is_missed(info: bytes, seconds: float) -> None:
    assert unheard_s(info) == seconds
    assert unheard_s(info + bytes(200)) == seconds  # newer kernels tell more


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_a_peer_that_does_not_read_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        sender.setblocking(False)
        deadline, times_asked = time.monotonic() + 30.0, 0
        while times_asked < 3:  # its buffer is full at once; the system asks, ever more seldom, whether there is room
            assert time.monotonic() < deadline
            if select.select([], [sender], [], 0.05)[1]:
                sender.send(bytes(1 << 20))
            info = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
            times_asked = info[4]
            assert unheard_s(info) < 2.0
