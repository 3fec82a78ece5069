"""The shared-memory channels, hammered by real processes, some of them killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.launch.bells import wait_for_any
from multiserverrl.launch.channels import ChannelPlan, Channels
from multiserverrl.launch.steps import RingReader
from multiserverrl.train.channels import Answer, Evaluation, RawSteps
from multiserverrl.train.replay import Replay, replay_fields
from multiserverrl.train.task import Task
from tests.launch.children import child_of, steps_of

PLAN = ChannelPlan(
    task=Task(obs_shape=(4,), num_actions=2),
    group_sizes=(3, 2),
    weights={"a": ("float32", (64, 64)), "b": ("float64", (9,))},
    rows=3,
    replay=replay_fields({"reward": ("float32", ())}, 100),
    step_slots=4,
    kept_steps=2,
)


@pytest.fixture
def channels() -> Iterator[Channels]:
    channels = Channels.create(PLAN)
    yield channels
    channels.close()


def take(reader: RingReader, timeout_s: float = 0.0) -> RawSteps | None:
    """Read, and be done with it."""
    steps = reader.read(timeout_s)
    if steps is not None:
        reader.done(steps.group, steps.number)
    return steps


def wait_until_ready(channels: Channels) -> None:
    control = channels.control(0)
    while not control.are_ready([0]):
        assert wait_for_any([channels.launcher_bell], timeout_s=30.0), "the child never said that it is ready"
        channels.launcher_bell.drain()


def test_a_snapshot_is_never_torn_and_versions_never_go_back(channels: Channels) -> None:
    reader = channels.weights_reader()
    seen = []
    with child_of(channels, "publish_for_ever"):
        wait_until_ready(channels)
        deadline_s = time.monotonic() + 20.0
        while len(seen) < 2000 or (len(set(seen)) <= 10 and time.monotonic() < deadline_s):  # the writer has its turns
            snapshot = reader.read()
            assert snapshot is not None
            weights, version = snapshot
            assert (weights["a"] == version).all()
            assert (weights["b"] == version).all()
            seen.append(version)
    assert seen == sorted(seen)
    assert len(set(seen)) > 10  # the writer wrote meanwhile


def test_a_learner_killed_while_it_publishes_leaves_a_whole_snapshot(channels: Channels) -> None:
    with child_of(channels, "publish_for_ever"):
        wait_until_ready(channels)
    snapshot = channels.weights_reader().read()
    assert snapshot is not None
    weights, version = snapshot
    assert (weights["a"] == version).all()
    channels.weights_writer().publish({name: array * 0 for name, array in weights.items()}, version + 1)
    assert channels.weights_reader().version() == version + 1


def test_before_the_first_snapshot_there_is_none(channels: Channels) -> None:
    assert channels.weights_reader().read() is None
    assert channels.weights_reader().version() == 0


def test_weights_of_another_network_are_refused(channels: Channels) -> None:
    with pytest.raises(ValueError, match="on a channel for"):
        channels.weights_writer().publish({"other": np.zeros(1)}, 1)


def test_steps_come_whole_in_order_and_none_is_lost_between_processes(channels: Channels) -> None:
    reader = channels.step_reader()
    with child_of(channels, "write_300_steps_of_group_1") as child:
        for number in range(300):
            steps = take(reader, 30.0)
            assert steps is not None
            expected = steps_of(number, 1, 2)
            assert steps.group == 1
            assert steps.weights_version == number
            for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs", "valid"):
                np.testing.assert_array_equal(getattr(steps, name), getattr(expected, name))
        assert child.wait(30.0) == 0


def test_a_full_ring_refuses_and_writes_nothing(channels: Channels) -> None:
    writer, reader = channels.step_writer([0]), channels.step_reader()
    for number in range(PLAN.step_slots):
        assert writer.write(steps_of(number, 0, 3), timeout_s=0.0)
    assert not writer.write(steps_of(99, 0, 3), timeout_s=0.01)
    read = [take(reader) for _ in range(PLAN.step_slots + 1)]
    assert [steps and steps.weights_version for steps in read] == [0, 1, 2, 3, None]


def test_the_groups_take_turns_so_that_a_fast_one_does_not_starve_another(channels: Channels) -> None:
    writer, reader = channels.step_writer([0, 1]), channels.step_reader()
    for number in range(3):
        writer.write(steps_of(number, 0, 3), timeout_s=0.0)
    writer.write(steps_of(0, 1, 2), timeout_s=0.0)
    groups = [steps.group for steps in iter(lambda: take(reader), None)]
    assert groups == [0, 1, 0, 0]


def test_steps_stay_until_the_learner_is_done_with_them_and_the_last_ones_longer(channels: Channels) -> None:
    writer, reader = channels.step_writer([0, 1]), channels.step_reader()
    for number in range(PLAN.step_slots):
        writer.write(steps_of(number, 0, 3), timeout_s=0.0)
    first = reader.read(timeout_s=0.0)
    again = channels.step_reader().read(timeout_s=0.0)  # of a learner that was started again
    assert first is not None
    assert again is not None
    assert (first.number, again.number, again.weights_version) == (0, 0, 0)
    assert not writer.write(steps_of(4, 0, 3), timeout_s=0.0), "what was read has its room still"
    for number in range(4, 12):
        oldest = take(reader)
        reader.done(0, number - 4)  # said twice: nothing
        assert oldest is not None
        assert oldest.number == number - 4
        assert writer.write(steps_of(number, 0, 3), timeout_s=0.0)
    kept = channels.step_reader().last_done()
    assert [(steps.group, steps.number, steps.weights_version) for steps in kept] == [(0, 6, 6), (0, 7, 7)]
    assert all((steps.obs == steps.number).all() for steps in kept)


def test_what_is_no_steps_name_is_no_room(channels: Channels) -> None:
    reader = channels.step_reader()
    for group, number in [(-1, -1), (0, 0), (0, 5), (7, 0)]:
        reader.done(group, number)
    assert channels.step_writer([0]).write(steps_of(0, 0, 3), timeout_s=0.0)
    assert take(reader) is not None


def test_the_replay_buffer_is_the_launchers_and_outlives_every_learner(channels: Channels) -> None:
    replay = Replay(channels.replay_arrays())
    replay.insert({"reward": np.arange(7, dtype=np.float32)}, (1, 5))
    del replay
    found = Replay(Channels.open(channels.handle).replay_arrays())
    assert (found.inserted, found.source) == (7, (1, 5))
    assert found.arrays["reward"][:7].tolist() == list(range(7))


def test_a_replay_buffer_beyond_all_memory_is_refused_by_its_flag() -> None:
    with pytest.raises(ConfigError, match=r"--buffer-size asks for 4\d{6}\.\d GiB"):
        Channels.create(msgspec.structs.replace(PLAN, replay=replay_fields({"reward": ("float32", ())}, 2**50)))


def test_an_explorer_killed_at_any_moment_leaves_only_whole_steps(channels: Channels) -> None:
    reader = channels.step_reader()
    with child_of(channels, "write_steps_of_group_0_for_ever"):
        wait_until_ready(channels)
        for _ in range(50):
            assert take(reader, 30.0) is not None
    rest = list(iter(lambda: take(reader), None))
    assert len(rest) <= PLAN.step_slots
    for steps in rest:
        assert (steps.obs == steps.weights_version).all()
        assert (steps.next_obs == steps.weights_version + 1).all()
    assert channels.step_writer([0]).write(steps_of(0, 0, 3), timeout_s=0.0)  # the next explorer goes on


def test_actions_come_back_for_every_group(channels: Channels) -> None:
    clients = [channels.action_client(group) for group in range(2)]
    with child_of(channels, "answer_with_the_sum_of_each_observation"):
        wait_until_ready(channels)
        for turn in range(100):
            observations = [np.full((size, 4), turn + group) for group, size in enumerate(PLAN.group_sizes)]
            for client, obs in zip(clients, observations, strict=True):
                client.request(obs, np.zeros(len(obs), bool))
            for client, obs in zip(clients, observations, strict=True):
                answer = client.actions(timeout_s=30.0)
                assert answer is not None
                np.testing.assert_array_equal(answer.actions, obs.sum(axis=1))
                assert answer.weights_version == 7


def test_a_request_outlives_the_inference_server_that_took_it(channels: Channels) -> None:
    client = channels.action_client(0)
    client.request(np.ones((3, 4)), np.zeros(3, bool))
    with child_of(channels, "take_requests_and_never_answer"):
        wait_until_ready(channels)
    assert client.actions(timeout_s=0.0) is None
    with child_of(channels, "answer_with_the_sum_of_each_observation"):
        answer = client.actions(timeout_s=30.0)
    assert answer is not None
    assert answer.actions.tolist() == [4, 4, 4]


def test_an_answer_to_a_dead_explorer_is_not_taken_for_the_next_ones(channels: Channels) -> None:
    server = channels.action_server()
    channels.action_client(0).request(np.zeros((3, 4)), np.ones(3, bool))
    (request,) = server.requests(timeout_s=0.0)
    reborn = channels.action_client(0)
    reborn.request(np.ones((3, 4)), np.zeros(3, bool))
    server.answer(request.group, Answer(np.array([8, 8, 8]), weights_version=1))
    assert reborn.actions(timeout_s=0.0) is None
    (request,) = server.requests(timeout_s=0.0)
    server.answer(request.group, Answer(request.obs.sum(axis=1).astype(np.int64), weights_version=1))
    answer = reborn.actions(timeout_s=0.0)
    assert answer is not None
    assert answer.actions.tolist() == [4, 4, 4]


def test_a_request_is_handed_out_once(channels: Channels) -> None:
    channels.action_client(1).request(np.zeros((2, 4)), np.ones(2, bool))
    server = channels.action_server()
    assert [request.group for request in server.requests(timeout_s=0.0)] == [1]
    assert server.requests(timeout_s=0.0) == []


def test_the_gate_opens_for_those_who_wait_and_for_those_who_come_later(channels: Channels) -> None:
    with child_of(channels, "wait_for_the_gate") as first:
        wait_until_ready(channels)
        assert first.exitcode() is None
        channels.control(2).start()
        assert first.wait(30.0) == 10
    with child_of(channels, "wait_for_the_gate") as late:
        assert late.wait(30.0) == 10


def test_a_stop_ends_the_wait_at_the_gate(channels: Channels) -> None:
    with child_of(channels, "wait_for_the_gate") as child:
        wait_until_ready(channels)
        channels.control(2).stop()
        assert child.wait(30.0) == 11


def test_a_stop_ends_every_wait_at_once(channels: Channels) -> None:
    with child_of(channels, "read_for_an_hour") as child:
        wait_until_ready(channels)
        channels.control(2).stop()
        assert child.wait(30.0) == 12


def test_counters_are_summed_over_processes_and_survive_them(channels: Channels) -> None:
    channels.counters(0).add("env_steps", 10)
    channels.counters(1).add("env_steps", 5)
    channels.counters(1).add("env_steps", 5)  # a process that was started again goes on with its row
    channels.counters(2).set("epsilon", 0.5)
    assert channels.counters(0).get("env_steps") == 20.0
    assert channels.counters(0).get("epsilon") == 0.5


def test_the_first_of_several_times_is_the_smallest_that_was_set(channels: Channels) -> None:
    assert channels.counters(0).smallest("first_step_at_s") is None
    channels.counters(1).set("first_step_at_s", 12.5)
    channels.counters(2).set("first_step_at_s", 11.5)
    assert channels.counters(0).smallest("first_step_at_s") == 11.5


def test_a_counter_that_nobody_declared_is_refused(channels: Channels) -> None:
    with pytest.raises(KeyError):
        channels.counters(0).add("stepz", 1)


def test_evaluations_reach_the_launcher_in_order_and_once(channels: Channels) -> None:
    log, reports = channels.evaluations(), channels.evaluations()
    sent = [Evaluation(version, 2.5 * version, 1.0, 20, [], 3.25, 640, 10) for version in range(1, 4)]
    for evaluation in sent:
        reports.report(evaluation)
    assert wait_for_any([channels.launcher_bell], 0.0)
    assert log.unread() == sent
    assert log.unread() == []


def test_closed_channels_leave_no_descriptor_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    channels = Channels.create(PLAN)
    channels.step_writer([0]).write(steps_of(1, 0, 3), timeout_s=0.0)
    channels.close()
    assert set(os.listdir("/proc/self/fd")) == before
