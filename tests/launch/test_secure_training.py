"""A whole training run on a server with a token and TLS: who is told the token, and what listens."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multiserverrl.testing.serving import serving
from multiserverrl.wire.tokens import TOKEN_VARIABLE
from tests.certificates import Authority
from tests.listeners import descendants, listened_to

TOKEN = "a-token-of-this-test"
SHORT = ("--eval-episodes", "1", "--episodes", "6", "--warmup-steps", "10")


@contextmanager
def training(run: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "multiserverrl", "train", *arguments, *SHORT, "--run-dir", str(run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, TOKEN_VARIABLE: TOKEN}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_run_under_tls_tells_the_token_to_nobody_and_only_the_server_listens(tmp_path: Path) -> None:
    token_file, run = tmp_path / "token", tmp_path / "run"
    token_file.write_text(TOKEN)
    signed, listened, arguments = Authority(tmp_path).sign(), set[str](), set[str]()
    with serving("CartPole-v1", count=4, workers=1, token_file=str(token_file), **signed.settings()) as server:
        port, pin = server.ports[0], signed.fingerprint
        where = ("--host", "127.0.0.1", "--port", str(port), "--fingerprint", pin)
        with training(run, *where) as process:
            most = 0
            while still_runs(process):
                pids = [pid for first in (process.pid, *server.pids()) for pid in descendants(first)]
                most = max(most, len(pids))
                listened |= listened_to(pids)
                arguments |= {read(f"/proc/{pid}/cmdline") for pid in pids}
            said = process.communicate()[0]
        assert process.returncode == 0, said
    assert most >= 7  # front, env worker, launcher, learner, explorer, evaluator, inference server
    assert listened == {f"tcp 127.0.0.1:{port}"}
    written = "".join(path.read_text("latin-1") for path in run.rglob("*") if path.is_file())
    assert "https://127.0.0.1" in written and pin in written
    assert TOKEN not in written + said + "".join(arguments)


def test_a_run_with_a_server_of_its_own_listens_on_one_loopback_port_alone(tmp_path: Path) -> None:
    listened = set[str]()
    with training(tmp_path / "run", "CartPole-v1", "--count", "3") as process:
        while still_runs(process):
            listened |= listened_to(descendants(process.pid))
        assert process.returncode == 0, process.communicate()[0]
    assert len(listened) == 1 and re.fullmatch(r"tcp 127\.0\.0\.1:\d+", listened.pop())


def test_what_listens_is_found() -> None:
    """The kernel's tables are read as they are meant."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("\0" + f"multiserverrl-test-{os.getpid()}")
            unix.listen()
            found = listened_to([os.getpid()])
        ports = (tcp.getsockname()[1], udp.getsockname()[1])
    assert {f"tcp 127.0.0.1:{ports[0]}", f"udp 127.0.0.1:{ports[1]}"} <= found
    assert f"unix @multiserverrl-test-{os.getpid()}" in found


@pytest.mark.parametrize("flag", [["--tls"], ["--ca-file", "ca.pem"], ["--fingerprint", "ab" * 32]])
def test_a_server_of_its_own_needs_no_certificate(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from multiserverrl.cli import main

    assert main(["train", "CartPole-v1", *flag]) == 2
    assert "--tls, --ca-file and --fingerprint are of env servers that run already" in capsys.readouterr().err


def still_runs(process: subprocess.Popen[str]) -> bool:
    """It is left in peace for a moment: whoever asks without pause takes a core away from it."""
    try:
        process.wait(0.02)
    except subprocess.TimeoutExpired:
        return True
    return False


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # it has ended
        return ""
