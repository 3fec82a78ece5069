"""Exactly once, whatever the wire does: real sessions through a relay that cuts, stalls, chops and repeats."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import (
    PeerError,
    SeqError,
    ServerFull,
    ServerUnreachable,
    SessionLost,
    SessionTaken,
    WireError,
)
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import Scripted, count_of
from multiserverrl.testing.relay import Cut, Relay
from multiserverrl.testing.serving import serving
from tests.client.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"
LONG = 10_000


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    with Relay(url) as running:
        yield running


@pytest.fixture
def counter(tmp_path: Path) -> str:
    """The file in which the real env counts its steps."""
    return str(tmp_path / "steps")


def local_steps(num_steps: int, seed: int = 1) -> list[Any]:
    env = Scripted()
    env.reset(seed=seed, options={"length": LONG})
    return [env.step(np.int64(step % 2)) for step in range(num_steps)]


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
@pytest.mark.parametrize(("direction", "last_byte"), [("request", 48), ("reply", 80)])
def test_a_cut_at_any_byte_of_a_step_costs_nothing(
    relay: Relay, counter: str, direction: str, last_byte: int, how: str
) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    told = []
    for byte in range(last_byte):
        relay.cut(Cut(direction, byte, how))
        told.append(env.step(byte % 2))
    assert relay.cuts_done > last_byte * 0.7  # most positions lie within the message; the last ones in the next
    assert_same(told, local_steps(last_byte))
    assert count_of(counter) == last_byte
    env.close()


def test_a_description_that_is_cut_is_an_error_and_never_half_of_one(relay: Relay) -> None:
    whole, size = describe(relay.url), relay.passed_bytes["reply"]
    for byte in range(0, size, 97):
        relay.cut(Cut("reply", byte, ("fin", "rst", "half")[byte % 3]))
        with pytest.raises(PeerError):
            describe(relay.url)
    assert describe(relay.url) == whole


def test_a_vector_of_envs_is_stepped_once_too(relay: Relay, counter: str) -> None:
    envs = VirtualVectorEnv(relay.url, SCRIPTED, 4)
    envs.reset(seed=1, options={"length": LONG, "path": counter})
    for byte in range(0, 60, 3):
        relay.cut(Cut("reply", byte))
        envs.step_async(np.zeros(4, np.int64))
        assert envs.step_wait()[0][:, 0].tolist() == [byte // 3 + 1] * 4
    assert count_of(counter) == 4 * 20
    envs.close()


def test_a_reset_whose_answer_is_lost_is_answered_all_the_same(relay: Relay) -> None:
    env, local = VirtualEnv(relay.url, SCRIPTED), Scripted()
    relay.cut(Cut("reply", 0))
    assert_same(env.reset(seed=7), local.reset(seed=7))
    assert relay.connections == 2
    env.close()


def test_a_connection_cut_between_steps_is_made_again(relay: Relay, counter: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    told = []
    for step in range(5):
        relay.cut_now("rst" if step % 2 else "fin")
        told.append(env.step(step % 2))
    assert_same(told, local_steps(5))
    assert (count_of(counter), relay.connections) == (5, 6)
    env.close()


def test_one_byte_at_a_time_is_a_message_all_the_same(relay: Relay, counter: str) -> None:
    relay.piece_bytes = 1
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    assert_same([env.step(step % 2) for step in range(10)], local_steps(10))
    assert (count_of(counter), relay.connections) == (10, 1)
    env.close()


def test_a_stalled_wire_is_waited_for_or_left_and_the_step_happens_once(relay: Relay, counter: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED, timeout_s=0.2)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    relay.stall()
    timer = threading.Timer(0.6, relay.flow)
    timer.start()
    told = [env.step(step % 2) for step in range(3)]
    timer.join()
    assert_same(told, local_steps(3))
    assert count_of(counter) == 3
    env.close()


def test_a_request_repeated_on_another_connection_steps_nothing(relay: Relay, counter: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    relay.cut(Cut("reply", 0))
    env.step(0)
    again = relay.requested()  # the second connection: upgrade, resume, and the step once more
    assert b"stepped" in relay.replay(again, until=b"stepped")
    assert count_of(counter) == 1
    with pytest.raises(SessionTaken):
        env.step(1)
    env.close()


def test_a_newer_connection_takes_the_session_over_and_the_older_is_fenced(url: str, counter: str) -> None:
    older = VirtualEnv(url, SCRIPTED)
    older.reset(seed=1, options={"length": LONG, "path": counter})
    newer = VirtualEnv(url, SCRIPTED)
    newer.reset(seed=1)
    stolen, link = older._remote.link, newer._remote.link
    link.close()
    link.opened, link.lanes, link._ended = stolen.opened, [type(stolen.lanes[0])()], None
    link.lanes[0].seq = stolen.lanes[0].seq
    told = [newer.step(0)]
    for _ in range(2):
        with pytest.raises(SessionTaken):
            older.step(1)
    told.append(newer.step(1))
    assert_same(told, local_steps(2))
    assert count_of(counter) == 2
    older.reset(seed=1)  # a session of its own
    assert older.step(0)[0][0] == 1
    assert newer.step(0)[0][0] == 3
    older.close()
    newer.close()


def test_a_repeat_while_the_step_runs_waits_for_that_same_step(relay: Relay, counter: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter, "how": "sleep", "at": 1, "sleep_s": 0.4})
    timer = threading.Timer(0.15, relay.cut_now)
    timer.start()
    told = env.step(0)
    timer.join()
    assert relay.connections == 2
    assert_same(told, local_steps(1)[0])
    assert count_of(counter) == 1
    env.close()


def test_a_ctrl_c_in_a_step_loses_nothing_that_the_next_reset_needs(url: str, counter: str) -> None:
    env = VirtualEnv(url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG, "path": counter, "how": "sleep", "at": 1, "sleep_s": 0.5})
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    timer.join()
    with pytest.raises(SeqError, match=r"interrupted.*reset\(\) goes on"):
        env.step(0)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    assert_same([env.step(step % 2) for step in range(3)], local_steps(3))
    assert count_of(counter) == 4
    env.close()


def test_a_ctrl_c_in_a_vectors_step_leaves_its_answer_to_step_wait_and_a_masked_reset_does_not_drop_it(
    url: str,
) -> None:
    envs = VirtualVectorEnv(url, SCRIPTED, 2)
    envs.reset(seed=1, options={"length": LONG, "how": "sleep", "at": 1, "sleep_s": 0.4})
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.zeros(2, np.int64))
    timer.join()
    with pytest.raises(AlreadyPendingCallError, match=r"step_wait\(\).*reset\(\) drops it"):
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(AlreadyPendingCallError, match="take their answers"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.step_wait()[0][:, 0].tolist() == [1, 1]
    assert envs.reset(options={"reset_mask": np.array([True, False])})[0][:, 0].tolist() == [0, 1]
    envs.close()


def test_a_client_that_was_cut_off_still_frees_its_envs_when_it_closes() -> None:
    with serving(SCRIPTED, count=1) as server, Relay(server.url) as relay:
        for _ in range(3):
            env = VirtualEnv(relay.url)
            env.reset()
            relay.cut_now()
            env.close()


def test_no_descriptor_is_leaked_by_fifty_reconnects(relay: Relay) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG})
    env.step(0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        relay.cut(Cut("reply", 0))
        env.step(0)
    assert env._remote.link.reconnects == 50
    env.close()
    assert len(os.listdir("/proc/self/fd")) <= before - 1  # the env's own socket is gone (and the relay's two)


def test_after_its_time_to_live_a_session_is_lost_and_its_envs_are_free(counter: str) -> None:
    with serving(SCRIPTED, count=1, time_to_live_s=0.3) as server, Relay(server.url) as relay:
        env = VirtualEnv(relay.url, on_fault="truncate")
        env.reset(seed=1, options={"length": LONG, "path": counter})
        relay.cut_now()
        other = VirtualEnv(server.url, wait_s=10)  # gets the env as soon as the session has expired
        with pytest.raises(SessionLost, match="not known"):
            env.step(0)
        with pytest.raises(SessionLost):
            env.step(0)
        assert count_of(counter) == 0
        other.close()
        env.reset(seed=1, options={"length": LONG, "path": counter})
        assert_same([env.step(0), env.step(1)], local_steps(2))
        env.close()


def test_a_connected_client_may_pause_beyond_every_time_to_live(counter: str) -> None:
    with serving(SCRIPTED, count=2, time_to_live_s=0.1, idle_s=0.1) as server:
        env = VirtualEnv(server.url)
        env.reset(seed=1, options={"length": LONG, "path": counter})
        for _ in range(3):  # others come and expire meanwhile: that is how long it pauses
            ghost = VirtualEnv(server.url)
            ghost._remote.link._drop()
            VirtualEnv(server.url, wait_s=10).close()
            ghost.close()
        assert_same([env.step(0), env.step(1)], local_steps(2))
        assert env._remote.link.reconnects == 0
        env.close()


def test_when_the_front_was_killed_the_session_is_lost_and_reset_opens_another() -> None:
    with serving(SCRIPTED, count=2) as server:
        env, envs = VirtualEnv(server.url), VirtualVectorEnv(server.url, num_envs=1)
        env.reset(seed=1)
        envs.reset(seed=1)
        os.kill(server.pids()[0], signal.SIGKILL)
        restarting = threading.Event()
        while not restarting.is_set() and server.pids() == (before := server.pids()):
            server.poll()
            if server.pids() != before:
                restarting.set()
        for lost in (lambda: env.step(0), lambda: envs.step(np.array([0]))):
            with pytest.raises(SessionLost):
                lost()
        env.reset(seed=1, options={"length": LONG})
        assert_same([env.step(0), env.step(1)], local_steps(2))
        envs.reset(seed=1)
        env.close()
        envs.close()


def test_a_server_that_is_gone_for_good_is_a_lost_session_and_then_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiserverrl.client.retries.REFUSED_S", 0.1)
    with serving(SCRIPTED, count=1) as server:
        env = VirtualEnv(server.url)
        env.reset(seed=1)
    with pytest.raises(SessionLost, match=r"was stopped|could not be made again"):
        env.step(0)
    with pytest.raises(ServerUnreachable, match="multiserverrl serve"):
        env.reset()
    env.close()


def test_nobody_at_the_address_is_answered_with_the_address_and_what_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable, match=rf"127\.0\.0\.1:{port}.*multiserverrl serve ENV_ID .*--port {port}"):
        VirtualEnv(f"http://127.0.0.1:{port}", "CartPole-v1")


def test_a_server_of_another_kind_is_no_env_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connected, _ = other.accept()
            with connected:
                connected.recv(4096)
                connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WireError, match="is it an env server"):
            VirtualEnv(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()


def test_a_request_that_is_too_large_for_the_server_is_refused_for_good() -> None:
    with serving(SCRIPTED, count=1, max_message_bytes=4096) as server:
        env = VirtualEnv(server.url)
        env.reset()
        with pytest.raises(WireError, match="--max-message-bytes"):
            env.reset(options={"big": np.zeros(10_000)})
        env.close()


def test_a_full_server_says_who_holds_what_and_an_owner_frees_its_own_ghost() -> None:
    with serving(SCRIPTED, count=2) as server:
        ghost = VirtualVectorEnv(server.url, num_envs=2, owner="the-key-of-run-7")
        ghost.reset()
        with pytest.raises(
            ServerFull, match=r"1 environment was asked for, 0 of 2 are free: a session holds 2 while it is"
        ):
            VirtualEnv(server.url)
        ghost._remotes[0].link._drop()
        with pytest.raises(ServerFull, match=r"a session holds 2 for 1[12]\d s at most"):
            VirtualEnv(server.url, wait_s=0.05)
        again = VirtualVectorEnv(server.url, num_envs=2, owner="the-key-of-run-7")
        with pytest.raises(PeerError):
            ghost.step(np.zeros(2, np.int64))
        again.close()
        with pytest.raises(ServerFull, match=r"3 environments were asked for.* 2 in all"):
            VirtualVectorEnv(server.url, num_envs=3)
        ghost.close()
