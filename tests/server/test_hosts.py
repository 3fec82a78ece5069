"""Names of hosts, as a request may bear them."""

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.hosts import checked_hosts, host_name, is_loopback, is_wildcard


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:1800", "localhost"),
        ("sim-1.example:65535", "sim-1.example"),
        ("env_server", "env_server"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:1800", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::ffff:10.0.0.7]:1800", "10.0.0.7"),
        # not guessed at:
        ("", ""),
        ("localhost.", ""),
        ("localhost:", ""),
        ("localhost:1800x", ""),
        ("localhost:1800:1800", ""),
        ("evil@localhost", ""),
        ("localhost/x", ""),
        ("local host", ""),
        ("localhost\t", ""),
        ("localhost, evil.example", ""),
        ("http://localhost", ""),
        ("::1", ""),
        ("[::1", ""),
        ("[::1]x", ""),
        ("[fe80::1%eth0]", ""),
        (".localhost", ""),
        ("lócalhost", ""),
        ("127.1", "127.1"),  # names as any other: no browser writes an address so
        ("2130706433", "2130706433"),
    ],
)
def test_a_host_header_has_one_name_or_none(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("localhost", True, False),
        ("127.0.0.2", True, False),
        ("::1", True, False),
        ("[::1]", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("", False, True),
        ("10.0.0.7", False, False),
        ("127.1", False, False),
        ("localhost.evil.example", False, False),
    ],
)
def test_what_is_this_machine_alone(host: str, loopback: bool, wildcard: bool) -> None:
    assert (is_loopback(host), is_wildcard(host)) == (loopback, wildcard)


def test_listed_names_are_compared_in_one_spelling() -> None:
    assert checked_hosts(frozenset({"Sim.Example", "[::0:1]", "10.0.0.7"})) == {"sim.example", "::1", "10.0.0.7"}


@pytest.mark.parametrize("name", ["http://sim", "sim:1800", "sim.", "*.example", "a b"])
def test_what_no_host_header_could_bear_is_refused_at_start(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow-host"):
        ServerConfig(env_ids=("CartPole-v1",), allow_host=name)


@pytest.mark.parametrize("origin", ["sim.example", "https://sim.example/", "null", "*", "file://", "https://a@b"])
def test_what_no_origin_header_could_bear_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ConfigError, match="--allow-origin"):
        ServerConfig(env_ids=("CartPole-v1",), allow_origin=origin)
