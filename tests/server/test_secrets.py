"""A session is its client's alone: nobody else guesses it, lists it, touches it, or ends it."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection
from multiserverrl.errors import ConfigError, ServerFull, SessionLost, SessionTaken, Unauthorized
from multiserverrl.server.app import FRAME_TYPE, _Routes
from multiserverrl.server.jsonrequests import OPERATIONS
from multiserverrl.testing.serving import serving
from multiserverrl.wire import frames, messages
from multiserverrl.wire.messages import PROTOCOL_VERSION, Call, Close, Open, Refused, Render, Reset, Resume, Step
from multiserverrl.wire.session import ServerSession
from tests.server.conftest import ENVS
from tests.server.support import HttpSession, RawSession, request

SCRIPTED = f"{ENVS}:Scripted"


@pytest.fixture
def session(url: str) -> Iterator[HttpSession]:
    """Somebody's, after its reset."""
    opened = HttpSession(url, env_id=SCRIPTED, render_mode="ansi")
    opened.ask("reset", seed=1)
    yield opened
    opened.close()


def operations_on(path: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every way in which plain HTTP can name a session, from the router and the operations' table."""
    fields: dict[str, dict[str, Any]] = {
        "reset": {}, "step": {"action": 1}, "render": {}, "call": {"name": "steps"},
    }  # fmt: skip
    assert set(fields) == set(OPERATIONS), "an operation that this list does not know"
    ways = []
    for route in _Routes(None, None).all():  # type: ignore[arg-type]
        if "{session}" in route.path:
            for method in sorted(route.methods or ()):
                named = route.path.replace("/v1/sessions/{session}", path)
                names = fields if "{operation}" in named else {"": {}}
                ways += [(method, named.replace("{operation}", name), {"seq": 2, **names[name]}) for name in names]
    assert {method for method, *_ in ways} == {"POST", "DELETE"}
    return ways


def test_every_operation_on_a_session_wants_its_secret(url: str, session: HttpSession) -> None:
    stranger = HttpSession(url, env_id=SCRIPTED)
    secret = session.secret["Session-Secret"]
    shown: list[dict[str, str]] = [
        {},
        {"Session-Secret": ""},
        {"Session-Secret": secret[:-1]},
        {"Session-Secret": f"{secret}x"},
        {"Session-Secret": secret.swapcase()},
        {"Session-Secret": stranger.opened.json["session"]},
        stranger.secret,
    ]
    for method, path, body in operations_on(session.path):
        for headers in shown:
            answer = request(url, method, path, body, headers)
            assert (answer.status, answer.json["error"]) == (401, "unauthorized"), (method, path, headers)
            assert secret not in answer.content.decode()
    stepped = session.ask("step", action=1)
    assert (stepped.json["seq"], stepped.json["obs"][0]) == (2, 1.0)  # nothing of all that was carried out
    stranger.close()


FRAMES = [Reset(0, 2, [1]), Step(0, 2), Render(0, 2), Call(0, 2, "get", "steps"), Close(0, 2)]


@pytest.mark.parametrize("message", FRAMES, ids=lambda message: type(message).__name__)
def test_so_does_every_frame_that_comes_by_http(url: str, session: HttpSession, message: Any) -> None:
    for headers in ({}, {"Session-Secret": "x" * 32}):
        content = frames.encode(message, bytes(8))
        answer = request(url, "POST", f"{session.path}/step", content, {"Content-Type": FRAME_TYPE, **headers})
        assert (answer.status, answer.json["error"]) == (401, "unauthorized")
    assert session.ask("step", action=1).json["obs"][0] == 1.0


def test_over_a_websocket_nothing_but_open_and_resume_names_a_session(url: str) -> None:
    kinds = set(get_args(messages.Request))
    assert kinds == {Open, Resume, *(type(message) for message in FRAMES)}, "a message that this list does not know"
    holder = RawSession(url, SCRIPTED)
    holder.ask(Reset(0, 1, [1]))
    connection = Connection(Address.parse(url), 20)
    connection.set_timeout(20)
    for message in FRAMES:
        connection.send(frames.encode(message, bytes(8)))
        refused, _ = frames.decode_answer(connection.receive())
        assert isinstance(refused, Refused) and "open or resume a session first" in refused.message
    told = holder.opened
    for secret in ("", told.secret[:-1], told.secret + "x", told.session):
        connection.send(frames.encode(Resume(PROTOCOL_VERSION, told.session, secret, told.incarnation)))
        refused, _ = frames.decode_answer(connection.receive())
        assert isinstance(refused, Refused) and refused.code == "unauthorized" and told.secret not in refused.message
    connection.close()
    assert holder.ask(Step(0, 2), bytes(8))[0].seq == 2  # the holder was not disturbed
    holder.ask(Close(0, 3))
    holder.connection.close()


def test_secrets_and_owner_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    monkeypatch.setattr(
        "multiserverrl.wire.session.hmac.compare_digest", lambda a, b: compared.append(a) or bytes(a) == bytes(b)
    )
    session = ServerSession("id", "the-secret", 1, 0.0, owner="the-owner")
    with pytest.raises(Unauthorized):
        session.authenticate("another")
    session.authenticate("the-secret")
    assert session.is_owned_by("the-owner") and not session.is_owned_by("another") and not session.is_owned_by("\ud800")
    assert compared == [b"another", b"the-secret", b"the-owner", b"another", b"?"]
    assert not ServerSession("id", "the-secret", 1, 0.0).is_owned_by("")


def test_names_and_secrets_cannot_be_guessed(url: str) -> None:
    opened = [HttpSession(url, env_id=SCRIPTED) for _ in range(4)]
    told = [session.opened.json for session in opened]
    assert {len(one["session"]) for one in told} == {16} and {len(one["secret"]) for one in told} == {
        32
    }  # 64, 192 bits
    assert len({one["session"][:4] for one in told}) > 1 and len({one["secret"][:4] for one in told}) == 4
    for session in opened:
        session.close()


def test_no_answer_lists_sessions(url: str, session: HttpSession) -> None:
    name, secret = session.opened.json["session"], session.secret["Session-Secret"]
    paths = {route.path.partition("/{")[0] for route in _Routes(None, None).all()}  # type: ignore[arg-type]
    answers = [request(url, "GET", path).content.decode() for path in sorted(paths)]
    full = request(url, "POST", "/v1/sessions", {"env_id": SCRIPTED, "num_envs": 20})
    assert full.json["error"] == "full" and "a session holds 1" in full.json["message"]
    assert not any(word in told for told in (*answers, full.content.decode()) for word in (name, secret))


def test_an_owner_key_ends_its_own_session_alone_and_cannot_be_a_guess(url: str) -> None:
    with serving(SCRIPTED, count=1, workers=1) as server:
        holder = VirtualEnv(server.url, owner="0123456789abcdef")
        holder.reset()
        for guess in ("0123456789abcdeF", "0123456789abcdef0", "fedcba9876543210"):
            with pytest.raises(ServerFull):
                VirtualEnv(server.url, owner=guess)
        with pytest.raises(ConfigError, match=r"owner must have at least 16 characters.*secrets.token_hex"):
            VirtualEnv(server.url, owner="0123456789abcde")
        short = request(server.url, "POST", "/v1/sessions", {"owner": ""})
        assert (short.status, short.json["error"]) == (400, "config")
        holder.step(0)
        with VirtualEnv(server.url, owner="0123456789abcdef") as again:
            again.reset()
            with pytest.raises((SessionLost, SessionTaken)):
                holder.step(0)


def test_an_import_path_is_served_to_nobody_unless_it_is_listed(url: str) -> None:
    for env_id in (
        f"{ENVS}:Crashing",
        "os:system",
        "/etc/passwd",
        "CartPole-v0",
        "multiserverrl.testing.envs:Scripted ",
    ):
        answer = request(url, "POST", "/v1/sessions", {"env_id": env_id})
        assert (answer.status, answer.json["error"]) == (404, "unknown_env"), env_id


@pytest.mark.parametrize("arguments", [{"render_mode": "human"}, {"env_fns": ["os:system"]}, {"": 1}, {"__class__": 1}])
def test_constructor_arguments_need_the_operators_word_one_by_one(url: str, arguments: dict[str, Any]) -> None:
    answer = request(url, "POST", "/v1/sessions", {"env_id": "CartPole-v1", "arguments": arguments})
    assert (answer.status, answer.json["error"]) == (403, "not_allowed")
    assert json.dumps(arguments) not in answer.json["message"]
