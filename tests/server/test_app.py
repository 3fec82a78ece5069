"""The HTTP routes, as curl and other languages use them."""

import base64
import json
import math
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from multiserverrl.errors import MisuseError, PeerError
from multiserverrl.server import app
from multiserverrl.server.app import FRAME_TYPE
from multiserverrl.testing.envs import Scripted, count_of
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Opened, Refused, Reset, Step, Stepped
from tests.server.conftest import ENVS
from tests.server.support import HttpSession, request

SCRIPTED = f"{ENVS}:Scripted"


@pytest.fixture
def session(url: str) -> Iterator[HttpSession]:
    opened = HttpSession(url, env_id=SCRIPTED, render_mode="ansi")
    yield opened
    opened.close()


def test_a_session_lives_its_whole_life_in_json(url: str) -> None:
    session, local = HttpSession(url, env_id="CartPole-v1"), Scripted()
    told = session.opened.json
    assert told["env"]["env_id"] == "CartPole-v1" and told["env"]["action_space"]["type"] == "Discrete"
    began = session.ask("reset", seed=42)
    assert (began.status, began.json["reward"], began.json["terminated"]) == (200, 0.0, False)
    steps = [session.ask("step", action=1).json for _ in range(3)]
    assert [step["seq"] for step in steps] == [2, 3, 4]
    assert all(len(step["obs"]) == 4 and step["reward"] == 1.0 and step["info"] == {} for step in steps)
    assert session.close().json == {"closed": told["session"]}
    assert session.close().status == 410
    local.close()


def test_its_numbers_are_the_local_envs(url: str) -> None:
    session, local = HttpSession(url, env_id=SCRIPTED), Scripted()
    obs, info = local.reset(seed=3)
    began = session.ask("reset", seed=3).json
    assert (began["obs"], began["info"]) == (obs.tolist(), info)
    obs, reward, *_ = local.step(np.int64(1))
    step = session.ask("step", action=1).json
    assert (step["obs"], step["reward"]) == (obs.tolist(), reward)
    session.close()


def test_the_same_seq_gives_the_same_answer_and_steps_nothing(session: HttpSession, tmp_path: Any) -> None:
    session.ask("reset", options={"path": str(tmp_path / "steps")})
    first = session.ask("step", action=1)
    again = [session.ask("step", seq=session.seq, action=1) for _ in range(3)]
    assert {answer.content for answer in again} == {first.content}
    assert count_of(tmp_path / "steps") == 1


def test_the_same_seq_with_another_body_is_a_conflict(session: HttpSession) -> None:
    session.ask("reset")
    session.ask("step", action=1)
    other = session.ask("step", seq=session.seq, action=0)
    assert (other.status, other.json["error"]) == (409, "seq")
    ahead = session.ask("step", seq=session.seq + 2, action=0)
    assert (ahead.status, ahead.json["message"]) == (409, "seq 4 is too far ahead: the last was 2, so 3 is expected")


def test_two_requests_at_once_are_one_step(session: HttpSession, tmp_path: Any) -> None:
    session.ask("reset", options={"path": str(tmp_path / "steps"), "how": "sleep", "at": 1, "sleep_s": 0.2})
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(session.ask("step", seq=2, action=1).content)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3 and len(set(answers)) == 1
    assert count_of(tmp_path / "steps") == 1


def test_a_session_may_be_closed_while_its_step_runs(url: str, tmp_path: Any) -> None:
    session, counter = HttpSession(url, env_id=SCRIPTED), tmp_path / "steps"
    session.ask("reset", options={"path": str(counter), "how": "sleep", "at": 1, "sleep_s": 0.3})
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(session.ask("step", action=1).status))
    thread.start()
    while not count_of(counter):
        pass
    assert session.close().status == 200
    thread.join()
    assert answers == [200]
    other = HttpSession(url, env_id=SCRIPTED)
    assert other.ask("reset").status == 200
    other.close()


def test_several_envs_speak_in_lists(url: str) -> None:
    session = HttpSession(url, env_id=SCRIPTED, num_envs=3, autoreset_mode="same_step")
    began = session.ask("reset", seed=[1, 2, None], options={"length": 1}).json
    assert len(began["obs"]) == 3 and began["terminated"] == [False] * 3
    step = session.ask("step", actions=[0, 1, 0]).json
    assert step["terminated"] == [True] * 3
    assert [info["final_obs"][0] for info in step["info"]] == [1.0] * 3
    assert session.ask("step", action=1).status == 422
    assert session.ask("reset", mask=[True, False, False]).status == 200
    session.close()


def test_render_is_a_png_or_text(url: str, session: HttpSession) -> None:
    session.ask("reset")
    shown = session.ask("render")
    assert (shown.headers["content-type"].split(";")[0], shown.content) == ("text/plain", b"step 0")
    pictures = HttpSession(url, env_id=SCRIPTED, render_mode="rgb_array")
    pictures.ask("reset")
    frame = pictures.ask("render")
    assert (frame.headers["content-type"], frame.content[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
    pictures.close()


def test_attributes_need_the_operators_word(session: HttpSession) -> None:
    session.ask("reset")
    assert session.ask("call", name="steps").json["values"] == [0]
    refused = session.ask("call", name="options")
    assert (refused.status, refused.json["error"]) == (403, "not_allowed")
    dunder = session.ask("call", name="__class__.__init__", kind="get")
    assert dunder.status == 403


def test_a_secret_is_needed_and_an_unknown_session_is_gone(session: HttpSession) -> None:
    body = {"seq": 1}
    for headers in ({}, {"Session-Secret": "wrong"}, {"Session-Secret": "ÿ"}):
        answer = request(session.url, "POST", f"{session.path}/reset", body, headers)
        assert (answer.status, answer.json["error"]) == (401, "unauthorized")
    gone = request(session.url, "POST", "/v1/sessions/nothere/reset", body, session.secret)
    assert (gone.status, gone.json["error"]) == (410, "session_lost")


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("step", b"{"),
        ("step", b"[1]"),
        ("step", b'{"seq": "1", "action": 0}'),
        ("step", b'{"seq": 2}'),
        ("step", b'{"seq": 2, "action": 0, "actions": [0]}'),
        ("step", b'{"seq": 2, "action": 0, "extra": 1}'),
        ("step", b'{"seq": 2, "action": 0, "lane": 7}'),
        ("step", b'{"seq": 2, "action": 0, "lane": -1}'),
        ("step", b'\xff{"seq": 2}'),
        ("step", b"[" * 100_000),
        ("reset", b'{"seq": 2, "mask": [true, true]}'),
        ("reset", b'{"seq": 2, "seed": [1, 2]}'),
        ("reset", b'{"seq": 2, "seed": -1}'),
        ("reset", b'{"seq": 2, "seed": 99999999999999999999}'),
        ("step", b'{"seq": 99999999999999999999, "action": 0}'),
        ("step", b'{"seq": true, "action": 0}'),
        ("call", b'{"seq": -99999999999999999999, "name": "steps"}'),
        ("reset", b'{"seq": 2, "options": []}'),
        ("render", b'{"seq": 2, "lane": 1.5}'),
        ("call", b'{"seq": 2, "name": "steps", "kind": "destroy"}'),
        ("fly", b'{"seq": 2}'),
    ],
)
def test_malformed_json_is_refused_and_uses_no_seq_up(session: HttpSession, operation: str, content: bytes) -> None:
    session.ask("reset")
    answer = request(session.url, "POST", f"{session.path}/{operation}", content, session.secret)
    assert answer.status in (400, 409, 422)
    assert {"error", "message"} <= answer.json.keys() and answer.json["message"]
    assert session.ask("step", action=0).status == 200


@pytest.mark.parametrize("action", [2, -1, 0.5, "1.5", "1", True, [0], None, {"a": 1}, "NaN", 2**70, 10**400])
def test_a_wrong_action_is_refused_and_steps_nothing(session: HttpSession, action: Any) -> None:
    session.ask("reset", seed=1)
    answer = session.ask("step", action=action)
    assert (answer.status, answer.json["error"]) == (422, "action")
    assert answer.json.get("is_final", False) is False
    assert session.ask("step", action=1).json["obs"][0] == 1.0


def test_a_refusal_says_whether_its_seq_is_used_up_and_where_the_env_failed(session: HttpSession) -> None:
    early = session.ask("step", action=1)
    assert (early.status, early.json["is_final"], early.json["traceback"]) == (400, False, "")
    session.ask("reset", options={"how": "reset", "at": 1})
    session.ask("step", action=1)
    failed = session.ask("reset")
    assert (failed.status, failed.json["error"], failed.json["is_final"]) == (500, "env_fault", True)
    assert "fail at reset" in failed.json["traceback"]
    assert session.ask("reset", seq=session.seq + 1).json == failed.json
    assert session.ask("reset", seq=session.seq + 2).status == 200


def test_numbers_that_json_cannot_say_are_strings(url: str) -> None:
    session = HttpSession(url, env_id="CartPole-v1")
    high = session.opened.json["env"]["observation_space"]["high"]
    assert "Infinity" in high
    session.close()
    pendulum = HttpSession(url, env_id="Pendulum-v1")
    pendulum.ask("reset", seed=1)
    assert pendulum.ask("step", action=["NaN"]).json["error"] == "action"
    far = pendulum.ask("step", action=["Infinity"]).json
    assert all(math.isfinite(number) for number in far["obs"])  # Pendulum clips, as it does locally
    pendulum.close()


@pytest.mark.parametrize(
    ("opening", "status", "code"),
    [
        ({"env_id": "CartPol-v1"}, 404, "unknown_env"),
        ({}, 404, "unknown_env"),
        ({"env_id": "CartPole-v1", "num_envs": 0}, 400, "config"),
        ({"env_id": "CartPole-v1", "num_envs": 10**6}, 400, "config"),
        ({"env_id": "CartPole-v1", "num_envs": 21}, 503, "full"),
        ({"env_id": "CartPole-v1", "num_envs": 2, "lanes": [3]}, 400, "config"),
        ({"env_id": "CartPole-v1", "autoreset_mode": "never"}, 400, "config"),
        ({"env_id": "CartPole-v1", "render_mode": "smell"}, 400, "config"),
        ({"env_id": "CartPole-v1", "arguments": {"render_mode": "human"}}, 403, "not_allowed"),
        ({"env_id": "CartPole-v1", "wait_s": -1}, 400, "config"),
        ({"env_id": 7}, 400, "misuse"),
    ],
)
def test_an_opening_that_cannot_be_is_refused(url: str, opening: Any, status: int, code: str) -> None:
    answer = request(url, "POST", "/v1/sessions", opening)
    assert (answer.status, answer.json["error"]) == (status, code)


def test_frames_travel_over_http_by_their_content_type(url: str) -> None:
    headers = {"Content-Type": FRAME_TYPE}
    told = request(url, "POST", "/v1/sessions", frames.encode(Open(PROTOCOL_VERSION, SCRIPTED)), headers)
    opened, _ = frames.decode_answer(told.content)
    assert (told.status, told.headers["content-type"]) == (201, FRAME_TYPE) and isinstance(opened, Opened)
    path, headers = f"/v1/sessions/{opened.session}", {**headers, "Session-Secret": opened.secret}
    began, _ = frames.decode_answer(
        request(url, "POST", f"{path}/reset", frames.encode(Reset(0, 1, [1])), headers).content
    )
    step = frames.encode(Step(0, 2), (1).to_bytes(8, "little"))
    stepped, body = frames.decode_answer(request(url, "POST", f"{path}/step", step, headers).content)
    assert isinstance(began, Stepped) and isinstance(stepped, Stepped)
    assert np.frombuffer(body, np.float64)[1] == 1.0  # behind the reward: the obs, whose first number counts steps
    refused, _ = frames.decode_answer(request(url, "POST", f"{path}/step", frames.encode(Step(0, 3)), headers).content)
    assert isinstance(refused, Refused) and refused.code == "action"
    broken = request(url, "POST", f"{path}/step", b"MMMM", headers)
    assert (broken.status, broken.json["error"]) == (400, "wire")
    request(url, "DELETE", path, None, headers)


def test_what_is_served_and_how_it_fares(url: str) -> None:
    envs = request(url, "GET", "/v1/envs").json
    assert envs["capacity"] == 20 and "CartPole-v1" in {env["env_id"] for env in envs["envs"]}
    assert request(url, "GET", "/health").json["workers_up"] == 2
    assert request(url, "GET", "/").json["docs"] == "/docs"
    page = request(url, "GET", "/docs")
    assert page.headers["content-type"].startswith("text/html") and b"/v1/sessions/{session}/step" in page.content
    assert not re.search(rb"(src|href)=\"?https?:", page.content)  # nothing fetched from elsewhere


def test_every_route_of_the_openapi_document_answers(url: str, session: HttpSession) -> None:
    document = request(url, "GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1") and document["info"]["title"] and document["info"]["version"]
    schemas = document["components"]["schemas"]
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names and names <= set(schemas)
    for path, methods in document["paths"].items():
        if path == "/v1/stream":  # a WebSocket
            continue
        for method, operation in methods.items():
            wanted = set(re.findall(r"{(\w+)}", path))
            assert wanted == {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            body = None if method == "get" else {"seq": 0}
            answer = request(
                url,
                method.upper(),
                path.replace("/{session}", session.path.removeprefix("/v1/sessions")),
                body,
                session.secret,
            )
            assert answer.status not in (404, 405, 500), (method, path, answer)


def test_the_openapi_document_has_every_route_every_refusal_and_what_is_to_be_shown(url: str) -> None:
    document = request(url, "GET", "/openapi.json").json
    source = Path(app.__file__).read_text("utf-8")
    routes = {path for path in re.findall(r'Route\("([^"]+)"', source) if "{operation}" not in path}
    operations = {f"/v1/sessions/{{session}}/{name}" for name in ("reset", "step", "render", "call")}
    assert set(document["paths"]) == routes | operations | {app.STREAM_PATH}
    statuses = {
        str(kind.http_status) for kind in (MisuseError, *MisuseError.__subclasses__(), *PeerError.__subclasses__())
    }
    statuses |= {"408", "413", "431", "503"}  # of the limits, which hold before any route is looked at
    for path, methods in document["paths"].items():
        for told in methods.values():
            assert statuses <= set(told["responses"])
            needs_secret = "{session}" in path
            assert all("secret" in one for one in told["security"]) == needs_secret
            assert any("token" in one for one in told["security"])
    assert set(document["components"]["securitySchemes"]) == {"token", "secret"}


def test_the_frame_of_an_env_that_is_not_there_is_refused(session: HttpSession) -> None:
    session.ask("reset")
    for env in ("1", "-1", "", "x", "9" * 5000):
        answer = request(session.url, "POST", f"{session.path}/render?env={env}", {"seq": 2}, session.secret)
        assert (answer.status, answer.json["error"]) == (400, "misuse")


def test_an_unknown_path_or_method_is_refused(url: str) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/v1/sessions", 405)):
        answer = request(url, method, path)
        assert (answer.status, answer.json["error"]) == (status, "misuse")
        assert f"{method} {path}" in answer.json["message"]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read_whole(small: str) -> None:
    answer = request(small, "POST", "/v1/sessions", b"x" * 5000)
    assert (answer.status, answer.json["error"]) == (413, "too_large")
    parts = urlsplit(small)
    with socket.create_connection((parts.hostname, parts.port), 10) as raw:
        head = f"POST /v1/sessions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 1000000000\r\n\r\n"
        raw.sendall(head.encode() + b"x" * 8192)
        assert b" 413 " in raw.recv(4096).split(b"\r\n")[0]


# -- who may speak -----------------------------------------------------------------------------

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
}


@pytest.mark.parametrize("path", ["/v1/envs", "/v1/stream"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[", "localhost@evil.example"])
def test_a_foreign_host_is_refused(url: str, path: str, host: str) -> None:
    answer = request(url, "GET", path, headers=UPGRADE if path == "/v1/stream" else None, host=host)
    assert answer.status in (400, 403)


@pytest.mark.parametrize("path", ["/v1/envs", "/v1/stream"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://[", "file://"])
def test_a_foreign_origin_is_refused(url: str, path: str, origin: str) -> None:
    headers = {"Origin": origin, **(UPGRADE if path == "/v1/stream" else {})}
    answer = request(url, "GET", path, headers=headers)
    assert (answer.status, answer.json["error"]) == (403, "not_allowed")


def test_its_own_origin_is_welcome(url: str) -> None:
    assert request(url, "GET", "/v1/envs", headers={"Origin": url}).status == 200


def test_a_websocket_elsewhere_is_refused(url: str) -> None:
    assert request(url, "GET", "/v1/envs", headers=UPGRADE).status == 400
