"""The relay that stands for a long way: late, whole and in order."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "slow_link.py"
DELAY_S = 0.02


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """A server that says everything back, to one client."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        client = listener.accept()[0]
        with client:
            while content := client.recv(1 << 16):
                client.sendall(content)

    thread = threading.Thread(target=echo)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


def test_what_passes_is_late_whole_and_in_order(echo_port: int) -> None:
    command = [sys.executable, str(SCRIPT), str(echo_port), str(DELAY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
        try:
            assert relay.stdout is not None
            port = int(relay.stdout.readline().split()[1])
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                sent = bytes(range(256)) * 1000
                began = time.monotonic()
                for start in range(0, len(sent), 1000):
                    client.sendall(sent[start : start + 1000])
                client.shutdown(socket.SHUT_WR)
                heard = client.recv(1 << 20)
                assert time.monotonic() - began >= 2 * DELAY_S
                while content := client.recv(1 << 20):
                    heard += content
            assert heard == sent
        finally:
            relay.terminate()
