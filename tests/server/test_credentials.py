"""Where a server's token comes from, and who gets to see it."""

import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.errors import ConfigError, Unauthorized
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.credentials import find_token
from multiserverrl.testing.serving import children_of, serving, worker_pids
from multiserverrl.wire.tokens import TOKEN_VARIABLE

TOKEN = "a-token-of-this-test"
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def config(**settings: Any) -> ServerConfig:
    return ServerConfig(**{"env_ids": ("CartPole-v1",), "host": "0.0.0.0", **settings})


def test_on_loopback_no_token_is_needed_and_one_that_is_there_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token(config(host="localhost")) is None
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    found = find_token(config(host="localhost"))
    assert found is not None and found.text == TOKEN and not found.is_made


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "sim.example"])
def test_beyond_loopback_without_a_token_the_start_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"--host {host} .*{TOKEN_VARIABLE}.*--token-file.*localhost"):
        find_token(config(host=host))


def test_one_is_made_where_it_can_be_shown() -> None:
    found = [find_token(config(), is_shown=True) for _ in range(2)]
    texts = {token.text for token in found if token is not None and token.is_made}
    assert len(texts) == 2 and all(re.fullmatch(r"[\w-]{32}", text) for text in texts)


def test_one_is_made_into_a_file_that_is_named_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    before = os.umask(0)
    try:
        made = find_token(config(token_file=str(path)))
    finally:
        os.umask(before)
    again = find_token(config(token_file=str(path)))
    assert made is not None and made.is_made and again is not None and not again.is_made
    assert made.text == again.text == path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_wins_over_the_environment_and_is_not_made_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "another-token-of-this-test")
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        find_token(config(token_file=str(path)))
    path.write_text(f"{TOKEN}\n")
    found = find_token(config(token_file=str(path)))
    assert found is not None and found.text == TOKEN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"one\ntwo\n", "character 4 of it is a line break"),
        ("tökén".encode(), "not a visible ASCII one"),
        (b"\xff\xfe", "it is not text"),
        (b"x" * 5000, "more than 4096 bytes"),
    ],
)
def test_what_cannot_be_a_token_is_refused_by_the_files_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--token-file {path} .*{said}"):
        find_token(config(token_file=str(path)))


def test_a_token_of_the_environment_that_no_header_can_bear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "one\ntwo")
    with pytest.raises(ConfigError, match=rf"{TOKEN_VARIABLE} .*a line break"):
        find_token(config(host="localhost"))
    with pytest.raises(ConfigError, match=rf"{TOKEN_VARIABLE} .*a line break"):
        VirtualEnv("http://localhost:1")
    with pytest.raises(ConfigError, match="token holds no token"):
        VirtualEnv("http://localhost:1", token="mine\r\nX-Header: 1")


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o620)
    with pytest.raises(ConfigError, match=f"can be written by other users: chmod 600 {path}"):
        find_token(config(token_file=str(path)))


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    find_token(config(token_file=str(path)))
    assert f"secret_readable_by_others flag=--token-file path={path}" in caplog.text
    caplog.clear()
    path.chmod(0o600)
    find_token(config(token_file=str(path)))
    assert caplog.text == ""


def test_a_token_that_can_be_guessed_is_warned_of_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "hunter2")
    found = find_token(config())
    assert "token_short characters=7" in caplog.text
    assert "hunter2" not in caplog.text + repr(found) + str(found)


def test_a_name_that_is_not_loopback_after_all_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    wide = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: wide)
    with (
        pytest.raises(ConfigError, match=r"--host localhost is 0\.0\.0\.0 here"),
        serving("CartPole-v1", host="localhost"),
    ):
        pass


# -- a `serve` as a person starts it -------------------------------------------------------------


class Started:
    """`multiserverrl serve` beyond loopback; what it printed until it said how to train on it."""

    def __init__(self, *arguments: str, terminal: bool = False, **environment: str) -> None:
        command = [sys.executable, "-m", "multiserverrl", "serve", "CartPole-v1", "--count", "1", "--port", "0"]
        self._read, write = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [*command, "--host", "0.0.0.0", *arguments],
            stdout=write, stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip
        os.close(write)
        self._errors: str | None = None
        self.said = ""
        deadline = time.monotonic() + PATIENCE_S
        while "NOT ENCRYPTED" not in self.said and time.monotonic() < deadline:
            if select.select([self._read], [], [], 0.1)[0]:
                part = b""
                with suppress(OSError):  # EIO: the terminal's other end is closed
                    part = os.read(self._read, 4096)
                if not part:
                    break
                self.said += part.decode()

    @property
    def url(self) -> str:
        found = re.search(r"--port (\d+)", self.said)
        assert found, self.said
        return f"http://127.0.0.1:{found[1]}"

    def pids(self) -> list[int]:
        fronts = children_of(self.process.pid)
        return [self.process.pid, *fronts, *(worker for front in fronts for worker in children_of(front))]

    def stop(self) -> str:
        """What it wrote on stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> str:
        """What it wrote on stderr, once it has ended by itself."""
        if self._errors is None:
            self._errors = self.process.communicate(timeout=PATIENCE_S)[1].decode()
            os.close(self._read)
        return self._errors


@contextmanager
def started(*arguments: str, terminal: bool = False, **environment: str) -> Iterator[Started]:
    running = Started(*arguments, terminal=terminal, **environment)
    try:
        yield running
    finally:
        running.process.kill()
        running.ended()


def test_a_token_that_is_made_is_shown_once_on_a_terminal_and_nowhere_else() -> None:
    with started(terminal=True) as server:
        found = re.search(rf"export {TOKEN_VARIABLE}=([\w-]+)", server.said)
        assert found, server.said
        token = found[1]
        assert server.said.count(token) == 1
        train = next(line for line in server.said.splitlines() if line.startswith("train on it"))
        assert f"with {TOKEN_VARIABLE} set" in train and token not in train
        VirtualEnv(server.url, token=token).close()
        for pid in server.pids():
            assert token not in (told_by(pid, "cmdline") + told_by(pid, "environ"))
        assert token not in server.stop()


def test_without_a_terminal_the_start_is_refused_in_one_line() -> None:
    with started() as server:
        errors = server.ended().strip().splitlines()
        assert (
            server.process.returncode == 2
            and len(errors) == 1
            and "clients must show a token" in errors[0]
            and server.said == ""
        )


def test_a_token_that_is_made_into_a_file_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "the token"
    with started("--token-file", str(path)) as server:
        token = path.read_text().strip()
        assert f"the token was made and is in {path}:  export {TOKEN_VARIABLE}=$(cat '{path}')" in server.said
        assert token not in server.said
        VirtualEnv(server.url, token=token).close()
        assert token not in server.stop()


def told_by(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def test_no_process_that_runs_env_code_is_told_the_token() -> None:
    with started(**{TOKEN_VARIABLE: TOKEN}) as server:
        assert TOKEN not in server.said
        pids = server.pids()
        assert len(pids) == 3
        VirtualEnv(server.url, token=TOKEN).close()
        assert all(TOKEN not in told_by(pid, "cmdline") for pid in pids)
        assert TOKEN in told_by(pids[0], "environ")  # the operator's own words
        assert all(TOKEN_VARIABLE not in told_by(pid, "environ") for pid in pids[1:])


def test_a_front_that_is_started_again_wants_the_same_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with serving("CartPole-v1", count=1, workers=1) as server:
        first = server.pids()
        os.kill(first[0], signal.SIGKILL)
        while server.pids() == first:
            server.poll()
        with pytest.raises(Unauthorized):
            VirtualEnv(server.url, token="another")
        VirtualEnv(server.url).close()
        assert worker_pids(server)
