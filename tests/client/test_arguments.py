"""Arguments that cannot be are refused by name before any connection is made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError
from multiserverrl.testing.relay import Relay
from tests.client.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"

BOTH: list[tuple[dict[str, Any], str]] = [
    ({"timeout_s": 0}, "timeout_s must be .* more than 0, not 0"),
    ({"timeout_s": -1.0}, "timeout_s"),
    ({"timeout_s": float("nan")}, "timeout_s"),
    ({"timeout_s": float("inf")}, "timeout_s"),
    ({"timeout_s": "3"}, "timeout_s .* not '3'"),
    ({"timeout_s": None}, "timeout_s"),
    ({"wait_s": -1}, "wait_s must be .* at least 0, not -1"),
    ({"wait_s": True}, "wait_s"),
    ({"env_id": 3}, "env_id must be a str or None, not a int"),
    ({"render_mode": 1}, "render_mode"),
    ({"owner": b"me"}, "owner"),
    ({"arguments": 3}, "arguments must be a dict or None, not a int"),
    ({"arguments": [("a", 1)]}, "arguments"),
    ({"token": 12}, "token must be a str or None"),
    ({"token": "hushed-word\n"}, "the token .* line break"),
    ({"token": "hushed-wörd"}, "the token"),
    ({"on_fault": "ignore"}, "on_fault"),
    ({"on_lost": "ignore"}, "on_lost must be one of raise, truncate"),
]
VECTOR: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": "3"}, "num_envs must be a whole number, at least 1, not '3'"),
    ({"num_envs": 2.0}, "num_envs"),
    ({"num_envs": True}, "num_envs"),
    ({"num_envs": 0}, "num_envs"),
    ({"lanes": "2"}, "lanes must be a number, or a list"),
    ({"lanes": [1.0]}, "lanes"),
    ({"lanes": None}, "lanes"),
    ({"autoreset_mode": "sometimes"}, "autoreset_mode"),
]
CASES = [(VirtualEnv, *case) for case in BOTH] + [(VirtualVectorEnv, *case) for case in BOTH + VECTOR]


@pytest.fixture(scope="module")
def relay(url: str) -> Any:
    with Relay(url) as running:
        yield running


@pytest.mark.parametrize(("make", "arguments", "words"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_wrong_argument_is_named_before_anything_is_connected(
    relay: Relay, make: Callable[..., Any], arguments: dict[str, Any], words: str
) -> None:
    before = relay.connections
    with pytest.raises(ConfigError, match=words) as refused:
        make(relay.url, **{"env_id": SCRIPTED, **arguments})
    assert "hushed" not in str(refused.value)
    assert relay.connections == before


@pytest.mark.parametrize(
    ("make", "url", "words"),
    [
        (VirtualEnv, None, "not None"),
        (VirtualEnv, ["http://localhost"], "not \\["),
        (VirtualVectorEnv, [], "url is empty"),
        (VirtualVectorEnv, [None], "not None"),
        (VirtualVectorEnv, None, "not None"),
        (VirtualVectorEnv, 1800, "not 1800"),
    ],
)
def test_what_is_no_address_is_a_config_error(make: Callable[..., Any], url: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(url, SCRIPTED)


def test_wrong_servers_in_a_list_are_refused_before_the_good_ones_are_asked(relay: Relay) -> None:
    before = relay.connections
    with pytest.raises(ConfigError, match="ftp"):
        VirtualVectorEnv([relay.url, "ftp://there"], SCRIPTED, 2)
    assert relay.connections == before


def test_numbers_of_numpy_are_numbers(url: str) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, np.int64(2), lanes=np.int32(2), timeout_s=np.float64(20))  # type: ignore[arg-type]
    assert (envs.num_envs, len(envs._lanes)) == (2, 2)
    envs.reset(seed=1)
    envs.close()
