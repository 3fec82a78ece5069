"""Compression and checksums, agreed on by real clients and servers, over wires that flip bits."""

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from multiserverrl.client.coding import CodedConnection, Wanted, connect
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, WireError
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import Pictures, Scripted, count_of
from multiserverrl.testing.relay import Cut, Flip, Relay
from multiserverrl.testing.serving import serving
from multiserverrl.wire import frames
from multiserverrl.wire.coding import CLOSED_DAMAGED, HEADER, Codec, Coding
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open
from tests.client.conftest import ENVS

SCRIPTED, PICTURES = f"{ENVS}:Scripted", f"{ENVS}:Pictures"
LONG = 10_000
HEAD_BITS = 16  # of a short WebSocket frame: what kind it is, and its length


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    with Relay(url) as running:
        yield running


@pytest.fixture
def counter(tmp_path: Path) -> str:
    """The file in which the real env counts its steps."""
    return str(tmp_path / "steps")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of this test are on another host, as far as clients can see."""
    monkeypatch.setattr("multiserverrl.client.coding.is_same_host", lambda connected: False)


def connection_of(env: VirtualEnv) -> Connection:
    connection = env._remote.link._connection
    assert connection is not None
    return connection


def coding_of(env: VirtualEnv) -> Coding:
    connection = connection_of(env)
    return connection.coding if isinstance(connection, CodedConnection) else Coding()


def local_steps(num_steps: int) -> list[Any]:
    env = Scripted()
    env.reset(seed=1, options={"length": LONG})
    return [env.step(np.int64(step % 2)) for step in range(num_steps)]


# -- what is agreed on -------------------------------------------------------------------------------


def test_on_the_same_host_nothing_is_asked_for_and_nothing_is_compressed(relay: Relay) -> None:
    env = VirtualEnv(relay.url, PICTURES, shared_memory=False)
    env.reset(seed=1)
    assert type(connection_of(env)) is Connection
    assert HEADER.encode() not in relay.requested()
    assert relay.passed_bytes["reply"] > 84 * 84 * 4
    env.close()


@pytest.mark.usefixtures("elsewhere")
def test_images_from_another_host_are_compressed_and_the_same(relay: Relay) -> None:
    env, local = VirtualEnv(relay.url, PICTURES), Pictures()
    told, expected = [env.reset(seed=1)], [local.reset(seed=1)]
    opening = relay.passed_bytes["reply"]
    told += [env.step(step % 3) for step in range(40)]
    expected += [local.step(np.int64(step % 3)) for step in range(40)]
    assert_same(told, expected)
    assert relay.passed_bytes["reply"] - opening < 40 * 84 * 84 * 4 / 20
    obs = told[-1][0]
    obs[:] = 0  # the caller's own, as ever
    assert coding_of(env) == Coding(compression=True)
    env.close()


@pytest.mark.usefixtures("elsewhere")
def test_short_messages_from_another_host_are_sent_as_they_are(relay: Relay) -> None:
    env = VirtualEnv(relay.url, "CartPole-v1")
    env.reset(seed=1)
    before = dict(relay.passed_bytes)
    env.step(0)
    plain = VirtualEnv(relay.url, "CartPole-v1", compression=False)
    plain.reset(seed=1)
    middle = dict(relay.passed_bytes)
    plain.step(0)
    assert type(connection_of(plain)) is Connection
    end = relay.passed_bytes
    for direction in ("request", "reply"):
        assert end[direction] - middle[direction] <= middle[direction] - before[direction]
    env.close()
    plain.close()


def test_short_answers_need_the_env_worker_alone_where_compression_is_agreed_on(server: RunningServer) -> None:
    env, long = VirtualEnv(server.url, SCRIPTED, compression="zstd", timeout_s=60), {"ballast": np.zeros(5000)}
    env.reset(seed=1, options={"length": LONG, **long})
    told = [env.step(0)]
    os.kill(server.pids()[0], signal.SIGSTOP)
    try:
        told += [env.step(step % 2) for step in range(1, 4)]
    finally:
        os.kill(server.pids()[0], signal.SIGCONT)
    assert_same(told, local_steps(4))
    assert env.reset(seed=1, options={"length": LONG, **long})[1]["options"] == ["ballast", "length"]  # compressed
    assert_same([env.step(step % 2) for step in range(3)], local_steps(3))
    env.close()


@pytest.mark.parametrize("asked", [True, "zstd"])
@pytest.mark.parametrize("granted", [True, False])
def test_compression_is_used_where_the_server_grants_it(asked: Any, granted: bool) -> None:
    with serving(SCRIPTED, count=1, compression=granted) as server:
        env = VirtualEnv(server.url, compression=asked)
        assert coding_of(env) == Coding(compression=granted)
        env.reset(seed=1, options={"length": LONG, "ballast": np.zeros(5000)})
        assert_same([env.step(step % 2) for step in range(3)], local_steps(3))
        env.close()


def test_an_older_server_compresses_nothing_and_is_refused_where_checksums_are_wanted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiserverrl.client.coding.HEADER", "Not-Known-There")
    env = VirtualEnv(url, SCRIPTED, compression=True)
    assert coding_of(env) == Coding()
    env.reset(seed=1, options={"length": LONG})
    assert_same([env.step(step % 2) for step in range(3)], local_steps(3))
    env.close()
    with pytest.raises(ConfigError, match="checksum=True"):
        VirtualEnv(url, SCRIPTED, checksum=True)


@pytest.mark.parametrize("compression", ["gzip", 7, ""])
def test_another_compression_is_refused_before_anything_is_opened(compression: Any) -> None:
    with pytest.raises(ConfigError, match="compression must be 'zstd'"):
        VirtualEnv("http://127.0.0.1:9", compression=compression)
    with pytest.raises(ConfigError, match="compression must be 'zstd'"):
        VirtualVectorEnv("http://127.0.0.1:9", compression=compression)


def test_a_copy_asks_for_the_same(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED, compression="zstd", checksum=True)
    again = copy.copy(env)
    assert coding_of(env) == coding_of(again) == Coding(True, True)
    env.close()
    again.close()


# -- damage ------------------------------------------------------------------------------------------


def sent_bits(relay: Relay, env: VirtualEnv, direction: str) -> int:
    """How many bits a step's message has on the wire."""
    before = relay.passed_bytes[direction]
    env.step(0)
    return 8 * (relay.passed_bytes[direction] - before)


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_not_one_flipped_bit_of_a_step_is_a_wrong_step_and_the_session_goes_on(
    relay: Relay, counter: str, direction: str
) -> None:
    env = VirtualEnv(relay.url, SCRIPTED, checksum=True, timeout_s=0.3)
    env.reset(seed=1, options={"length": LONG})
    bits = sent_bits(relay, env, direction)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    told = []
    for bit in range(bits):
        relay.flip(Flip(direction, bit))
        told.append(env.step(bit % 2))
        assert relay.flips_done == bit + 1, "the bit lies in the message of this step"
    assert_same(told, local_steps(bits))
    assert count_of(counter) == bits > 300
    env.close()


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_a_flipped_bit_of_the_handshake_that_mends_a_connection_ends_no_session(
    relay: Relay, counter: str, direction: str
) -> None:
    env = VirtualEnv(relay.url, SCRIPTED, checksum=True, timeout_s=0.3)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    told = []
    for number in range(24):
        relay.cut_now("rst")
        relay.flip(Flip(direction, 97 * number))
        told.append(env.step(number % 2))
    assert_same(told, local_steps(24))
    assert count_of(counter) == 24
    env.close()


def test_without_checksums_a_flipped_bit_is_a_wrong_observation(relay: Relay) -> None:
    env = VirtualEnv(relay.url, SCRIPTED)
    env.reset(seed=1, options={"length": LONG})
    last = sent_bits(relay, env, "reply")
    relay.flip(Flip("reply", last - 8 * 24 + 51))
    assert env.step(1)[0].tolist() != local_steps(2)[1][0].tolist()
    env.close()


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_lanes_in_flight_together_survive_a_flip_in_any_of_them(relay: Relay, counter: str, direction: str) -> None:
    envs = VirtualVectorEnv(relay.url, SCRIPTED, 4, lanes=[1, 1, 2], checksum=True, timeout_s=0.3)
    envs.reset(seed=1, options={"length": LONG, "path": counter})
    for number in range(9):
        relay.flip(Flip(direction, 8 * 13 * number + number % 8 + HEAD_BITS))
        assert envs.step(np.zeros(4, np.int64))[0][:, 0].tolist() == [number + 1] * 4
    assert relay.flips_done >= 7
    assert count_of(counter) == 4 * 9
    envs.close()


def test_a_damaged_compressed_image_is_asked_for_again(relay: Relay) -> None:
    env = VirtualEnv(relay.url, PICTURES, compression="zstd", checksum=True, shared_memory=False)
    local = Pictures()
    told, expected = [env.reset(seed=1)], [local.reset(seed=1)]
    for number in range(12):
        relay.flip(Flip("reply", 100 + 31 * number))
        told.append(env.step(number % 3))
        expected.append(local.step(np.int64(number % 3)))
    assert_same(told, expected)
    assert relay.flips_done == relay.connections - 1 == 12
    env.close()


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_a_cut_costs_a_coded_session_nothing(relay: Relay, counter: str, direction: str) -> None:
    env = VirtualEnv(relay.url, SCRIPTED, compression="zstd", checksum=True)
    env.reset(seed=1, options={"length": LONG, "path": counter})
    told = []
    for number, byte in enumerate(range(0, 40, 5)):
        relay.cut(Cut(direction, byte))
        told.append(env.step(number % 2))
    assert_same(told, local_steps(8))
    assert count_of(counter) == 8
    env.close()


def test_a_request_that_is_too_large_is_refused_with_checksums_too(url: str) -> None:
    with serving(SCRIPTED, count=1, max_message_bytes=4096) as server:
        env = VirtualEnv(server.url, checksum=True, compression="zstd")
        env.reset(seed=1, options={"length": LONG})
        for ballast in (np.random.default_rng(1).random(10_000), np.zeros(10_000)):  # the second shrinks to little
            with pytest.raises(WireError, match="--max-message-bytes"):
                env.reset(options={"ballast": ballast})
        env.reset(seed=1, options={"length": LONG})
        assert_same([env.step(0)], local_steps(1))
        env.close()


# -- the server's door -------------------------------------------------------------------------------


def close_code(connection: Connection) -> int:
    with pytest.raises(ConnectionEnded) as ended:
        connection.receive()
    connection.drop()
    return ended.value.close_code


BOMB = b"M\x01\x02\0\0\0\0\0" + zstandard.ZstdCompressor(1).compress(bytes(1 << 28))
OPENING = frames.encode(Open(PROTOCOL_VERSION, SCRIPTED))
DOOR = {
    "a bomb": (Wanted("zstd"), BOMB, 1009),
    "no zstd": (Wanted("zstd"), b"M\x01\x02\0\0\0\0\0" + os.urandom(99), 4002),
    "compressed unasked": (Wanted(False, checksum=True), BOMB + b"1234", CLOSED_DAMAGED),
    "another checksum": (Wanted(False, checksum=True), OPENING + bytes(4), CLOSED_DAMAGED),
    "no checksum": (Wanted(False, checksum=True), OPENING, CLOSED_DAMAGED),
    "a checksum unasked": (Wanted("zstd"), Codec(Coding(checksum=True), 1 << 20).encode(OPENING), 4002),
}


@pytest.mark.parametrize(("wanted", "frame", "code"), DOOR.values(), ids=DOOR)
def test_what_was_not_agreed_on_and_bombs_close_the_connection(
    url: str, wanted: Wanted, frame: bytes, code: int
) -> None:
    connection = connect(Address.parse(url), 10, wanted)
    connection.set_timeout(10)
    Connection.send(connection, frame)
    assert close_code(connection) == code
    env = VirtualEnv(url, SCRIPTED)  # the server lives on
    env.close()


@pytest.mark.parametrize("coding", [Coding(compression=True), Coding(checksum=True)], ids=str)
def test_a_connection_that_agreed_on_nothing_takes_plain_frames_only(url: str, coding: Coding) -> None:
    connection = connect(Address.parse(url), 10, Wanted())
    connection.set_timeout(10)
    connection.send(Codec(coding, 1 << 20).encode(frames.encode(Open(PROTOCOL_VERSION, SCRIPTED, owner="o" * 2000))))
    refused: Any = frames.decode_answer(connection.receive())[0]
    assert (refused.code, "not agreed on" in refused.message) == ("wire", True)
    connection.close()
