"""Claims about how a session begins and ends: the description, what is opened, what is refused, the token."""

from __future__ import annotations

import dataclasses
from typing import Any

from multiserverrl.client.transport import Address, fetch_json
from multiserverrl.errors import Unauthorized
from multiserverrl.testing.conformance.claim import Claims, Skip
from multiserverrl.testing.conformance.raw import RawSocket
from multiserverrl.testing.conformance.subject import RawSession, Subject, shown
from multiserverrl.testing.contract import assert_same
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Close, Closed, Open, Opened, Refused, Step
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import pack_tree

__all__ = ["CLAIMS", "refused_opening"]

_claim = Claims("opening")
CLAIMS = _claim.found


@_claim(
    "the server describes itself",
    "GET /v1/envs must answer protocol, version, capacity, free and envs (docs/protocol.md, Routes)",
)
def describes_itself(subject: Subject) -> str:
    told = subject.description
    assert 0 <= told.free <= told.capacity, f"free is {told.free}, of {told.capacity}"
    for name in ("observation_space", "action_space"):
        described = describe_space(getattr(subject, name))
        assert_same(
            described, getattr(subject.env, name), f"the description of the {name}, restored and described again"
        )
    number = f"{len(told.envs)} env(s), {told.free} of {told.capacity} free"
    return f"protocol {told.protocol}, version {told.version}, {number}"


@_claim(
    "open gives a session of the env that was described",
    "answer open with `opened`: the session's names, the lanes' sizes and the same EnvInfo as GET /v1/envs",
)
def opens(subject: Subject) -> str:
    with subject.session() as session:
        opened = session.opened
        assert opened.lanes == [1], f"the lanes are {opened.lanes}; one env was asked for"
        assert opened.session and opened.secret, "the session or its secret is empty"
        assert opened.time_to_live_s > 0, f"time_to_live_s is {opened.time_to_live_s}"
        assert opened.env == subject.env, f"opened says {opened.env}, /v1/envs {subject.env}"
    return f"{opened.env.env_id}, lives {opened.time_to_live_s:g} s without a connection"


def refused_opening(socket: RawSocket, request: Any, codes: tuple[str, ...], what: str) -> None:
    """Send a first message that must be refused with one of `codes`."""
    socket.send(request if isinstance(request, bytes) else frames.encode(request))
    answer, _ = frames.decode_answer(socket.receive())
    assert isinstance(answer, Refused), f"{what} was answered with {shown(answer)}, not refused"
    assert answer.code in codes, f"{what} was refused with {answer.code!r}, not {codes[0]!r}: {answer.message}"
    assert (answer.lane, answer.seq) == (0, 0), f"the refusal of {what} bears {(answer.lane, answer.seq)}, not 0, 0"


@_claim(
    "what cannot be opened is refused by name, and the connection may try again",
    "refuse with the codes of docs/protocol.md, Refusals, lane 0 and seq 0, and leave the connection open",
)
def refuses_openings(subject: Subject) -> str:
    env_id, mode = subject.env.env_id, subject.mode
    too_many = subject.description.capacity + 1
    cases: list[tuple[str, Any, tuple[str, ...]]] = [
        ("an unknown env id", Open(PROTOCOL_VERSION, "no-such-env", 1, mode), ("unknown_env",)),
        ("another protocol version", Open(PROTOCOL_VERSION + 77, env_id, 1, mode), ("version",)),
        ("an unknown autoreset mode", Open(PROTOCOL_VERSION, env_id, 1, "sometimes"), ("config",)),
        ("no env at all", Open(PROTOCOL_VERSION, env_id, 0, "next_step"), ("config",)),
        ("an unknown render mode", Open(PROTOCOL_VERSION, env_id, 1, mode, "no-such-mode"), ("config",)),
        ("an argument that nobody allowed", _with_argument(env_id, mode), ("not_allowed",)),
        ("lanes that are no sum", Open(PROTOCOL_VERSION, env_id, 1, mode, lanes=[2]), ("config",)),
        ("more envs than there are", Open(PROTOCOL_VERSION, env_id, too_many, "next_step"), ("full", "config")),
        ("a step before open", Step(0, 1), ("wire",)),
        ("bytes that are no frame", b"hello", ("wire",)),
    ]
    socket = subject.connect()
    try:
        for what, request, codes in cases:
            refused_opening(socket, request, codes, what)
        socket.send(frames.encode(Open(PROTOCOL_VERSION, env_id, 1, mode, wait_s=5.0)))
        answer, _ = frames.decode_answer(socket.receive())
        assert isinstance(answer, Opened), f"after these refusals open was answered with {shown(answer)}"
        _close(socket)
    finally:
        socket.cut()
    return "; ".join(what for what, _, _ in cases)


def _with_argument(env_id: str, mode: str) -> Open:
    return Open(PROTOCOL_VERSION, env_id, 1, mode, arguments=pack_tree({"no_such_argument": 1}))


def _close(socket: RawSocket) -> None:
    socket.send(frames.encode(Close(0, 1)))
    answer, _ = frames.decode_answer(socket.receive())
    assert isinstance(answer, Closed), f"close was answered with {shown(answer)}"


@_claim(
    "lanes are numbered apart, each with a seq of its own",
    "keep last seq, its request and its answer for each lane; an answer bears the lane and seq of its request",
)
def lanes_are_apart(subject: Subject) -> str:
    subject.single()
    subject.several(2)
    reset, step = subject.script.moves[0][0], subject.sampled()
    with subject.session(num_envs=2, lanes=[1, 1], autoreset_mode="next_step") as session:
        assert session.opened.lanes == [1, 1], f"the lanes are {session.opened.lanes}, [1, 1] was asked for"
        for lane in (0, 1):
            answer = session.ask(reset.frame(1, lane))
            assert (getattr(answer, "lane", None), getattr(answer, "seq", None)) == (lane, 1), (
                f"reset of lane {lane} with seq 1 was answered with {shown(answer)}"
            )
        answer = session.ask(step.frame(2, 1))
        assert (getattr(answer, "lane", None), getattr(answer, "seq", None)) == (1, 2), (
            f"step of lane 1 was answered with {shown(answer)}"
        )
        session.seq = 1
    return "two lanes of one env each"


@_claim(
    "a session that was closed is gone, and its env free",
    "answer close with `closed` when the env may be had again; resume is then refused with session_lost",
)
def closes(subject: Subject) -> str:
    with subject.session() as session:
        answer = session.close()
        assert isinstance(answer, Closed), f"close was answered with {shown(answer)}"
        session.is_closed = True
        session.socket.cut()
        _refused_resume(subject, session, "session_lost", "resume after close")
    with subject.session(wait_s=0.0 if subject.description.free == 1 else 5.0):
        return "closed; not resumed; opened again"


def _refused_resume(subject: Subject, holder: RawSession, code: str, what: str, **changed: Any) -> None:
    socket = subject.connect()
    try:
        refused_opening(socket, holder.resume_request(**changed), (code,), what)
    finally:
        socket.cut()


@_claim(
    "resume with a wrong secret, session or incarnation is refused, and the session's holder not disturbed",
    "compare the secret in constant time (unauthorized); an unknown session or incarnation is session_lost",
)
def guards_the_session(subject: Subject) -> str:
    def disturb(session: RawSession, _: Any) -> None:
        secret = session.opened.secret
        for wrong in (secret[:-1], secret + "x", ""):
            _refused_resume(subject, session, "unauthorized", "resume with a wrong secret", secret=wrong)
        _refused_resume(subject, session, "session_lost", "resume of an unknown session", session="no-such-session")
        wrong_one = session.opened.incarnation + 1
        _refused_resume(subject, session, "session_lost", "resume of another incarnation", incarnation=wrong_one)

    return subject.drive(disturb)


@_claim(
    "without the token nothing is told and nothing opened",
    "check `Authorization: Bearer TOKEN` before every other thing, on GET and on the WebSocket's handshake: 401",
)
def wants_its_token(subject: Subject) -> str:
    if not subject.token:
        raise Skip("no --token was given")
    for token, what in ((None, "no token"), (subject.token + "x", "a wrong token")):
        address: Address = dataclasses.replace(subject.address, token=token)
        for name, ask in (
            ("GET /v1/envs", lambda address=address: fetch_json(address, "/v1/envs", subject.timeout_s)),
            ("the WebSocket", lambda address=address: RawSocket(address, subject.timeout_s)),
        ):
            try:
                answered = ask()
            except Unauthorized:
                continue
            if isinstance(answered, RawSocket):
                answered.cut()
            raise AssertionError(f"{name} with {what} was not refused")
    return "no token and a wrong one: GET /v1/envs and the WebSocket are refused with unauthorized"
