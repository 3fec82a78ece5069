"""A server that is told to stop: what runs is answered, what comes hears why it is not, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import MultiServerRLError, ServerStopping, SessionLost
from multiserverrl.testing.envs import count_of
from multiserverrl.testing.serving import children_of, serving
from tests.server.test_run import SCRIPTED, assert_nothing_left, served, wait_until

PROMPT_S = 15.0  # far below every budget of retries


class Attempt:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.told: Any = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=[call])
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.told = call()
        except MultiServerRLError as error:
            self.error = error

    def ended(self, within_s: float = 20.0) -> "Attempt":
        self._thread.join(within_s)
        assert not self._thread.is_alive()
        return self


def asked(url: str, content: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, str | None, Any]:
    """(status, Retry-After, JSON) of a request over plain HTTP."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, None, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Retry-After"), json.load(error)


def refuses_sessions(url: str) -> bool:
    status, retry_after, told = asked(f"{url}/v1/sessions", {})
    return (status, retry_after, told.get("error")) == (503, "5", "stopping")


def slow_env(url: str, counter: Path, sleep_s: float) -> VirtualEnv:
    env = VirtualEnv(url)
    env.reset(options={"path": str(counter), "how": "sleep", "at": 1, "sleep_s": sleep_s})
    return env


def test_while_a_step_is_waited_for_whatever_else_comes_hears_that_the_server_stops(tmp_path: Path) -> None:
    with served("--count", "3", "--workers", "3", "--drain-s", "20") as server:
        env, idle = slow_env(server.url, tmp_path / "steps", 2.5), VirtualEnv(server.url)
        idle.reset()
        stepping = Attempt(lambda: env.step(0))
        wait_until(lambda: count_of(tmp_path / "steps"), "the step began")
        waiting = Attempt(lambda: VirtualVectorEnv(server.url, num_envs=2, wait_s=60.0))
        began = time.monotonic()
        server.process.terminate()
        wait_until(lambda: refuses_sessions(server.url), "it refuses sessions")
        with pytest.raises(ServerStopping, match="try again"):
            VirtualEnv(server.url)
        with pytest.raises(SessionLost, match="stopping: this was not carried out"):
            idle.step(0)
        with pytest.raises(ServerStopping):
            idle.reset()
        assert isinstance(waiting.ended().error, ServerStopping)
        assert stepping.told is None
        assert stepping.ended().told[0][0] == 1.0
        assert server.ended() == 0
        assert_nothing_left(server.all_pids(), server.url)
        with pytest.raises(SessionLost, match="was stopped"):
            env.step(0)
        assert time.monotonic() - began < 2.5 + PROMPT_S
        env.close()
        idle.close()


def test_a_step_beyond_the_drain_is_cut_and_its_client_hears_why(tmp_path: Path) -> None:
    with served("--count", "4", "--workers", "4", "--drain-s", "0.5") as server:
        lent, counters = slow_env(server.url, tmp_path / "lent", 60.0), [tmp_path / "lent", tmp_path / "spread"]
        spread = VirtualVectorEnv(server.url, num_envs=2)  # on two env workers: by the front
        spread.reset(options={"path": str(tmp_path / "spread"), "how": "sleep", "at": 1, "sleep_s": 60.0})
        attempts = [Attempt(lambda: lent.step(0)), Attempt(lambda: spread.step([0, 0]))]
        wait_until(lambda: all(count_of(counter) for counter in counters), "the steps began")
        began = time.monotonic()
        server.process.terminate()
        for attempt in attempts:
            error = attempt.ended().error
            assert isinstance(error, SessionLost) and "server is stopping" in str(error)
        assert time.monotonic() - began < 0.5 + PROMPT_S
        assert server.ended() == 0
        assert time.monotonic() - began < 30
        assert_nothing_left(server.all_pids(), server.url)
        lent.close()
        spread.close()


def test_a_plain_request_beyond_the_drain_is_answered_that_the_session_is_lost(tmp_path: Path) -> None:
    with serving(SCRIPTED, count=1, workers=1, drain_s=0.3) as server:
        _, _, opened = asked(f"{server.url}/v1/sessions", {})
        path, secret = f"{server.url}/v1/sessions/{opened['session']}", {"Session-Secret": opened["secret"]}
        script = {"path": str(tmp_path / "steps"), "how": "sleep", "at": 1, "sleep_s": 60.0}
        assert asked(f"{path}/reset", {"seq": 1, "options": script}, secret)[0] == 200
        told: list[Any] = []
        stepping = threading.Thread(target=lambda: told.append(asked(f"{path}/step", {"seq": 2, "action": 0}, secret)))
        stepping.start()
        wait_until(lambda: count_of(tmp_path / "steps"), "the step began")
        server.send_signal(signal.SIGTERM)
        stepping.join()
        assert told[0][0] == 410 and told[0][2]["error"] == "session_lost" and "--drain-s" in told[0][2]["message"]


def test_a_signal_while_it_starts_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nopen(__file__ + '.began', 'w').close()\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "multiserverrl", "serve", f"{tmp_path}/slow.py:Env", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until((tmp_path / "slow.py.began").exists, "the env is imported")
        children = [child for front in children_of(process.pid) for child in (front, *children_of(front))]
        assert len(children) > 1
        process.terminate()
        _, printed = process.communicate(timeout=30)
        assert process.returncode == 0 and b"Traceback" not in printed
        wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "its children ended")
    finally:
        process.kill()
        process.wait()


def test_a_front_that_is_told_to_stop_answers_and_is_replaced(tmp_path: Path) -> None:
    with serving(SCRIPTED, count=2) as server:
        env = slow_env(server.url, tmp_path / "steps", 1.0)
        stepping = Attempt(lambda: env.step(0))
        wait_until(lambda: count_of(tmp_path / "steps"), "the step began")
        first = server.pids()
        server.send_signal(signal.SIGTERM)
        assert stepping.ended().told[0][0] == 1.0

        def is_lost() -> bool:
            try:
                env.step(0)
            except SessionLost:
                return True
            return False

        wait_until(is_lost, "the session ended with its front")

        def is_replaced() -> bool:
            server.poll()
            return server.pids() != first

        wait_until(is_replaced, "another front was started")
        env.reset()
        assert env.step(0)[0][0] == 1.0
        env.close()
