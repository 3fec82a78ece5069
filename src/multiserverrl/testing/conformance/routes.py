"""Claims about the plain HTTP routes, where a server has them: the same session, the same rules."""

from __future__ import annotations

import http.client
from typing import NamedTuple

import msgspec

from multiserverrl.testing.conformance.claim import Claims, Skip
from multiserverrl.testing.conformance.subject import Move, Subject, shown, told_of
from multiserverrl.testing.contract import assert_same
from multiserverrl.wire import frames
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Opened, Refused, Stepped

__all__ = ["CLAIMS"]

_claim = Claims("plain HTTP")
CLAIMS = _claim.found
_FRAME_TYPE = "application/vnd.multiserverrl.frame"
_NOT_THERE = (404, 405, 501)


class _Answer(NamedTuple):
    status: int
    content: bytes

    def json(self) -> dict[str, object]:
        """Of an answer that is no frame."""
        return msgspec.json.decode(self.content, type=dict[str, object])


class _Http:
    """Requests of one session by HTTP, a connection each."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.path, self.secret = subject, "/v1/sessions", ""

    def ask(self, method: str, operation: str = "", content: bytes = b"", kind: str = _FRAME_TYPE) -> _Answer:
        address = self.subject.address
        connection = http.client.HTTPConnection(address.host, address.port, timeout=self.subject.timeout_s)
        connection.sock = address.connect(self.subject.timeout_s)
        headers = {**address.headers(), "Host": address.netloc, "Content-Type": kind, "Session-Secret": self.secret}
        try:
            connection.request(method, self.path + operation, content, headers)
            response = connection.getresponse()
            return _Answer(response.status, response.read())
        finally:
            connection.close()

    def open(self) -> Opened:
        """A session of one env; Skip where the server has no such route."""
        env_id, mode = self.subject.env.env_id, self.subject.mode
        told = self.ask("POST", "", frames.encode(Open(PROTOCOL_VERSION, env_id, 1, mode, wait_s=5.0)))
        if told.status in _NOT_THERE:
            raise Skip(f"the server has no POST /v1/sessions ({told.status}): WebSocket only")
        assert told.status == 201, f"POST /v1/sessions was answered with {told.status} {told.content[:200]!r}, not 201"
        opened, _ = frames.decode_answer(told.content)
        assert isinstance(opened, Opened), f"POST /v1/sessions was answered with {shown(opened)}"
        self.path, self.secret = f"/v1/sessions/{opened.session}", opened.secret
        return opened


@_claim(
    "requests by HTTP are carried out once, too, and refused alike",
    "the routes are another way to the same sessions (docs/protocol.md, Routes): the same frames, the same rules",
)
def http_too(subject: Subject) -> str:
    http, script = _Http(subject), subject.script
    layout = StepLayout(subject.observation_space, http.open().lanes[0])
    try:
        for seq, (move, wanted) in enumerate(script.moves, start=1):
            told = http.ask("POST", _operation(move), move.frame(seq))
            again = http.ask("POST", _operation(move), move.frame(seq))
            answer, body = frames.decode_answer(told.content)
            assert isinstance(answer, Stepped), f"request {seq} was answered with {told.status}, {shown(answer)}"
            assert again == told, f"request {seq}, sent again, got another answer"
            if script.is_repeatable:
                assert_same(told_of(answer, body, layout), wanted, f"the answer to request {seq}")
        far = http.ask("POST", "/step", script.moves[-1][0].frame(seq + 2))
        refused, _ = frames.decode_answer(far.content)
        assert isinstance(refused, Refused) and refused.code == "seq", f"seq {seq + 2} got {shown(refused)}"
        _wants_the_secret(http)
    finally:
        gone = http.ask("DELETE")
    assert gone.status == 200, f"DELETE was answered with {gone.status}"
    after = http.ask("POST", "/step", script.moves[-1][0].frame(seq + 1))
    assert after.status == 410, f"a step of a session that was deleted was answered with {after.status}, not 410"
    return f"{len(script.moves)} requests, each sent twice, were as over the WebSocket{script.caveat}"


def _operation(move: Move) -> str:
    return "/reset" if move.is_reset else "/step"


def _wants_the_secret(http: _Http) -> None:
    secret, http.secret = http.secret, http.secret + "x"
    told = http.ask("POST", "/step", b"{}", "application/json")
    http.secret = secret
    assert told.status == 401, f"a wrong Session-Secret was answered with {told.status}, not 401"
    assert told.json().get("error") == "unauthorized", f"… and the JSON {told.content[:200]!r}"
