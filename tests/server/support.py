"""What the server's tests share: plain HTTP requests, and raw frames over a WebSocket of their own."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from multiserverrl.client.transport import Address, Connection
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Resume


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def request(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    *,
    host: str | None = None,
) -> Answer:
    """One request as curl would send it; a body that is no bytes is sent as JSON."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.putrequest(method, path, skip_host=host is not None)
        for name, value in {**({"Host": host} if host is not None else {}), **(headers or {})}.items():
            connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class HttpSession:
    """A session over plain HTTP: counts seq by itself unless told."""

    def __init__(self, url: str, **opening: Any) -> None:
        self.url, self.seq = url, 0
        self.opened = request(url, "POST", "/v1/sessions", opening)
        assert self.opened.status == 201, self.opened
        told = self.opened.json
        self.path = f"/v1/sessions/{told['session']}"
        self.secret = {"Session-Secret": told["secret"]}

    def ask(self, operation: str, seq: int | None = None, **fields: Any) -> Answer:
        answer = request(
            self.url,
            "POST",
            f"{self.path}/{operation}",
            {"seq": self.seq + 1 if seq is None else seq, **fields},
            self.secret,
        )
        if seq is None and answer.status == 200:
            self.seq += 1
        return answer

    def close(self) -> Answer:
        return request(self.url, "DELETE", self.path, None, self.secret)


class RawSession:
    """A session spoken in frames, for what no client of ours would send."""

    def __init__(self, url: str, env_id: str, num_envs: int = 1, mode: str = "next_step", **opening: Any) -> None:
        self._connect(url)
        opened = self.ask(Open(PROTOCOL_VERSION, env_id, num_envs, mode, **opening))[0]
        assert type(opened).__name__ == "Opened", opened
        self.opened: Any = opened

    def _connect(self, url: str) -> None:
        self.url = url
        self.connection = Connection(Address.parse(url), 20)
        self.connection.set_timeout(20)

    def resumed(self) -> RawSession:
        """The same session over another connection."""
        other = RawSession.__new__(RawSession)
        other._connect(self.url)
        other.opened = told = self.opened
        resumed = other.ask(Resume(PROTOCOL_VERSION, told.session, told.secret, told.incarnation))[0]
        assert type(resumed).__name__ == "Resumed", resumed
        return other

    def ask(self, message: Any, body: bytes = b"") -> tuple[Any, memoryview]:
        return self.ask_raw(frames.encode(message, body))

    def ask_raw(self, frame: bytes) -> tuple[Any, memoryview]:
        self.connection.send(frame)
        return frames.decode_answer(self.connection.receive())
