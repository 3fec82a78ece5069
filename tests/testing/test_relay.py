"""The relay does to a connection just what it was told."""

import socket
import threading
from collections.abc import Iterator

import pytest

from multiserverrl.testing.relay import Cut, Flip, Relay


class Echo:
    """A server that sends back what it gets, on every connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.got: list[bytearray] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self.listener.accept()
            except OSError:
                return
            self.got.append(bytearray())
            self.threads.append(threading.Thread(target=self._echo, args=(connected, self.got[-1])))
            self.threads[-1].start()

    def _echo(self, connected: socket.socket, got: bytearray) -> None:
        with connected:
            try:
                while content := connected.recv(4096):
                    got += content
                    connected.sendall(content)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def relay(echo: Echo) -> Iterator[Relay]:
    with Relay(echo.url) as running:
        yield running


def connect(relay: Relay) -> socket.socket:
    host, _, port = relay.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 10)


def exchange(client: socket.socket, content: bytes) -> bytes:
    """What comes back until as much came as was sent, or the connection ended; b"RST" for a reset."""
    back = b""
    try:
        client.sendall(content)
        while len(back) < len(content):
            part = client.recv(4096)
            if not part:
                break
            back += part
    except ConnectionResetError:
        return back + b"RST"
    return back


def exchange_with(relay: Relay, content: bytes) -> bytes:
    """The same on a connection of its own, which may be reset before it is even made."""
    try:
        with connect(relay) as client:
            return exchange(client, content)
    except ConnectionResetError:
        return b"RST"


def test_it_passes_everything_on(relay: Relay) -> None:
    with connect(relay) as client:
        assert exchange(client, b"hello") == b"hello"
        assert exchange(client, bytes(100_000)) == bytes(100_000)
    assert (relay.connections, relay.cuts_done, relay.requested()) == (1, 0, b"hello" + bytes(100_000))


@pytest.mark.parametrize("after_bytes", [0, 1, 4, 5])
def test_a_cut_request_arrives_so_far_and_no_further(relay: Relay, echo: Echo, after_bytes: int) -> None:
    relay.cut(Cut("request", after_bytes))
    with connect(relay) as client:
        exchange(client, b"hello")
    assert relay.cuts_done == 1
    assert relay.requested() == b"hello"[:after_bytes]


@pytest.mark.parametrize("after_bytes", [0, 1, 4, 5])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_reply_is_lost_though_the_request_arrived(relay: Relay, echo: Echo, after_bytes: int, how: str) -> None:
    relay.cut(Cut("reply", after_bytes, how))
    with connect(relay) as client:
        back = exchange(client, b"hello" * 2)
        ended = b"" if how == "fin" else b"RST"
        assert back in (b"hello"[:after_bytes] + ended, b"RST")  # a reset may overtake what was on its way
    assert bytes(echo.got[0]) == b"hello" * 2


def test_a_cut_counts_from_when_it_was_armed_and_happens_once(relay: Relay) -> None:
    with connect(relay) as client:
        assert exchange(client, b"hello") == b"hello"
        relay.cut(Cut("reply", 2))
        assert exchange(client, b"hello") == b"he"
    with connect(relay) as client:
        assert exchange(client, b"hello") == b"hello"


@pytest.mark.parametrize(("direction", "arrived"), [("request", b"hello" + b"hallo"), ("reply", b"hello" * 2)])
def test_a_flip_changes_one_bit_of_one_direction_once(relay: Relay, echo: Echo, direction: str, arrived: bytes) -> None:
    relay.flip(Flip(direction, 8 * 6 + 2))
    with connect(relay) as client:
        told = exchange(client, b"hello") + exchange(client, b"hello") + exchange(client, b"hello")
    assert told == b"hello" + b"hallo" + b"hello"
    assert bytes(echo.got[0]) == arrived + b"hello"
    assert relay.flips_done == 1
    assert relay.passed_bytes == {"request": 15, "reply": 15}


def test_cut_now_ends_every_connection(relay: Relay) -> None:
    clients = [connect(relay) for _ in range(3)]
    for client in clients:
        exchange(client, b"hi")
    relay.cut_now()
    for client in clients:
        assert client.recv(10) == b""
        client.close()


def test_stalled_traffic_arrives_when_it_flows_again(relay: Relay) -> None:
    with connect(relay) as client:
        assert exchange(client, b"hello") == b"hello"
        relay.stall()
        client.sendall(b"later")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(10)
        relay.flow()
        client.settimeout(10)
        assert exchange(client, b"") == b""
        assert client.recv(5, socket.MSG_WAITALL) == b"later"


def test_pieces_are_small_and_complete(relay: Relay) -> None:
    relay.piece_bytes = 1
    with connect(relay) as client:
        assert exchange(client, b"hello") == b"hello"


def test_refused_connections_are_reset_until_it_is_over(relay: Relay) -> None:
    relay.refusing = True
    assert exchange_with(relay, b"hello") in (b"", b"RST")
    relay.refusing = False
    assert exchange_with(relay, b"hello") == b"hello"


def test_a_replay_is_the_same_request_on_another_connection(relay: Relay, echo: Echo) -> None:
    with connect(relay) as client:
        exchange(client, b"hello")
        assert relay.replay(relay.requested(), until=b"hello") == b"hello"
        assert exchange(client, b"again") == b"again"
    assert [bytes(got) for got in echo.got] == [b"helloagain", b"hello"]


def test_a_server_that_is_gone_ends_the_clients_connection() -> None:
    with Relay("http://127.0.0.1:9") as relay:
        assert exchange_with(relay, b"hello") in (b"", b"RST")


def test_a_half_that_is_closed_leaves_the_other_open(echo: Echo, relay: Relay) -> None:
    with connect(relay) as end:
        end.sendall(b"first")
        assert end.recv(100) == b"first"
        relay.cut(Cut("request", 2, "half"))
        end.sendall(b"second")
        assert end.recv(100) == b"se"  # the echo of what passed, over the half that is open
        assert end.recv(100) == b""  # the server closed when it had seen the end
    assert (bytes(echo.got[0]), relay.cuts_done) == (b"firstse", 1)
