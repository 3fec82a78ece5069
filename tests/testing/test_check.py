"""`multiserverrl check` as a person and a pipeline meet it."""

import io
import socket
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.cli import main
from multiserverrl.testing.check import check_server
from multiserverrl.testing.conformance import SERVER_CLAIMS
from multiserverrl.testing.fake import FakeServer
from multiserverrl.testing.serving import serving
from tests.testing.broken import AnswersNoise, AnswersStale, Dice, Outside, StepsAgain, broken

Captured = pytest.CaptureFixture[str]


def test_a_server_that_holds_all_is_exit_code_0_and_a_report_with_its_speed(capsys: Captured) -> None:
    with FakeServer() as server:
        assert main(["check", server.url, "Walk-v0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Walk-v0" in out
    assert "steps/s" in out
    assert " µs" in out
    assert " 0 failed" in out
    for claim in SERVER_CLAIMS:
        assert claim.title in out


def test_our_own_server_is_checked_by_its_address_alone(capsys: Captured) -> None:
    with serving("CartPole-v1", count=2, workers=1) as server:
        assert main(["check", server.url]) == 0
    assert "several envs, one message for all: 2 env(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "title"),
    [
        (StepsAgain, "a repeated request gets the kept answer, and no second step"),
        (AnswersStale, "a stale seq is refused"),
        (Dice, "two sessions with the same seed and actions are equal to the bit"),
        (Outside, "observations are members of the observation space, with its dtypes"),
        (AnswersNoise, "after a cut in mid-episode, resume goes on in the same episode"),
    ],
)
def test_a_broken_server_is_exit_code_1_with_what_was_seen_and_what_to_do(
    capsys: Captured, part: Any, title: str
) -> None:
    with broken(part) as server:
        assert main(["check", server.url, "--timeout-s", "5"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    failed = lines.index(f"  FAIL  {title}")
    assert lines[failed + 1].strip()
    assert lines[failed + 2].strip().startswith("what to do: ")
    assert "Traceback" not in out + err
    assert " 0 failed" not in out


def refusal(capsys: Captured, *arguments: str) -> str:
    assert main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    return line


def test_nobody_there_is_exit_code_2(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    assert f"nobody answers at http://127.0.0.1:{port}" in refusal(capsys, f"http://127.0.0.1:{port}")


def test_what_is_no_address_is_exit_code_2(capsys: Captured) -> None:
    assert "is not the address of an env server" in refusal(capsys, "ftp://x")
    assert "--timeout-s must be" in refusal(capsys, "http://x", "--timeout-s", "0")


def test_an_env_that_is_not_served_is_exit_code_2(capsys: Captured) -> None:
    with FakeServer() as server:
        assert "serves Walk-v0, not Run-v0" in refusal(capsys, server.url, "Run-v0")


def test_a_wrong_token_is_exit_code_2_and_the_right_one_is_tried_out(capsys: Captured, tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.write_text("wrong\n")
    right.write_text("right\n")
    with FakeServer(token="right") as server:
        assert "wants its token" in refusal(capsys, server.url, "--token-file", str(wrong))
        assert "--token-file" in refusal(capsys, server.url, "--token-file", str(tmp_path / "missing"))
        capsys.readouterr()
        assert main(["check", server.url, "--token-file", str(right)]) == 0
    out = capsys.readouterr().out
    assert "  pass  without the token nothing is told and nothing opened" in out
    assert "right" not in out


def test_a_server_in_use_is_exit_code_2(capsys: Captured) -> None:
    with with_answer(free=0)() as server:
        assert "is free" in refusal(capsys, server.url)


def with_answer(**changed: Any) -> type[FakeServer]:
    """A fake that describes itself otherwise."""

    class Other(FakeServer):
        def answer_get(self, path: str) -> dict[str, Any]:
            return {**super().answer_get(path), **changed}

    return Other


def test_a_server_without_an_env_is_exit_code_2(capsys: Captured) -> None:
    with with_answer(envs=[])() as server:
        assert "serves no env" in refusal(capsys, server.url)


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({"protocol": 77}, "speaks protocol version 77"),
        ({"envs": 3}, "describes itself in an unknown way"),
        ({"envs": [{"env_id": "x", "observation_space": {}, "action_space": {}, "render_modes": []}]}, "no space"),
    ],
)
def test_a_server_that_describes_itself_wrongly_fails_that_one_claim(changed: dict[str, Any], seen: str) -> None:
    told = io.StringIO()
    with with_answer(**changed)() as server:
        assert check_server(server.url, stream=told) == 1
    assert "FAIL  the server describes itself" in told.getvalue()
    assert seen in told.getvalue()
