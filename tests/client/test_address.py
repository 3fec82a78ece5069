"""The address of an env server, and what is shown to it."""

import pytest

from multiserverrl.client.address import Address
from multiserverrl.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://localhost:1800", "http://localhost:1800"),
        ("http://localhost:1800/", "http://localhost:1800"),
        ("localhost", "http://localhost:1800"),
        ("10.0.0.7:99", "http://10.0.0.7:99"),
        ("https://sim.example", "https://sim.example:443"),
        ("http://[::1]:7", "http://[::1]:7"),
    ],
)
def test_an_address_is_read(url: str, wanted: str) -> None:
    assert str(Address.parse(url)) == wanted


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://a/path",
        "http://[::1",
        "[a]:1",
        "http://[a:1]:7",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Address.parse(url)


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISERVERRL_TOKEN", "hidden-word")
    address = Address.parse("localhost")
    assert address.headers() == {"Authorization": "Bearer hidden-word"}
    assert "hidden-word" not in f"{address} {address!r}"
    assert Address.parse("localhost", "mine").token == "mine"


@pytest.mark.parametrize(
    "url",
    [
        *("http://u:hidden-word@a", "http://hidden-word@a", "http://a?t=hidden-word", "a#hidden-word"),
        *("http://[u:hidden-word@a]:1800", "u:hidden-word@[a", "http://u:hidden-word@a:b"),
    ],
)
def test_an_address_bears_no_secret_and_one_that_does_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="MULTISERVERRL_TOKEN") as refused:
        Address.parse(url)
    assert "hidden-word" not in str(refused.value)
