"""Observations by the server's shared memory: the same ones, whatever happens; and by TCP where it cannot be."""

import gc
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from multiserverrl.client import envs as client_envs
from multiserverrl.client import shared
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.shared import SharedBodies
from multiserverrl.client.transport import ConnectionEnded
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import SessionLost, WireError
from multiserverrl.memory import Block, host_id
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import (
    assert_same,
    trajectory,
    vector_never_overwrites_what_it_gave,
    vector_trajectory,
)
from multiserverrl.testing.envs import Scripted, count_of
from multiserverrl.testing.relay import Cut, Relay
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Open, Reset, SharedBlock, Step, Stepped
from tests.server.support import RawSession, request

SCRIPTED, DICT = "multiserverrl.testing.envs:Scripted", "multiserverrl.testing.envs:DictObs"

pytestmark = pytest.mark.skipif(not host_id(), reason="this system has no memory files that others can open")


@pytest.fixture(scope="module")
def lone() -> Iterator[str]:
    """A server whose only env worker answers every client by itself."""
    with serving(SCRIPTED, DICT, count=20, workers=1) as running:
        yield running.url


@pytest.fixture(params=[1, 2])
def either(request: pytest.FixtureRequest, lone: str, url: str) -> str:
    """A server with one env worker, or with two that share every lane of several envs."""
    return lone if request.param == 1 else url


@pytest.fixture(autouse=True)
def small_bodies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LEAST_BODY_BYTES", 1)


def mapped_blocks() -> int:
    """Lanes' blocks that this process maps."""
    return Path("/proc/self/maps").read_text().count("memfd:multiserverrl-lane")


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("env_id", [SCRIPTED, DICT])
def test_everything_is_what_tcp_gives(either: str, env_id: str, mode: str, lanes: int) -> None:
    told = []
    for is_shared in (True, False):
        envs = VirtualVectorEnv(either, env_id, num_envs=5, autoreset_mode=mode, lanes=lanes, shared_memory=is_shared)
        assert envs.uses_shared_memory == is_shared
        told.append(vector_trajectory(envs, 20))
        envs.close()
    assert_same(*told)


@pytest.mark.parametrize("env_id", [SCRIPTED, DICT])
def test_a_single_env_is_what_it_is_by_tcp(either: str, env_id: str) -> None:
    with VirtualEnv(either, env_id) as env, VirtualEnv(either, env_id, shared_memory=False) as other:
        assert env.uses_shared_memory and not other.uses_shared_memory
        assert_same(trajectory(env, 20), trajectory(other, 20))


def test_what_was_handed_out_is_never_written_over_and_is_the_callers_own(either: str) -> None:
    def make() -> VectorEnv[Any, Any, Any]:
        return VirtualVectorEnv(either, DICT, num_envs=3)

    vector_never_overwrites_what_it_gave(make, make)
    envs = VirtualVectorEnv(either, SCRIPTED, num_envs=3)
    obs, _ = envs.reset(seed=1)
    obs[:] = -1
    assert (envs.step(np.zeros(3, int))[0] >= 0).all() and (obs == -1).all()
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


def test_large_observations_do_not_pass_the_wire_and_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with serving_from_thread(Wide, count=2) as served, Relay(served) as relay:
        envs = VirtualVectorEnv(relay.url, num_envs=2)
        assert envs.uses_shared_memory
        envs.reset()
        relay.cut(Cut("reply", 20_000))
        for step in range(10):
            assert (envs.step(np.array([step % 2, 1]))[0] == [[step % 2], [1]]).all()
        assert relay.cuts_done == 0
        envs.close()
    with serving_from_thread(Scripted, count=1) as served, VirtualEnv(served) as env:
        assert not env.uses_shared_memory


def another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_envs, "host_id", lambda: "another")


def another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_envs, "host_id", lambda: "")


def another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, size_bytes: int) -> Block:
        raise PermissionError(path)

    monkeypatch.setattr(shared, "open_foreign", refused)


def another_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_foreign", lambda path, size_bytes: Block.create(size_bytes, "other"))


@pytest.mark.parametrize("stand", [another_host, another_system, another_user, another_container])
def test_whatever_stands_in_the_way_means_tcp_without_a_word(
    either: str, monkeypatch: pytest.MonkeyPatch, stand: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with VirtualEnv(either, SCRIPTED, shared_memory=False) as env:
        by_tcp = trajectory(env, 9)
    stand(monkeypatch)
    with VirtualEnv(either, SCRIPTED) as env:
        assert not env.uses_shared_memory
        assert_same(trajectory(env, 9), by_tcp)


def test_an_operator_can_forbid_it() -> None:
    with serving_from_thread(Scripted, count=1, shared_memory=False) as served, VirtualEnv(served) as env:
        assert not env.uses_shared_memory
        env.reset(seed=1)
        assert env.step(0)[0][0] == 1


def test_a_connection_cut_anywhere_costs_nothing(either: str, tmp_path: Path) -> None:
    counter = tmp_path / "steps"
    with Relay(either) as relay, VirtualEnv(either, SCRIPTED, shared_memory=False) as twin:
        for direction in ("request", "reply"):
            envs = VirtualVectorEnv(relay.url, SCRIPTED, num_envs=2)
            local = VirtualVectorEnv(either, SCRIPTED, num_envs=2, shared_memory=False)
            assert envs.uses_shared_memory
            envs.reset(seed=1, options={"path": str(counter)})
            local.reset(seed=1, options={})
            before = count_of(counter)
            for step in range(12):
                relay.cut(Cut(direction, 3 * step))
                assert_same(envs.step(np.array([0, 1]))[:4], local.step(np.array([0, 1]))[:4])
            assert relay.cuts_done > 0 and envs._remotes[0].link.reconnects > 0
            assert count_of(counter) - before == 2 * (12 - 1)  # one of the twelve resets
            envs.close()
            local.close()
        twin.reset()


def test_an_answer_that_is_there_no_more_is_asked_for_again(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = VirtualVectorEnv(either, SCRIPTED, num_envs=2)
    first = envs.reset(seed=1)[0]
    link, failures = envs._remotes[0].link, [True, True]
    body = link.shared.body

    def unlucky(answer: Stepped) -> memoryview:
        if failures and failures.pop():
            raise ConnectionEnded("written over")
        return body(answer)

    monkeypatch.setattr(link.shared, "body", unlucky)
    steps = envs.step(np.zeros(2, int))[0][:, 0]
    assert (steps == first[:, 0] + 1).all() and link.reconnects == 2
    envs.close()


def test_a_killed_worker_is_a_fault_as_ever_and_the_block_lives_on(either: str) -> None:
    envs = VirtualVectorEnv(either, SCRIPTED, num_envs=2, on_fault="truncate")
    envs.reset(seed=1, options={"how": "kill", "at": 3})
    before = [envs.step(np.zeros(2, int)) for _ in range(2)][-1]
    told = envs.step(np.zeros(2, int))
    assert told[3].all() and all("SIGKILL" in fault for fault in told[4]["multiserverrl"]["fault"])
    assert_same(told[0], before[0])
    envs.reset(seed=5, options={})
    assert (envs.step(np.zeros(2, int))[0][:, 0] == 1).all() and envs.uses_shared_memory
    envs.close()


def test_a_worker_that_dies_between_the_answer_and_its_body_has_stepped_once_and_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "steps"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(shared, "_PATIENCE_S", 0.1)
    with serving("dying_envs:DiesBehind", count=2, workers=1) as server:
        envs = VirtualVectorEnv(server.url, num_envs=2, on_fault="truncate")
        assert envs.uses_shared_memory
        envs.reset(seed=1, options={"behind": 3, "path": str(counter)})
        before = [envs.step(np.zeros(2, int)) for _ in range(2)][-1]
        told = envs.step(np.zeros(2, int))
        assert told[3].all() and all("SIGKILL" in fault for fault in told[4]["multiserverrl"]["fault"])
        assert_same(told[0], before[0])
        assert count_of(counter) == 2 * 3
        envs.reset(seed=1, options={})
        assert (envs.step(np.zeros(2, int))[0][:, 0] == 1).all()
        envs.close()


def test_a_session_opened_anew_maps_anew_and_none_stays_mapped(either: str) -> None:
    gc.collect()  # what other tests left
    descriptors, before = len(os.listdir("/proc/self/fd")), mapped_blocks()
    envs = VirtualVectorEnv(either, SCRIPTED, num_envs=4, lanes=2)
    for _ in range(3):
        envs.reset(seed=1)
        envs.step(np.zeros(4, int))
        assert mapped_blocks() == before + 2
        opened = envs._remotes[0].link.opened
        names = {"Session-Secret": opened.secret}
        assert request(either, "DELETE", f"/v1/sessions/{opened.session}", headers=names).status == 200
        with pytest.raises(SessionLost):
            envs.step(np.zeros(4, int))
        assert mapped_blocks() == before and not envs.uses_shared_memory
    envs.close()
    assert mapped_blocks() == before and len(os.listdir("/proc/self/fd")) == descriptors


def test_a_copy_wants_of_shared_memory_what_its_origin_wanted(lone: str) -> None:
    for is_shared in (True, False):
        with VirtualEnv(lone, SCRIPTED, shared_memory=is_shared) as env:
            with pickle.loads(pickle.dumps(env)) as other:  # noqa: S301 - our own
                assert other.uses_shared_memory == is_shared
        envs = VirtualVectorEnv(lone, SCRIPTED, num_envs=2, shared_memory=is_shared)
        others = pickle.loads(pickle.dumps(envs))  # noqa: S301 - our own
        assert others.uses_shared_memory == is_shared
        others.close()
        envs.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_repeat_speaks_of_the_same_body_which_is_still_there(url: str, lone: str, workers: int) -> None:
    session = RawSession(lone if workers == 1 else url, SCRIPTED, 2, host=host_id())
    bodies = SharedBodies(session.opened.blocks, 1)
    session.ask(Reset(0, 1, [3, 4], by_block=True))
    for seq in (2, 3, 4):
        told, body = session.ask(Step(0, seq, by_block=True), bytes(16))
        assert told.block_body in (0, 1) and not len(body)
        kept = bytes(bodies.body(told))
        again = session.resumed()
        repeated, _ = again.ask(Step(0, seq, by_block=True), bytes(16))
        assert repeated == told and bytes(bodies.body(repeated)) == kept
        session.connection.close()
        session = again
    inline = session.ask(Step(0, 5), bytes(16))  # who does not ask for it gets the body
    assert inline[0].block_body == -1 and len(inline[1]) == len(kept)
    with pytest.raises(ConnectionEnded, match="seq 4"):
        bodies.body(told)
    bodies.close()
    names = {"Session-Secret": session.opened.secret}
    request(session.url, "DELETE", f"/v1/sessions/{session.opened.session}", headers=names)
    session.connection.close()


def test_over_http_no_block_is_shown(server: RunningServer) -> None:
    kind = {"Content-Type": "application/vnd.multiserverrl.frame"}
    opened = frames.decode_answer(
        request(
            server.url, "POST", "/v1/sessions", frames.encode(Open(1, SCRIPTED, 1, "none", host=host_id())), kind
        ).content
    )[0]
    assert opened.blocks == []
    request(server.url, "DELETE", f"/v1/sessions/{opened.session}", headers={"Session-Secret": opened.secret})


@pytest.fixture
def made() -> Iterator[Block]:
    """A block such as a server has: two bodies of 64 bytes, then the seq answered last (3) and the nonce (99)."""
    made = Block.create(160, "lane")
    made.buffer[:64], made.buffer[64:128] = b"a" * 64, b"b" * 64
    made.array(np.int64, (2,), 128)[:] = 3, 99
    yield made
    made.close()


@pytest.fixture
def block(made: Block) -> SharedBlock:
    """The same as a server shows it."""
    return SharedBlock(made.handle.name, 160, 64, [0, 64], 128, 136, 99)


def test_a_body_is_copied_out_of_the_block_that_it_is_in(block: SharedBlock) -> None:
    bodies = SharedBodies([block], 1)
    assert bytes(bodies.body(Stepped(0, 3, block_body=1))) == b"b" * 64
    with pytest.raises(WireError):
        bodies.body(Stepped(0, 3, block_body=2))
    bodies.close()
    with pytest.raises(WireError):
        bodies.body(Stepped(0, 3, block_body=1))


def test_an_answer_that_comes_before_its_body_is_waited_for(made: Block, block: SharedBlock) -> None:
    bodies = SharedBodies([block], 1)

    def write() -> None:
        made.buffer[64:128] = b"c" * 64
        made.array(np.int64, (1,), 128)[0] = 4

    writing = threading.Timer(0.05, write)
    writing.start()
    assert bytes(bodies.body(Stepped(0, 4, block_body=1))) == b"c" * 64
    writing.join()
    bodies.close()


def test_a_body_that_never_comes_or_is_written_over_is_a_broken_connection(
    block: SharedBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = SharedBodies([block], 1)
    with pytest.raises(ConnectionEnded, match="seq 2"):
        bodies.body(Stepped(0, 2, block_body=1))
    monkeypatch.setattr(shared, "_PATIENCE_S", 0.0)
    with pytest.raises(ConnectionEnded, match="seq 4"):
        bodies.body(Stepped(0, 4, block_body=1))
    bodies.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": 98},
        {"path": "/proc/1/mem"},
        {"path": "/etc/passwd"},
        {"path": "/proc/999999999/fd/3"},
        {"size_bytes": 1 << 20},
        {"bodies": [-64, 0]},
        {"bodies": [0, 128]},
        {"nonce_at": 1 << 40},
        {"body_bytes": 0},
        {"body_bytes": -1},
    ],
)
def test_a_block_that_is_not_as_it_is_told_is_not_used(block: SharedBlock, wrong: dict[str, Any]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    bodies = SharedBodies([msgspec.structs.replace(block, **wrong)], 1)
    assert bodies.in_use == [False]
    assert len(os.listdir("/proc/self/fd")) == before
