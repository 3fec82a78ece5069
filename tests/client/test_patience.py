"""Waiting for what comes late, and for what never comes."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from multiserverrl.client.patience import ConnectionEnded, PatientSocket, keep_asking


class Reader(PatientSocket):
    """As a connection uses it."""

    def read(self, count: int) -> bytes:
        room = bytearray(count)
        return bytes(room[: self._read_into(memoryview(room))])

    def write(self, content: bytes) -> None:
        self._send(content)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end, and the other machine's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    keep_asking(client)
    with client, other:
        yield client, other


def test_a_process_that_says_nothing_is_waited_for_to_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    reader, began = Reader(pair[0], 1.3), time.monotonic()
    with pytest.raises(TimeoutError, match=r"nothing came for 1\.3 s"):
        reader.read(1)
    assert 1.2 < time.monotonic() - began < 20


def test_what_comes_after_several_looks_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    reader = Reader(pair[0], 30.0)
    late = threading.Timer(0.7, pair[1].sendall, [b"late"])
    late.start()
    assert reader.read(10) == b"late"
    late.join()


def test_more_than_the_system_takes_at_once_is_sent_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    content, arrived = bytes(range(256)) * (1 << 16), bytearray()

    def read_late() -> None:
        threading.Event().wait(0.7)
        while part := pair[1].recv(1 << 20):
            arrived.extend(part)

    reading = threading.Thread(target=read_late)
    reading.start()
    writer = Reader(pair[0], 30.0)
    writer.write(content)
    pair[0].shutdown(socket.SHUT_WR)
    reading.join()
    assert arrived == content


def test_a_peer_that_never_reads_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        Reader(pair[0], 0.6).write(bytes(1 << 26))


def test_the_end_is_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    with pytest.raises(ConnectionEnded, match="cut"):
        Reader(pair[0], 30.0).read(1)


def test_the_other_machine_is_asked_each_second(pair: tuple[socket.socket, socket.socket]) -> None:
    assert pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1
    assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 1
