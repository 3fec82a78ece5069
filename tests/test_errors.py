"""errors.py: the tree, and what travels of it."""

from __future__ import annotations

import pytest

from multiserverrl import errors
from multiserverrl.errors import EnvFault, MisuseError, MultiServerRLError, PeerError, error_for

KINDS = [getattr(errors, name) for name in errors.__all__ if name != "error_for"]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_that_travelled_gives_back_its_error(kind: type[MultiServerRLError]) -> None:
    error = error_for(kind.code, "what happened")
    assert type(error) is kind
    assert str(error) == "what happened"


def test_an_unknown_code_is_a_peer_error_that_shows_it() -> None:
    error = error_for("from_the_future", "what happened")
    assert type(error) is PeerError
    assert "from_the_future" in str(error)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, MisuseError)])
def test_misuse_is_answered_with_a_client_error(kind: type[MultiServerRLError]) -> None:
    assert 400 <= kind.http_status < 500


def test_wrong_values_are_value_errors_and_an_absent_server_is_a_connection_error() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.ActionError, ValueError)
    assert issubclass(errors.ServerUnreachable, ConnectionError)


def test_an_env_fault_shows_the_traceback_at_the_server() -> None:
    fault = EnvFault("ZeroDivisionError: division by zero", "Traceback: line 3")
    assert "ZeroDivisionError" in str(fault)
    assert "at the server:\nTraceback: line 3" in str(fault)
    assert str(EnvFault("its worker died")) == "its worker died"
