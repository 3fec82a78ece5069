"""The server: who holds its one env, and what the first message of a connection may be."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from types import TracebackType
from typing import Any

from multiserverrl.testing.fake.connection import TAKEN_OVER, Connection
from multiserverrl.testing.fake.frames import VERSION, Refusal, framed, parsed
from multiserverrl.testing.fake.session import FakeSession, Walk

__all__ = ["FakeServer"]

TIME_TO_LIVE_S = 120.0
MODES = ("none", "next_step", "same_step", "disabled")


class FakeServer:
    """Serves on a free loopback port for the length of a `with` block."""

    make_env: type[Walk] = Walk
    make_session: type[FakeSession] = FakeSession
    make_connection: type[Connection] = Connection

    def __init__(self, token: str = "", names: tuple[str, str] | None = None) -> None:
        self.token, self.names = token, names  # (session, secret), where they must be known beforehand
        self.lock = threading.Lock()
        self.session: FakeSession | None = None
        self.connections: list[Connection] = []

    def __enter__(self) -> FakeServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="fake server")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self.connections:
            connection.stop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                self.connections.append(self.make_connection(self, self._listener.accept()[0]))

    def described(self) -> dict[str, Any]:
        """An `EnvInfo`."""
        box = {"type": "Box", "dtype": "float32", "shape": [3], "low": 0.0, "high": 1.0}
        return {
            "env_id": "Walk-v0",
            "observation_space": box,
            "action_space": {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"},
            "render_modes": [],
            "metadata": {},
            "reward_threshold": None,
            "max_episode_steps": 10,
            "nondeterministic": False,
            "autoreset_modes": [],
        }

    def answer_get(self, path: str) -> dict[str, Any]:
        """The JSON of a plain GET."""
        if path == "/health":
            return {"status": "ok", "workers": 1, "workers_up": 1}
        if path == "/v1/envs":
            free = int(self._is_free())
            return {"protocol": VERSION, "version": "fake", "capacity": 1, "free": free, "envs": [self.described()]}
        raise Refusal("misuse", f"there is no GET {path} here")

    def _is_free(self) -> bool:
        session = self.session
        if session is None or session.is_over:
            return True
        return session.holder is None and time.monotonic() - session.left_at > TIME_TO_LIVE_S

    def begin(self, frame: bytes, connection: Connection) -> bytes:
        """The first frame of a connection: open or resume, or a Refusal."""
        (name, *fields), _ = parsed(frame)
        if name not in ("open", "resume"):
            raise Refusal("wire", "open or resume a session first")
        if fields[0] != VERSION:
            raise Refusal("version", f"the client speaks protocol version {fields[0]}, this server {VERSION}")
        if name == "open":
            return self.open(*fields[1:], connection=connection)
        return self.resume(*fields[1:4], connection=connection)

    def open(
        self, env_id: str | None = None, num_envs: int = 1, mode: str = "next_step",
        render_mode: str | None = None, lanes: tuple[int, ...] = (), owner: str | None = None,
        wait_s: float = 0.0, arguments: bytes = b"", *unknown: Any, connection: Connection,
    ) -> bytes:  # fmt: skip
        if env_id not in (None, "Walk-v0"):
            raise Refusal("unknown_env", f"{env_id} is not served here (served: Walk-v0)")
        if num_envs < 1 or mode not in MODES or render_mode is not None or list(lanes) not in ([], [num_envs]):
            raise Refusal("config", "one env, in one lane, without a render_mode, in a mode of the protocol: no more")
        if arguments:
            raise Refusal("not_allowed", "this server lets clients set no arguments")
        if num_envs > 1 or not self._is_free():
            raise Refusal("full", "this server has one env in all")
        name, secret = self.names or (secrets.token_hex(8), secrets.token_hex(16))
        self.session = connection.session = self.make_session(name, secret, mode, self.make_env())
        self.session.holder = connection
        return framed(["opened", name, secret, 1, [1], self.described(), TIME_TO_LIVE_S])

    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        session = self.session
        if session is None or session.is_over or session.name != name or incarnation != 1:
            raise Refusal("session_lost", f"session {name} is not known here")
        if not secrets.compare_digest(session.secret, secret):
            raise Refusal("unauthorized", "the session's secret is wrong")
        older, session.holder, connection.session = session.holder, connection, session
        if isinstance(older, Connection):
            older.close(TAKEN_OVER, "a newer connection took the session over")
        return framed(["resumed", 1, [session.last_seq]])
