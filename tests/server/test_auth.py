"""The door: which requests get in, whatever route, method or protocol they are for."""

import base64
import os
import socket
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.routing import Route

from multiserverrl.errors import ConfigError, NotAllowedError, Unauthorized
from multiserverrl.server.app import STREAM_PATH, _Routes
from multiserverrl.server.auth import Door
from multiserverrl.server.config import ServerConfig
from multiserverrl.testing.serving import serving
from tests.server.support import request

TOKEN = "secret"  # of the server `guarded`
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
}


def every_route() -> list[tuple[str, str]]:
    """Each path that the router knows, and one that it doesn't, with every method, and the WebSocket."""
    routes = _Routes(None, None).all()  # type: ignore[arg-type]
    assert all(isinstance(route, Route) for route in routes), "a kind of route that this list knows nothing of"
    paths = {route.path.replace("{session}", "s").replace("{operation}", "step") for route in routes}
    return [*product(METHODS, sorted(paths | {"/nowhere", "/metrics"})), ("GET", STREAM_PATH)]


def ask(url: str, method: str, path: str, headers: dict[str, str]) -> Any:
    upgrade = UPGRADE if path == STREAM_PATH else {}
    return request(url, method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None, {**upgrade, **headers})


@pytest.mark.parametrize("method", METHODS)
def test_every_route_wants_the_token_and_a_host_and_origin_that_are_listed(guarded: str, method: str) -> None:
    own = urlsplit(guarded).netloc
    wrong: list[tuple[int, dict[str, str]]] = [
        (401, {}),
        (401, {"Authorization": f"Bearer {TOKEN}x"}),
        (403, {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}),
    ]
    for asked, path in every_route():
        if asked != method:
            continue
        for status, headers in wrong:
            assert ask(guarded, method, path, headers).status == status, (path, headers)
        rebound = request(guarded, method, path, None, {"Authorization": f"Bearer {TOKEN}"}, host="evil.example")
        assert rebound.status == 403, path
        shown = {"Authorization": f"Bearer {TOKEN}", "Origin": f"http://{own}"}
        if path != STREAM_PATH:
            assert ask(guarded, method, path, shown).status not in (401, 403), path


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (None, "wants its token"),
        ("", "wants its token"),
        ("Bearer", "wants its token"),
        ("Bearer ", "wants its token"),
        (TOKEN, "wants its token"),
        (f"Basic {base64.b64encode(TOKEN.encode()).decode()}", "wants its token"),
        ("Bearer wrong", "has another token"),
        (f"Bearer {TOKEN[:-1]}", "has another token"),
        (f"Bearer {TOKEN}, {TOKEN}", "has another token"),
        ("Bearer ÿ", "has another token"),
    ],
)
def test_a_missing_token_and_a_wrong_one_are_told_apart_and_neither_is_shown(
    guarded: str, shown: str | None, said: str
) -> None:
    answer = request(guarded, "GET", "/health", headers={} if shown is None else {"Authorization": shown})
    assert (answer.status, answer.json["error"], answer.headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    assert said in answer.json["message"] and TOKEN not in answer.content.decode()


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(
        "multiserverrl.server.auth.hmac.compare_digest", lambda a, b: compared.append((a, b)) or bytes(a) == bytes(b)
    )
    door = Door(ServerConfig(env_ids=("CartPole-v1",)), TOKEN)
    door.check(scope_of(authorization=f"Bearer {TOKEN}"))
    with pytest.raises(Unauthorized):
        door.check(scope_of(authorization="Bearer x"))
    assert compared == [(TOKEN.encode(), TOKEN.encode()), (b"x", TOKEN.encode())]


def raw_answer(url: str, head: str) -> bytes:
    """What is answered to a head that no library would send."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 10) as connected:
        connected.sendall(head.replace("HOST", parts.netloc).replace("\n", "\r\n").encode())
        answer = connected.recv(1 << 16)
    return answer.split(b" ")[1]


WEBSOCKET = "".join(f"{name}: {value}\n" for name, value in UPGRADE.items())


@pytest.mark.parametrize("upgrade", ["", WEBSOCKET], ids=["plain", "websocket"])
@pytest.mark.parametrize(
    "head",
    [
        "GET PATH HTTP/1.1\nHost: HOST\nHost: evil.example\n",
        "GET PATH HTTP/1.1\nHost: evil.example\nHost: HOST\n",
        "GET PATH HTTP/1.1\nHost: HOST\nHost: HOST\n",
        "GET PATH HTTP/1.1\n",
        "GET PATH HTTP/1.0\n",
        "GET PATH HTTP/1.1\nHost:\n",
        "GET PATH HTTP/1.1\nHost: evil@HOST\n",
        "GET PATH HTTP/1.1\nHost: localhost.\n",
        "GET PATH HTTP/1.1\nHost: HOST, evil.example\n",
        "GET http://evil.examplePATH HTTP/1.1\nHost: HOST\n",
        "GET http://HOSTPATH HTTP/1.1\nHost: HOST\n",
        "GET evil.example:80 HTTP/1.1\nHost: HOST\n",
        "CONNECT evil.example:80 HTTP/1.1\nHost: HOST\n",
        "OPTIONS * HTTP/1.1\nHost: HOST\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://HOST\nOrigin: http://evil.example\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: null\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: https://HOST\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://localhost:1\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://HOST@evil.example\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://HOST.evil.example\n",
        "GET PATH HTTP/1.1\nHost: HOST\nOrigin:\n",
    ],
)
def test_a_head_that_could_be_read_in_two_ways_or_is_a_strangers_is_refused(url: str, head: str, upgrade: str) -> None:
    path = STREAM_PATH if upgrade else "/v1/envs"
    assert raw_answer(url, head.replace("PATH", path) + upgrade + "\n") in (b"400", b"403", b"404", b"405", b"426")


@pytest.mark.parametrize("upgrade", ["", WEBSOCKET], ids=["plain", "websocket"])
def test_an_ordinary_head_gets_in(url: str, upgrade: str) -> None:
    path = STREAM_PATH if upgrade else "/v1/envs"
    head = f"GET {path} HTTP/1.1\nHost: HOST\nOrigin: http://HOST\n"
    assert raw_answer(url, head + upgrade + "\n") == (b"101" if upgrade else b"200")


def scope_of(
    host: str = "localhost:1800", server: tuple[str, int] | None = ("127.0.0.1", 1800), **headers: str
) -> dict[str, Any]:
    found = {"host": host, **headers}
    return {
        "type": "http",
        "scheme": "http",
        "server": server,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in found.items()],
    }


def gets_in(config: ServerConfig, scope: dict[str, Any]) -> bool:
    try:
        Door(config, None).check(scope)
    except NotAllowedError:
        return False
    return True


@pytest.mark.parametrize(
    ("listens", "host", "came_to", "answers"),
    [
        ("localhost", "localhost:9", "127.0.0.1", True),  # another port: a tunnel's
        ("localhost", "127.0.0.1", "127.0.0.1", True),
        ("localhost", "[::1]:1800", "::1", True),
        ("localhost", "sim.example", "127.0.0.1", False),
        ("localhost", "10.0.0.7", "127.0.0.1", False),
        ("10.0.0.7", "10.0.0.7:1800", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8:1800", "10.0.0.7", False),
        ("sim.example", "SIM.example", "10.0.0.7", True),
        ("sim.example", "10.0.0.7", "10.0.0.7", True),
        ("sim.example", "evil.example", "10.0.0.7", False),
        ("0.0.0.0", "10.0.0.7:1800", "10.0.0.7", True),  # every address of this machine, by its number
        ("0.0.0.0", "10.0.0.8:1800", "10.0.0.7", False),
        ("0.0.0.0", "0.0.0.0:1800", "127.0.0.1", False),
        ("0.0.0.0", "evil.example", "10.0.0.7", False),
        ("0.0.0.0", socket.gethostname(), "10.0.0.7", True),
        ("::", "[fd00::7]:1800", "fd00::7", True),
        ("::", "10.0.0.7", "::ffff:10.0.0.7", True),
        ("::1", "[::1]:1800", "::1", True),
    ],
)
def test_hosts_are_those_listed_and_the_address_that_the_request_came_to(
    listens: str, host: str, came_to: str, answers: bool
) -> None:
    config = ServerConfig(env_ids=("CartPole-v1",), host=listens)
    assert gets_in(config, scope_of(host, (came_to, 1800))) is answers


def test_the_operator_may_list_more_hosts_or_all() -> None:
    some = ServerConfig(env_ids=("CartPole-v1",), allow_host="sim.example, [fd00::7]")
    assert gets_in(some, scope_of("sim.example:443")) and gets_in(some, scope_of("[fd00::0:7]:443"))
    assert not gets_in(some, scope_of("other.example"))
    every = ServerConfig(env_ids=("CartPole-v1",), allow_host="*")
    assert gets_in(every, scope_of("other.example")) and not gets_in(every, scope_of("other example"))


def test_the_operator_may_list_the_origins_of_pages() -> None:
    config = ServerConfig(env_ids=("CartPole-v1",), allow_origin="https://board.example:8443,http://other.example")
    assert gets_in(config, scope_of(origin="https://Board.example:8443"))
    assert not gets_in(config, scope_of(origin="https://board.example"))
    assert not gets_in(config, scope_of(origin="http://board.example:8443"))


def test_any_host_at_all_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTISERVERRL_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"--allow-host '\*' needs a token"), serving("CartPole-v1", allow_host="*"):
        pass


def test_every_answer_tells_browsers_to_be_careful_with_it(url: str, guarded: str) -> None:
    paths = ("/", "/docs", "/openapi.json", "/v1/envs", "/nowhere")
    answers = [*(request(url, "GET", path) for path in paths), request(guarded, "GET", "/docs")]
    for answer in answers:
        headers = answer.headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert (headers["referrer-policy"], headers["x-frame-options"]) == ("no-referrer", "DENY")
        assert not any(name.startswith("access-control") for name in headers)
    policy = answers[1].headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
