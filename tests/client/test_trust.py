"""TLS: what a client believes, and what it says of what it does not."""

import datetime
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import SyncVectorEnv

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address
from multiserverrl.client.trust import Trust
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, ServerUnreachable, UntrustedServer
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import assert_same, trajectory, vector_trajectory
from multiserverrl.testing.relay import Cut, Relay
from multiserverrl.testing.serving import serving, worker_pids
from tests.certificates import Authority, Signed

TOKEN = "a-token-of-this-test"
LONG_AGO, TODAY = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2001, 2002))
FAR_OFF, FARTHER = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2101, 2102))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def signed(authority: Authority) -> Signed:
    return authority.sign()


@pytest.fixture(scope="module")
def secure(signed: Signed) -> Iterator[RunningServer]:
    with serving("CartPole-v1", count=6, workers=1, **signed.settings()) as server:
        assert server.url.startswith("https://") and server.fingerprint == signed.fingerprint
        yield server


def test_envs_under_tls_are_the_local_ones(secure: RunningServer, authority: Authority) -> None:
    env = VirtualEnv(secure.url, ca_file=authority.ca_file)
    assert_same(trajectory(env, 60), trajectory(gymnasium.make("CartPole-v1"), 60))
    env.close()
    envs = VirtualVectorEnv([secure.url, secure.url], num_envs=4, lanes=2, ca_file=authority.ca_file)
    local = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 4)
    assert_same(vector_trajectory(envs, 60), vector_trajectory(local, 60))
    envs.close()


def test_a_connection_under_tls_that_is_cut_is_made_again(secure: RunningServer, authority: Authority) -> None:
    with Relay(secure.url) as relay:
        env = VirtualEnv(relay.url.replace("http:", "https:"), ca_file=authority.ca_file)
        local = gymnasium.make("CartPole-v1")
        env.reset(seed=3)
        local.reset(seed=3)
        for step in range(12):
            relay.cut(Cut(("request", "reply")[step % 2], step))
            assert_same(env.step(step % 2), local.step(step % 2))
        assert relay.cuts_done >= 12 and env._remote.link.reconnects >= 12
        env.close()


def test_a_connection_under_tls_is_not_lent_to_an_env_worker(
    secure: RunningServer, url: str, authority: Authority
) -> None:
    def tcp_sockets_of_worker(server: RunningServer) -> int:
        return sum(is_tcp(path) for pid in worker_pids(server) for path in Path(f"/proc/{pid}/fd").iterdir())

    with serving("CartPole-v1", count=1, workers=1) as plain:
        for server, lent in ((plain, 1), (secure, 0)):
            env = VirtualEnv(server.url, ca_file=authority.ca_file if server is secure else None)
            env.reset()
            for _ in range(3):
                env.step(0)
            assert tcp_sockets_of_worker(server) == lent
            env.close()


def is_tcp(path: Path) -> bool:
    table = Path("/proc/net/tcp").read_text()
    try:
        kind, _, inode = os.readlink(path).partition(":[")
    except OSError:
        return False
    return kind == "socket" and any(line.split()[9] == inode[:-1] for line in table.splitlines()[1:])


def test_one_certificate_may_be_pinned_in_any_spelling_whatever_its_name(secure: RunningServer, signed: Signed) -> None:
    pin = signed.fingerprint
    colons = ":".join(pin[place : place + 2] for place in range(0, 64, 2)).upper()
    for spelling in (pin, f"sha256:{pin}", colons):
        assert describe(secure.url, trust=Trust(fingerprint=spelling)).capacity == 6
    by_another_name = secure.url.replace("127.0.0.1", "127.0.0.2")  # not in the certificate
    with pytest.raises(ServerUnreachable):  # nor is there anybody
        describe(by_another_name, trust=Trust(fingerprint=pin))


def test_another_certificate_than_the_pinned_one_is_refused_and_named(secure: RunningServer, signed: Signed) -> None:
    with pytest.raises(UntrustedServer, match=f"another certificate .* its own is {signed.fingerprint}"):
        VirtualEnv(secure.url, fingerprint="0" * 64)


def test_a_ca_that_has_not_signed_it_is_named(secure: RunningServer, tmp_path: Path) -> None:
    other = Authority(tmp_path).ca_file
    with pytest.raises(UntrustedServer, match=f"no certificate in {other} .*has signed it"):
        describe(secure.url, trust=Trust(other))


def test_with_a_ca_and_a_pin_both_must_hold(secure: RunningServer, signed: Signed, tmp_path: Path) -> None:
    with pytest.raises(UntrustedServer, match="is not trusted"):
        describe(secure.url, trust=Trust(Authority(tmp_path).ca_file, signed.fingerprint))


@contextmanager
def shaking_hands(signed: Signed) -> Iterator[tuple[str, list[bytes]]]:
    """A TLS server that only listens; its address, and what each connection said after its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certfile, signed.keyfile)
    said: list[bytes] = []

    def listen() -> None:
        connected, _ = listener.accept()
        with connected:
            connected.settimeout(10)
            try:
                with context.wrap_socket(connected, server_side=True) as wrapped:
                    said.append(wrapped.recv(4096))
            except OSError:
                said.append(b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", said
        thread.join()


Sign = Callable[[Authority], Signed]
BAD: dict[str, tuple[Sign, bool, str]] = {  # what is signed, whether the CA is known, what is said of it
    "unknown CA": (lambda ca: ca.sign(), False, "no CA that this machine knows.*ca_file=, --ca-file.*fingerprint="),
    "expired": (lambda ca: ca.sign(not_before=LONG_AGO, not_after=TODAY), True, "it has expired: renew it"),
    "not valid yet": (lambda ca: ca.sign(not_before=FAR_OFF, not_after=FARTHER), True, "are both clocks right"),
    "of another address": (lambda ca: ca.sign("sim.example", "10.9.8.7"), True, "it is for another address"),
}


@pytest.mark.parametrize(("sign", "is_known", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_believed_is_told_nothing_and_said_with_what_to_do(
    authority: Authority, sign: Sign, is_known: bool, said: str
) -> None:
    with shaking_hands(sign(authority)) as (url, heard):
        with pytest.raises(UntrustedServer, match=f"the certificate of {url} is not trusted.*{said}"):
            describe(url, token=TOKEN, trust=Trust(authority.ca_file if is_known else None))
    assert heard == [b""]


def test_a_certificate_for_another_name_is_said_to_be_that(authority: Authority) -> None:
    with shaking_hands(authority.sign("sim.example")) as (url, heard):
        address = Address.parse(url.replace("127.0.0.1", "localhost"), TOKEN, Trust(authority.ca_file))
        with pytest.raises(UntrustedServer, match="it is for another host name"):
            address.connect(10)
    assert heard == [b""]


def test_a_pin_that_does_not_fit_gets_no_token(authority: Authority) -> None:
    with shaking_hands(authority.sign()) as (url, heard):
        with pytest.raises(UntrustedServer, match="another certificate"):
            describe(url, token=TOKEN, trust=Trust(fingerprint="ab" * 32))
    assert heard == [b""]


ASKS: list[Callable[..., Any]] = [describe, VirtualEnv]


@pytest.mark.parametrize("ask", ASKS)
def test_https_to_a_plain_port_says_so(url: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(UntrustedServer, match=r"does not speak TLS .* plain HTTP.*--certfile.*http://"):
        ask(url.replace("http:", "https:"))


@pytest.mark.parametrize("ask", ASKS)
def test_http_to_a_tls_port_says_so(secure: RunningServer, ask: Callable[..., Any]) -> None:
    with pytest.raises(ServerUnreachable, match="https://"):
        ask(secure.url.replace("https:", "http:"))


@pytest.mark.parametrize(
    ("url", "arguments", "said"),
    [
        ("https://localhost:1", {"ca_file": "/no/such/file"}, "ca_file /no/such/file cannot be read"),
        ("https://localhost:1", {"ca_file": __file__}, r"ca_file .* holds no PEM certificates"),
        ("https://localhost:1", {"fingerprint": "abc"}, "fingerprint must be the SHA-256"),
        ("http://localhost:1", {"fingerprint": "ab" * 32}, "are for https://"),
        ("http://localhost:1", {"ca_file": "ca.pem"}, "are for https://"),
    ],
)
def test_what_cannot_be_trusted_by_is_refused_before_anything_is_sent(
    url: str, arguments: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        VirtualEnv(url, **arguments)  # type: ignore[arg-type]


def test_a_spec_says_whom_to_trust_and_not_the_token(secure: RunningServer, authority: Authority) -> None:
    with VirtualEnv(secure.url, ca_file=authority.ca_file, token=TOKEN) as env:
        assert env.spec is not None
        assert env.spec.kwargs["ca_file"] == authority.ca_file and TOKEN not in env.spec.to_json()
        assert TOKEN not in repr(env._remote.config) + repr(env._remote.address)
