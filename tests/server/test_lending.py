"""A session's connection in the hands of the env worker that has its envs: nobody can tell, but that it is quicker."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import ConnectionEnded
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.server.lane import Lane
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import assert_same, vector_trajectory
from multiserverrl.testing.serving import serving, worker_pids
from multiserverrl.testing.threaded import serving_from_thread
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Close, Refused, Render, Reset, Step, Stepped
from multiserverrl.wire.trees import pack_tree, unpack_tree
from multiserverrl.wire.websocket import BINARY, PING, PONG, frame_head
from tests.server.support import RawSession, request

SCRIPTED = "multiserverrl.testing.envs:Scripted"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(SCRIPTED, "CartPole-v1", count=24, workers=1) as running:
        yield running


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Within the block, this process does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def await_loan(server: RunningServer) -> None:
    """Until the only env worker has a socket beside the one to the front, which lends when it has answered."""
    folder = Path(f"/proc/{worker_pids(server)[-1]}/fd")
    while sum(os.readlink(fd).startswith("socket:") for fd in folder.iterdir()) < 2:
        os.sched_yield()


@contextmanager
def raw(server: RunningServer, num_envs: int = 1, **opening: Any) -> Iterator[RawSession]:
    session = RawSession(server.url, SCRIPTED, num_envs, **opening)
    yield session
    names = {"Session-Secret": session.opened.secret}
    assert request(server.url, "DELETE", f"/v1/sessions/{session.opened.session}", headers=names).status in (200, 410)
    session.connection.close()


def test_steps_and_resets_need_the_env_worker_alone(server: RunningServer) -> None:
    local = gymnasium.make("CartPole-v1")
    env = VirtualEnv(server.url, "CartPole-v1")
    assert_same(env.reset(seed=1), local.reset(seed=1))
    env.step(0)
    local.step(0)
    await_loan(server)
    with stopped(server.pids()[0]):
        for _ in range(3):
            is_over = False
            while not is_over:
                told = env.step(1)
                assert_same(told, local.step(1))
                is_over = told[2]
            assert_same(env.reset(), local.reset())
    env.close()


def test_lanes_on_one_worker_are_answered_by_it_too(server: RunningServer) -> None:
    envs = VirtualVectorEnv(server.url, "CartPole-v1", num_envs=6, lanes=3)
    envs.reset(seed=5)
    envs.step(np.zeros(6, int))
    await_loan(server)
    with stopped(server.pids()[0]):
        told = envs.step(np.ones(6, int))
    local = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 6)
    local.reset(seed=5)
    local.step(np.zeros(6, int))
    assert_same(told, local.step(np.ones(6, int)))
    envs.close()


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_what_the_front_does_between_steps_changes_none_of_them(server: RunningServer, mode: str) -> None:
    envs = VirtualVectorEnv(server.url, SCRIPTED, num_envs=3, autoreset_mode=mode)
    others = VirtualVectorEnv(server.url, SCRIPTED, num_envs=3, autoreset_mode=mode)
    step = envs.step

    def step_after_a_look(actions: Any) -> Any:
        opened = envs._remotes[0].link.opened
        path, names = f"/v1/sessions/{opened.session}/step", {"Session-Secret": opened.secret}
        assert request(server.url, "POST", path, {"seq": 99, "actions": [0, 0, 0]}, names).status == 409
        return step(actions)

    envs.step = step_after_a_look  # type: ignore[method-assign]
    assert_same(vector_trajectory(envs, 20), vector_trajectory(others, 20))
    envs.close()
    others.close()


def test_a_repeat_on_another_connection_gets_the_kept_answer(server: RunningServer, tmp_path: Any) -> None:
    counter = str(tmp_path / "steps")
    with raw(server) as session:
        session.ask(Reset(0, 1, [3], pack_tree({"path": counter})))
        first = session.ask(Step(0, 2), bytes(8))
        again = session.resumed()
        repeated = again.ask(Step(0, 2), bytes(8))
        other = again.ask(Step(0, 2), np.array([1]).tobytes())[0]
        assert (first[0], bytes(first[1])) == (repeated[0], bytes(repeated[1]))
        assert isinstance(other, Refused) and other.code == "seq"
        assert os.path.getsize(counter) == 1
        again.connection.close()


def test_requests_in_pieces_and_control_frames_between_them_are_understood(server: RunningServer) -> None:
    with raw(server) as session:
        session.ask(Reset(0, 1, [3]))
        session.ask(Step(0, 2), bytes(8))
        connection = session.connection
        for byte in connection._frame(0x2, frames.encode(Step(0, 3), bytes(8))):
            connection._socket.sendall(bytes((byte,)))
        assert frames.decode_answer(connection.receive())[0].seq == 3
        connection._socket.sendall(connection._frame(PING, b"hello"))
        assert connection._socket.recv(7, 0x100) == frame_head(PONG, 5) + b"hello"  # MSG_WAITALL
        assert session.ask(Step(0, 4), bytes(8))[0].seq == 4


@pytest.mark.parametrize("action", [0, 1], ids=["the same", "another body"])
def test_a_repeat_of_a_step_whose_answer_died_with_the_worker_steps_nothing(server: RunningServer, action: int) -> None:
    with raw(server) as session:
        session.ask(Reset(0, 1, [3]))
        session.ask(Step(0, 2), bytes(8))
        await_loan(server)
        session.ask(Step(0, 3), bytes(8))  # the worker's answer
        os.kill(worker_pids(server)[-1], signal.SIGKILL)
        with pytest.raises(ConnectionEnded):
            session.connection.receive()
        again = session.resumed()
        told, body = again.ask(Step(0, 3), np.int64(action).tobytes())
        assert "SIGKILL" in unpack_tree(told.infos[0])[0]["multiserverrl"]["fault"]
        assert np.frombuffer(body, np.float64, 2, 8)[0] == 2  # the last observation that was whole
        refused, _ = again.ask(Step(0, 3), np.int64(1 - action).tobytes())
        assert isinstance(refused, Refused) and "another request with the same seq" in refused.message
        assert again.ask(Step(0, 4), bytes(8))[0].seq == 4
        again.connection.close()


def test_the_step_after_the_worker_died_tells_of_it(server: RunningServer) -> None:
    envs = VirtualVectorEnv(server.url, SCRIPTED, num_envs=2, on_fault="truncate")
    envs.reset(seed=1, options={"how": "kill", "at": 3, "seed": 1})
    before = [envs.step(np.zeros(2, int)) for _ in range(2)][-1]
    told = envs.step(np.zeros(2, int))
    assert told[3].all() and all("SIGKILL" in fault for fault in told[4]["multiserverrl"]["fault"])
    assert np.array_equal(told[0], before[0])
    envs.close()


class Wide(gymnasium.Env[Any, Any]):
    """Observations of 1 MB."""

    observation_space = gymnasium.spaces.Box(0, 255, (1 << 20,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1 << 20, np.uint8), {}

    def step(self, action: Any) -> Any:
        return np.full(1 << 20, action, np.uint8), 0.0, False, False, {}


def test_a_client_that_does_not_read_holds_up_no_other_and_gets_all_of_it_later() -> None:
    with serving_from_thread(Wide, count=17) as url:
        slow = RawSession(url, "Env", 16, lanes=[1] * 16)
        for lane in range(16):
            slow.ask(Reset(lane, 1))
        for lane in range(16):
            slow.connection.send(frames.encode(Step(lane, 2), np.array([lane % 2]).tobytes()))
        env = VirtualEnv(url)
        env.reset()
        assert env.step(1)[0].all()
        for lane in range(16):
            told, body = frames.decode_answer(slow.connection.receive())
            assert isinstance(told, Stepped) and told.lane == lane and set(body[8 : 8 + (1 << 20)]) == {lane % 2}
        env.close()
        slow.ask(Close(0, 3))
        slow.connection.close()


def test_a_hanging_step_ends_with_the_worker_past_the_deadline() -> None:
    with serving(SCRIPTED, count=1, workers=1, step_deadline_s=0.3) as running:
        envs = VirtualVectorEnv(running.url, num_envs=1, on_fault="truncate")
        envs.reset(options={"how": "spin", "at": 2})
        envs.step(np.zeros(1, int))
        told = envs.step(np.zeros(1, int))
        assert told[3].all() and "deadline" in told[4]["multiserverrl"]["fault"][0]
        envs.close()


class SlowToRender(Wide):
    """Renders when it is let."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - gymnasium's own way
    asked, may_render = threading.Event(), threading.Event()

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> str:
        self.asked.set()
        self.may_render.wait(20)
        return "drawn"


def test_a_session_that_is_closed_while_its_request_runs_is_not_lent_again() -> None:
    with serving_from_thread(SlowToRender) as url:
        session = RawSession(url, "Env", render_mode="ansi")
        session.ask(Reset(0, 1))
        session.connection.send(frames.encode(Render(0, 2)))
        assert SlowToRender.asked.wait(20)
        opened, told = session.opened, []
        path, names = f"/v1/sessions/{opened.session}", {"Session-Secret": opened.secret}
        closing = threading.Thread(target=lambda: told.append(request(url, "DELETE", path, headers=names).status))
        closing.start()
        while request(url, "POST", f"{path}/render", {"seq": 9}, names).status != 410:
            os.sched_yield()  # until the session is gone for others
        SlowToRender.may_render.set()
        assert frames.decode_answer(session.connection.receive())[0].seq == 2
        refused = session.ask(Step(0, 3), bytes(8))[0]
        assert isinstance(refused, Refused) and refused.code == "session_lost"
        closing.join(20)
        assert told == [200]
        session.connection.close()


def test_a_repeat_that_waited_for_its_step_is_answered_before_the_connection_is_lent(server: RunningServer) -> None:
    with raw(server) as session:
        stale = frames.encode(Reset(0, 1))
        session.ask_raw(stale)
        for seq in range(2, 20):
            step = frames.encode(Step(0, seq), bytes(8))
            # what is stale takes the connection back to the front, with all that has come behind it
            session.connection._socket.sendall(
                b"".join(
                    session.connection._frame(BINARY, one) for one in (frames.encode(Reset(0, seq - 2)), step, step)
                )
            )
            assert frames.decode_answer(session.connection.receive())[0].code == "seq"  # type: ignore[union-attr]
            first = bytes(session.connection.receive())
            assert bytes(session.connection.receive()) == first


def test_a_loan_that_cannot_be_settled_costs_its_own_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lane: Lane, kept: Any) -> bytes:
        raise RuntimeError("the books do not agree")

    with serving_from_thread(Wide) as url:
        session, other = RawSession(url, "Env"), VirtualEnv(url)
        other.reset()
        session.ask(Reset(0, 1))
        monkeypatch.setattr(Lane, "take_back", fail)
        opened = session.opened
        path, names = f"/v1/sessions/{opened.session}", {"Session-Secret": opened.secret}
        assert (
            request(url, "POST", f"{path}/step", {"seq": 99, "action": 0}, names).status == 409
        )  # nobody is left waiting
        with pytest.raises(OSError, match=r"."):
            session.connection.receive()
        session.connection.drop()
        monkeypatch.undo()
        assert other.step(1)[0].all()
        other.close()
