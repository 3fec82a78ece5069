"""The WebSocket side, spoken to in raw bytes: what no client of ours would send."""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.testing.envs import count_of
from multiserverrl.testing.serving import serving
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Call, Close, Open, Render, Reset, Resume, Step
from multiserverrl.wire.trees import pack_tree
from tests.server.conftest import ENVS
from tests.server.support import RawSession
from tests.server.support import request as http_request

SCRIPTED = f"{ENVS}:Scripted"
GOOD = np.zeros(2, np.int64).tobytes()


@pytest.fixture
def counter(tmp_path: Any) -> str:
    return str(tmp_path / "steps")


@pytest.fixture(scope="module")
def one_worker() -> Iterator[str]:
    """A server whose only env worker answers steps by itself."""
    with serving(SCRIPTED, count=20, workers=1, allow_attr="steps,setting,np_random_seed") as running:
        yield running.url


@pytest.fixture(params=["url", "one_worker"])
def raw(request: pytest.FixtureRequest, counter: str) -> Iterator[RawSession]:
    """A session of two Scripted envs, reset with seq 1, over frames."""
    url = request.getfixturevalue(request.param)
    session = RawSession(url, SCRIPTED, 2)
    began, _ = session.ask(Reset(0, 1, [1, 2], pack_tree({"path": counter, "length": 1000})))
    assert type(began).__name__ == "Stepped"
    yield session
    last = http_request(
        url, "DELETE", f"/v1/sessions/{session.opened.session}", headers={"Session-Secret": session.opened.secret}
    )
    assert last.status in (200, 410)
    session.connection.close()


def bare(url: str) -> Connection:
    connection = Connection(Address.parse(url), 20)
    connection.set_timeout(20)
    return connection


BAD_BODIES = {
    "nothing": b"",
    "too short": bytes(15),
    "too long": bytes(24),
    "a non-member": np.array([0, 2], np.int64).tobytes(),
    "another non-member": np.array([-1, 0], np.int64).tobytes(),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_wrong_actions_in_raw_bytes_step_nothing_and_use_no_seq_up(raw: RawSession, counter: str, body: bytes) -> None:
    refused, _ = raw.ask(Step(0, 2), body)
    assert (refused.code, refused.seq, refused.is_final) == ("action", 2, False)
    assert count_of(counter) == 0
    assert type(raw.ask(Step(0, 2), GOOD)[0]).__name__ == "Stepped"
    assert count_of(counter) == 2


def test_nan_in_raw_bytes_is_refused(url: str) -> None:
    session = RawSession(url, "Pendulum-v1")
    session.ask(Reset(0, 1))
    refused, _ = session.ask(Step(0, 2), np.array([np.nan], np.float32).tobytes())
    assert (refused.code, refused.is_final) == ("action", False)
    session.ask(Close(0, 2))
    session.connection.close()


@pytest.mark.parametrize(
    "actions", [b"", b"\xc1", pack_tree("a"), pack_tree(["d"]), pack_tree(["a", "b"]), pack_tree([1])]
)
def test_wrong_actions_without_a_fixed_size_are_refused(url: str, actions: bytes) -> None:
    session = RawSession(url, f"{ENVS}:TextObs")
    session.ask(Reset(0, 1))
    refused, _ = session.ask(Step(0, 2, actions))
    assert refused.code in ("action", "wire") and not refused.is_final
    refused, _ = session.ask(Step(0, 2, pack_tree(["a"])), b"body")
    assert (refused.code, refused.is_final) == ("action", False)
    assert type(session.ask(Step(0, 2, pack_tree(["a"])))[0]).__name__ == "Stepped"
    session.ask(Close(0, 3))
    session.connection.close()


BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "a seq ahead": (Step(0, 3), "seq"),
    "a stale seq": (Step(0, 0), "seq"),
    "a negative seq": (Step(0, -1), "seq"),
    "the last seq for something else": (Step(0, 1), "seq"),
    "a lane that is not there": (Step(7, 2), "seq"),
    "a negative lane": (Step(-1, 2), "seq"),
    "too few seeds": (Reset(0, 2, [1]), "misuse"),
    "a mask of another length": (Reset(0, 2, None, b"", b"\x01"), "misuse"),
    "options that are no dict": (Reset(0, 2, None, pack_tree([1])), "misuse"),
    "options that are no tree": (Reset(0, 2, None, b"\xc1\xc1"), "wire"),
    "a render without a mode": (Render(0, 2), "misuse"),
    "an attribute that is not allowed": (Call(0, 2, "get", "options"), "not_allowed"),
    "an attribute behind an allowed one": (Call(0, 2, "get", "steps_of_mine"), "not_allowed"),
    "another session": (Open(PROTOCOL_VERSION, SCRIPTED), "wire"),
    "a resume in mid-session": (Resume(PROTOCOL_VERSION, "a", "b", 1), "wire"),
}


@pytest.mark.parametrize(("message", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_request_that_cannot_be_is_refused_and_the_session_lives_on(
    raw: RawSession, counter: str, message: Any, code: str
) -> None:
    refused, _ = raw.ask(message, GOOD if isinstance(message, Step) else b"")
    assert (refused.code, refused.is_final) == (code, False)
    assert type(raw.ask(Step(0, 2), GOOD)[0]).__name__ == "Stepped"
    assert count_of(counter) == 2


def test_the_same_seq_with_another_body_is_refused_by_name(raw: RawSession, counter: str) -> None:
    first = raw.ask(Step(0, 2), GOOD)
    refused, _ = raw.ask(Step(0, 2), np.ones(2, np.int64).tobytes())
    assert refused.code == "seq" and "another request with the same seq" in refused.message
    again = raw.ask(Step(0, 2), GOOD)
    assert first[0] == again[0] and bytes(first[1]) == bytes(again[1])
    assert count_of(counter) == 2


def test_lanes_are_stepped_one_by_one_and_a_slow_one_holds_up_no_other(url: str, counter: str) -> None:
    session = RawSession(url, SCRIPTED, 2, lanes=[1, 1])
    slow = pack_tree({"path": counter, "how": "sleep", "at": 1, "sleep_s": 0.5})
    session.ask(Reset(0, 1, None, slow))
    session.ask(Reset(1, 1, None, pack_tree({"length": 1000})))
    session.connection.send(frames.encode(Step(0, 2), bytes(8)))
    while not count_of(counter):
        pass
    order = []
    for seq in range(2, 5):
        answer, _ = session.ask(Step(1, seq), bytes(8))
        order.append((answer.lane, answer.seq))
    assert order == [(1, 2), (1, 3), (1, 4)]
    assert frames.decode_answer(session.connection.receive())[0].lane == 0
    session.ask(Close(0, 3))
    session.connection.close()


BAD_FRAMES = {
    "empty": b"",
    "another protocol": b"GET / HTTP/1.1\r\n",
    "a header that is longer than the frame": struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 0, 1 << 30),
    "no MessagePack": struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 0, 1) + b"\xc1" + bytes(7),
    "an unknown kind": struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 0, 8)
    + msgspec.msgpack.encode(["destroy"])[:8].ljust(8),
    "unknown flags": struct.pack("<BBHI", 0x4D, PROTOCOL_VERSION, 4, 0),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bytes_that_are_no_message_are_refused_or_end_the_connection_and_not_the_session(
    raw: RawSession, frame: bytes
) -> None:
    first = bare(raw.url)
    first.send(frame)
    assert frames.decode_answer(first.receive())[0].code == "wire"
    first.close()
    raw.connection.send(frame)
    with pytest.raises(ConnectionEnded) as ended:
        raw.connection.receive()
    assert ended.value.close_code == 4002
    raw.connection.close()
    raw.connection = bare(raw.url)
    resumed, _ = raw.ask(Resume(PROTOCOL_VERSION, raw.opened.session, raw.opened.secret, raw.opened.incarnation))
    assert resumed.last_seqs == [1]
    assert type(raw.ask(Step(0, 2), GOOD)[0]).__name__ == "Stepped"


def test_another_protocol_version_is_refused_with_both_named(url: str) -> None:
    connection = bare(url)
    connection.send(struct.pack("<BBHI", 0x4D, 99, 0, 0))
    refused, _ = frames.decode_answer(connection.receive())
    assert refused.code == "version" and "99" in refused.message and str(PROTOCOL_VERSION) in refused.message
    connection.send(frames.encode(Open(99, SCRIPTED)))
    refused, _ = frames.decode_answer(connection.receive())
    assert refused.code == "version" and "99" in refused.message
    connection.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret": "wrong"}, "unauthorized"),
        ({"session": "nothere"}, "session_lost"),
        ({"incarnation": 2}, "session_lost"),
    ],
)
def test_a_session_is_resumed_only_with_its_own_names(raw: RawSession, change: dict[str, Any], code: str) -> None:
    opened = raw.opened
    names = {"session": opened.session, "secret": opened.secret, "incarnation": opened.incarnation, **change}
    stranger = bare(raw.url)
    stranger.send(frames.encode(Resume(PROTOCOL_VERSION, **names)))
    assert frames.decode_answer(stranger.receive())[0].code == code
    stranger.close()
    assert type(raw.ask(Step(0, 2), GOOD)[0]).__name__ == "Stepped"  # its holder was not disturbed


def test_a_fenced_connection_steps_nothing(raw: RawSession, counter: str) -> None:
    opened, newer = raw.opened, bare(raw.url)
    newer.send(frames.encode(Resume(PROTOCOL_VERSION, opened.session, opened.secret, opened.incarnation)))
    newer.receive()
    with pytest.raises(ConnectionEnded) as ended:
        raw.ask(Step(0, 2), GOOD)
    assert ended.value.close_code == 4001
    assert count_of(counter) == 0
    newer.send(frames.encode(Step(0, 2), GOOD))
    assert type(frames.decode_answer(newer.receive())[0]).__name__ == "Stepped"
    newer.close()


def test_a_session_closed_over_http_refuses_its_websockets_next_step(raw: RawSession) -> None:
    secret = {"Session-Secret": raw.opened.secret}
    assert http_request(raw.url, "DELETE", f"/v1/sessions/{raw.opened.session}", headers=secret).status == 200
    refused, _ = raw.ask(Step(0, 2), GOOD)
    assert refused.code == "session_lost"


def test_a_message_beyond_the_limit_ends_the_connection_before_it_is_read(small: str) -> None:
    connection = bare(small)
    connection.send(bytes(5000))
    with pytest.raises(ConnectionEnded) as ended:
        connection.receive()
    assert ended.value.close_code == 1009
    connection.close()
