"""Child processes of the channel tests: one function each, started as the launcher starts its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from multiserverrl.launch.channels import Channels, ChannelsHandle
from multiserverrl.processes import Child, start_child
from multiserverrl.train.channels import Answer, RawSteps

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def child_of(channels: Channels, function: str) -> Iterator[Child]:
    """A child that runs a function of this file on the channels; killed at the end if it still runs."""
    child = start_child(
        f"tests.launch.children:{function}",
        msgspec.json.encode(channels.handle),
        name=function,
        fds=channels.handle.fds,
        environment={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        yield child
    finally:
        child.kill()


def steps_of(number: int, group: int, num_envs: int) -> RawSteps:
    """Steps that all bear one number, so that a torn or mixed slot shows."""
    return RawSteps(
        group=group,
        obs=np.full((num_envs, 4), number, np.float32),
        action=np.full(num_envs, number, np.int64),
        reward=np.full(num_envs, number, np.float32),
        terminated=np.full(num_envs, number % 2 == 0),
        truncated=np.full(num_envs, number % 3 == 0),
        next_obs=np.full((num_envs, 4), number + 1, np.float32),
        valid=np.full(num_envs, number % 5 != 0),
        weights_version=number,
    )


def publish_for_ever(config: bytes, fds: list[int]) -> None:
    """Publish snapshots whose every number is their version, as fast as it goes."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    writer, control = channels.weights_writer(), channels.control(0)
    version = 0
    while not control.is_stopping():
        version += 1
        writer.publish({"a": np.full((64, 64), version, np.float32), "b": np.full(9, version, np.float64)}, version)
        if version == 100:
            control.ready()


def write_steps_of_group_0_for_ever(config: bytes, fds: list[int]) -> None:
    """Write numbered steps until the run stops; ready once the ring is full for the first time."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    writer, control = channels.step_writer([0]), channels.control(0)
    number = 0
    while not control.is_stopping():
        if not writer.write(steps_of(number, 0, 3), timeout_s=0.0):
            control.ready()
            if not writer.write(steps_of(number, 0, 3), timeout_s=60.0):
                return
        number += 1


def write_300_steps_of_group_1(config: bytes, fds: list[int]) -> None:
    """Write steps 0 to 299; exit code 3 when there was no room for too long."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    writer = channels.step_writer([1])
    for number in range(300):
        if not writer.write(steps_of(number, 1, 2), timeout_s=60.0):
            os._exit(3)


def answer_with_the_sum_of_each_observation(config: bytes, fds: list[int]) -> None:
    """An inference server."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    server, control = channels.action_server(), channels.control(0)
    control.ready()
    while not control.is_stopping():
        for request in server.requests(timeout_s=60.0):
            server.answer(request.group, Answer(request.obs.sum(axis=1).astype(np.int64), weights_version=7))


def take_requests_and_never_answer(config: bytes, fds: list[int]) -> None:
    """An inference server that is to be killed with a request in its hands."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    server, control = channels.action_server(), channels.control(0)
    if server.requests(timeout_s=60.0):
        control.ready()
    control.wait_until_started()


def wait_for_the_gate(config: bytes, fds: list[int]) -> None:
    """Exit code 10 when the run started, 11 when it stopped instead."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    control = channels.control(0)
    control.ready()
    os._exit(10 if control.wait_until_started() else 11)


def read_for_an_hour(config: bytes, fds: list[int]) -> None:
    """A learner whom no steps reach; exit code 12 when its wait was ended by the stop."""
    channels = Channels.open(msgspec.json.decode(config, type=ChannelsHandle))
    reader, control = channels.step_reader(), channels.control(0)
    control.ready()
    assert reader.read(timeout_s=3600.0) is None
    os._exit(12 if control.is_stopping() else 13)
