"""The life of a server's processes: start, drain, kill, restart; nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import uvicorn

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.errors import ConfigError, MultiServerRLError
from multiserverrl.server.auth import Door
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.front import FrontConfig, _uvicorn_config
from multiserverrl.server.run import start_server
from multiserverrl.testing.envs import count_of
from multiserverrl.testing.serving import children_of, serving, worker_pids
from multiserverrl.wire.messages import Step
from multiserverrl.wire.tokens import TOKEN_VARIABLE
from tests.server.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"
PATIENCE_S = 30.0


class Served:
    """A `multiserverrl serve` of its own, as a person starts it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "multiserverrl", "serve", SCRIPTED, "--host", "127.0.0.1", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self.announced = self.process.stdout.readline()
        self.pasted = self.process.stdout.readline()
        assert "http://" in self.announced, self.process.communicate()[1]
        self.url = next(word for word in self.announced.split() if word.startswith("http://")).rstrip(":")
        self.fronts = children_of(self.process.pid)
        self.workers = [worker for front in self.fronts for worker in children_of(front)]

    def all_pids(self) -> list[int]:
        return [self.process.pid, *self.fronts, *self.workers]

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        code = self.process.wait(PATIENCE_S)
        self.process.communicate()
        return code


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[Served]:
    running = Served(*arguments, **environment)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what


def assert_nothing_left(pids: list[int], url: str) -> None:
    def gone(pid: int) -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    wait_until(lambda: all(gone(pid) for pid in pids), f"of the processes {pids} some are left")
    parts = urlsplit(url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((parts.hostname, parts.port), 5)


def blocks_of(pid: int) -> set[str]:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in maps if "memfd:multiserverrl" in line}  # their inodes


def named_blocks_of(pid: int) -> set[str]:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[5] for line in maps if "/dev/shm/" in line}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_step_in_flight_and_exits_0(number: signal.Signals, tmp_path: Path) -> None:
    with served("--count", "2") as server:
        env, counter = VirtualEnv(server.url), tmp_path / "steps"
        env.reset(options={"path": str(counter), "how": "sleep", "at": 1, "sleep_s": 0.5})
        told: list[Any] = []
        stepping = threading.Thread(target=lambda: told.append(env.step(0)))
        stepping.start()
        wait_until(lambda: count_of(counter), "the step began")
        os.kill(server.process.pid, number)
        stepping.join()
        assert told[0][0][0] == 1.0
        assert server.ended() == 0
        assert_nothing_left(server.all_pids(), server.url)
        env.close()


def test_a_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    with served("--count", "1", "--drain-s", "25") as server:
        env, counter = VirtualEnv(server.url), tmp_path / "steps"
        env.reset(options={"path": str(counter), "how": "spin", "at": 1})
        env._remote.link.send(0, lambda seq: Step(0, seq), bytes(8))
        wait_until(lambda: count_of(counter), "the step began")
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        wait_until(lambda: not _takes_sessions(server.url), "it stops")
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.ended() == 0
        assert time.monotonic() - began < 20
        assert_nothing_left(server.all_pids(), server.url)
        env._remote.link._drop()


def _takes_sessions(url: str) -> bool:
    try:
        VirtualEnv(url).close()
    except MultiServerRLError as error:
        return "stopping" not in str(error) and "nobody answers" not in str(error)
    return True


@pytest.mark.parametrize("whom", ["parent", "front"])
def test_kill_9_leaves_no_process_no_port_no_memory(whom: str) -> None:
    with served("--count", "2", "--workers", "2") as server:
        env = VirtualEnv(server.url)
        env.reset()
        assert len(server.workers) == 2
        if whom == "parent":
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(PATIENCE_S)
            assert_nothing_left(server.all_pids(), server.url)
        else:
            os.kill(server.fronts[0], signal.SIGKILL)
            wait_until(lambda: not any(psutil.pid_exists(pid) for pid in server.workers), "its workers end with it")
            wait_until(lambda: len(children_of(server.process.pid)) == 1, "another front is started")
            env.reset()  # the same port, another session
            assert env.step(0)[0][0] == 1.0
            env.close()
            server.process.terminate()
            assert server.ended() == 0
        env.close()


def test_closing_a_session_gives_its_shared_memory_back() -> None:
    with serving(SCRIPTED, count=4) as server:
        pids = [*server.pids(), *worker_pids(server)]
        envs = [VirtualEnv(server.url) for _ in range(4)]
        for env in envs:
            env.reset()
        assert sum(len(blocks_of(pid)) for pid in pids) == 4 + 4  # each in the front and in one worker
        for env in envs:
            env.close()
        wait_until(lambda: not any(blocks_of(pid) for pid in pids), "no block is mapped any more")


def test_several_servers_stand_on_ports_in_a_row(unused_ports: int) -> None:
    with serving(SCRIPTED, count=1, workers=1, servers=2, port=unused_ports) as server:
        assert server.urls == [f"http://127.0.0.1:{unused_ports + offset}" for offset in range(2)]
        envs = [VirtualEnv(url) for url in server.urls]
        for env in envs:
            env.reset()
            env.close()


@pytest.fixture
def unused_ports() -> int:
    """The first of two free ports in a row."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            if port == 65535:
                continue
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def test_the_announcement_can_be_pasted() -> None:
    with served("--count", "3", "--workers", "1") as server:
        assert f"serving {SCRIPTED} on {server.url}: 3 at once, 1 env worker" in server.announced
        port = urlsplit(server.url).port
        assert f"multiserverrl train --host 127.0.0.1 --port {port}" in server.pasted
        assert describe(server.url).free == 3


def test_a_port_in_use_is_said_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*in use.*--port"), serving(SCRIPTED, port=port):
            pass


def test_beyond_loopback_a_token_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=rf"--host 0\.0\.0\.0.*{TOKEN_VARIABLE}"), serving(SCRIPTED, host="0.0.0.0"):
        pass


def test_with_a_token_it_listens_beyond_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with serving(SCRIPTED, host="0.0.0.0", workers=1) as server:
        url = f"http://127.0.0.1:{urlsplit(server.url).port}"
        env = VirtualEnv(url, token="secret")
        env.close()
        with pytest.raises(MultiServerRLError, match="another token"):
            VirtualEnv(url, token="other")


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"count": 0}, "--count"),
        ({"workers": 0}, "--workers"),
        ({"servers": -1}, "--servers"),
        ({"port": 70000}, "--port"),
        ({"step_deadline_s": 0}, "--step-deadline-s"),
        ({"time_to_live_s": float("nan")}, "--time-to-live-s"),
        ({"host": "no.such.host.invalid"}, "--host"),
    ],
)
def test_a_wrong_setting_fails_at_start_and_names_its_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag), serving(SCRIPTED, **settings):
        pass


def test_the_settings_are_what_the_docs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(env_ids=("CartPole-v1",))
    assert (config.time_to_live_s, config.idle_s, config.step_deadline_s, config.start_deadline_s) == (
        120,
        3600,
        30,
        120,
    )
    monkeypatch.setattr("multiserverrl.server.front.make_app", lambda *arguments: None)
    uvicorns: uvicorn.Config = _uvicorn_config(FrontConfig(config, None), None)  # type: ignore[arg-type]
    assert uvicorns.ws_ping_interval is None  # a connected client may pause for as long as it likes
    assert uvicorns.ws_max_size == config.max_message_bytes
    assert Door(config, None)


def test_accepted_connections_are_kept_alive_by_tcp() -> None:
    with serving(SCRIPTED, workers=1) as server:
        listener = server._fronts[0].listener
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_starting_and_stopping_leaks_no_descriptor() -> None:
    with serving(SCRIPTED, workers=1):
        pass
    before = set(os.listdir("/proc/self/fd"))
    with serving(SCRIPTED, workers=1) as server:
        os.kill(server.pids()[0], signal.SIGKILL)
        first = server.pids()
        while server.pids() == first:
            server.poll()
        VirtualEnv(server.url).close()
    assert set(os.listdir("/proc/self/fd")) == before


# -- where parts are missing -------------------------------------------------------------------

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
{more}
"""


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (["uvloop"], ""),
        (["uvloop"], "import os\ndel os.memfd_create"),
        ([], "sys.platform = 'linux2'"),  # no PDEATHSIG
    ],
    ids=["no uvloop", "no uvloop, no memfd", "no PDEATHSIG"],
)
def test_without_the_parts_of_linux_it_serves_all_the_same(names: list[str], more: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=names, more=more))
    with served("--count", "2", "--workers", "2", PYTHONPATH=str(tmp_path)) as server:
        envs = [VirtualEnv(server.url) for _ in range(2)]
        for env in envs:
            env.reset(seed=1)
            assert env.step(1)[0][0] == 1.0
        named = {name for pid in server.workers for name in named_blocks_of(pid)}
        assert len(named) == (2 if "memfd" in more else 0)
        for env in envs:
            env.close()
        server.process.terminate()
        assert server.ended() == 0
        assert not any(os.path.exists(name) for name in named)
        assert_nothing_left(server.all_pids(), server.url)


def test_start_server_stops_what_it_began_when_one_cannot_start() -> None:
    before = children_of(os.getpid())
    with pytest.raises(MultiServerRLError):
        start_server(ServerConfig(env_ids=(f"{ENVS}:CustomSpace",), host="127.0.0.1", port=0, count=1, servers=2))
    assert children_of(os.getpid()) == before


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes descriptors is needed")
def test_a_server_starts_where_stdin_and_stderr_are_closed() -> None:
    program = (
        "from multiserverrl.server.config import ServerConfig\n"
        "from multiserverrl.server.run import start_server\n"
        "server = start_server(ServerConfig(env_ids=('CartPole-v1',), port=0, count=1, workers=1))\n"
        "print(server.url)\n"
        "server.stop()\n"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0
    assert ended.stdout.startswith("http://127.0.0.1:")
