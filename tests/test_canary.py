"""A canary in every binary input: bytes that make a directory when anything unpickles them. It is never made."""

from __future__ import annotations

import io
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection
from multiserverrl.errors import CheckpointError, ConfigError, MultiServerRLError, PeerError
from multiserverrl.launch import entries
from multiserverrl.launch.records import EarlierRun
from multiserverrl.observe.log import LOGGER
from multiserverrl.server.commands import decode_command, decode_told
from multiserverrl.server.configfile import read_config_file
from multiserverrl.server.front import run_front
from multiserverrl.server.worker import run_worker
from multiserverrl.testing.serving import serving, worker_pids
from multiserverrl.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from multiserverrl.train.policy import load_policy
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Call, Open, Refused, Reset, Step
from multiserverrl.wire.trees import pack_tree
from tests.client.test_transport import frame, shake_hands
from tests.server.support import HttpSession, RawSession, request

FRAME_TYPE = "application/vnd.multiserverrl.frame"
SCRIPTED = "multiserverrl.testing.envs:Scripted"


class Canary:
    """Whoever unpickles it makes a directory."""

    def __init__(self, nest: Path) -> None:
        self.egg = str(nest / "egg")

    def __reduce__(self) -> Any:
        return os.mkdir, (self.egg,)


@pytest.fixture(scope="module")
def nest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nest")


@pytest.fixture(autouse=True)
def _stays_empty(nest: Path) -> Iterator[None]:
    handlers = list(LOGGER.handlers), LOGGER.propagate
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers
    assert list(nest.iterdir()) == []


@pytest.fixture(scope="module")
def payloads(nest: Path) -> list[bytes]:
    """The canary as pickles of each kind, and in NumPy's file format."""
    file = io.BytesIO()
    np.save(file, np.array([Canary(nest)], object), allow_pickle=True)
    return [*(pickle.dumps(Canary(nest), protocol) for protocol in (0, 2, 5)), file.getvalue()]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(SCRIPTED, "CartPole-v1", count=8, workers=1, time_to_live_s=0.1, allow_attr="setting") as server:
        pids = [*server.pids(), *worker_pids(server)]
        yield server.url
        assert [*server.pids(), *worker_pids(server)] == pids  # nobody died of it either


@contextmanager
def spoken(url: str) -> Iterator[RawSession]:
    """A session in frames, whose connection is closed at the end."""
    session = RawSession(url, SCRIPTED, wait_s=10.0)
    try:
        yield session
    finally:
        session.connection.close()


def test_the_canary_is_alive(nest: Path, payloads: list[bytes]) -> None:
    for payload in payloads:
        if payload.startswith(b"\x93NUMPY"):
            np.load(io.BytesIO(payload), allow_pickle=True)
        else:
            pickle.loads(payload)  # noqa: S301
        (nest / "egg").rmdir()


def test_bodies_over_http(url: str, payloads: list[bytes]) -> None:
    session = HttpSession(url, env_id=SCRIPTED)
    for payload in payloads:
        for kind in (FRAME_TYPE, "application/json", "application/octet-stream", "application/x-pickle"):
            assert request(url, "POST", "/v1/sessions", payload, {"Content-Type": kind}).status == 400
            for operation in ("reset", "step", "render", "call"):
                headers = {**session.secret, "Content-Type": kind}
                assert request(url, "POST", f"{session.path}/{operation}", payload, headers).status == 400
    assert session.ask("reset").status == 200
    session.close()


def test_first_frames_over_a_websocket(url: str, payloads: list[bytes]) -> None:
    connection = Connection(Address.parse(url), 20)
    connection.set_timeout(20)
    for payload in payloads:
        for content in (payload, frames.encode(Open(PROTOCOL_VERSION, SCRIPTED, arguments=payload))):
            connection.send(content)
            refused, _ = frames.decode_answer(connection.receive())
            assert isinstance(refused, Refused) and refused.code == "wire", refused
    connection.close()


MESSAGES: dict[str, Callable[[bytes], tuple[Any, bytes]]] = {
    "options": lambda payload: (Reset(0, 2, [1], payload), b""),
    "options that hold it": lambda payload: (Reset(0, 2, [1], pack_tree({"x": payload})), b""),
    "mask": lambda payload: (Reset(0, 2, [1], b"", payload), b""),
    "actions": lambda payload: (Step(0, 2, payload), b""),
    "action bytes": lambda payload: (Step(0, 2), payload),
    "values": lambda payload: (Call(0, 2, "set", "setting", payload), b""),
    "values that hold it": lambda payload: (Call(0, 2, "set", "setting", pack_tree([payload])), b""),
    "name": lambda payload: (Call(0, 2, "get", payload.decode("latin-1"), b""), b""),
}


@pytest.mark.parametrize("make", MESSAGES.values(), ids=MESSAGES)
def test_fields_of_requests(url: str, payloads: list[bytes], make: Callable[[bytes], tuple[Any, bytes]]) -> None:
    for payload in payloads:
        with spoken(url) as session:
            session.ask(Reset(0, 1, [1]))
            answer, _ = session.ask(*make(payload))
            assert answer.seq == 2


def test_whole_frames_of_an_open_session(url: str, payloads: list[bytes]) -> None:
    for payload in payloads:
        with spoken(url) as session, pytest.raises(PeerError):
            session.ask_raw(payload)


@pytest.mark.parametrize("ask", [describe, VirtualEnv])
def test_what_a_server_answers(payloads: list[bytes], ask: Callable[[str], Any]) -> None:
    for payload in payloads:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer(listener: socket.socket = listener, payload: bytes = payload) -> None:
                connected, _ = listener.accept()
                with connected:
                    if ask is VirtualEnv:
                        shake_hands(connected)
                        connected.sendall(frame(2, payload))
                    else:
                        connected.recv(4096)
                        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
                    while connected.recv(4096):
                        pass

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(PeerError):
                ask(f"http://127.0.0.1:{listener.getsockname()[1]}")
            thread.join()


PIPES: list[Callable[[bytes], Any]] = [
    lambda payload: run_front(payload, []),
    lambda payload: run_worker(payload, []),
    lambda payload: entries.explorer(payload, []),
    lambda payload: entries.inference(payload, []),
    lambda payload: entries.learner(payload, []),
    decode_command,
    decode_told,
]


@pytest.mark.parametrize("read", PIPES)
def test_what_processes_tell_each_other(payloads: list[bytes], read: Callable[[bytes], Any]) -> None:
    for payload in payloads:
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            read(payload)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json"])
def test_checkpoints(tmp_path: Path, payloads: list[bytes], name: str) -> None:
    for payload in payloads:
        path = save_checkpoint(tmp_path, Checkpoint({"x": np.zeros(3)}, {"y": 1}))
        for old in tmp_path.iterdir():
            (old / name).write_bytes(payload)
        with pytest.raises(CheckpointError, match=str(path)):
            load_newest(tmp_path)


def test_policies_run_directories_and_settings(tmp_path: Path, payloads: list[bytes]) -> None:
    for payload in payloads:
        for name in ("policy.safetensors", "config.json", "settings.toml"):
            (tmp_path / name).write_bytes(payload)
        with pytest.raises(CheckpointError):
            load_policy(tmp_path / "policy.safetensors")
        with pytest.raises(ConfigError):
            read_config_file(str(tmp_path / "settings.toml"))
        with pytest.raises(MultiServerRLError), EarlierRun.lock(tmp_path):
            pass
