"""All channels of a run in one shared block, its replay buffer in another: the launcher's, opened by its children.

What lies where follows from the plan alone, so a child needs the plan (plain JSON) and the
inherited descriptors of the door-bells, nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import DTypeLike, NDArray

from multiserverrl.errors import ConfigError
from multiserverrl.launch.actions import SlotClient, SlotServer, slot_fields
from multiserverrl.launch.bells import Bell, new_bell
from multiserverrl.launch.control import CounterTable, EvaluationLog, RunControl, control_fields
from multiserverrl.launch.steps import RingReader, RingWriter, StepRing, ring_fields
from multiserverrl.launch.weights import SnapshotReader, SnapshotWriter, snapshot_fields
from multiserverrl.memory import Block, BlockHandle, Layout
from multiserverrl.train.task import Task

__all__ = ["ChannelPlan", "Channels", "ChannelsHandle"]

Array = NDArray[Any]
Fields = dict[str, tuple[DTypeLike, tuple[int, ...]]]


class ChannelPlan(msgspec.Struct, frozen=True):
    """What the layout of a run's channels depends on."""

    task: Task
    group_sizes: tuple[int, ...]  # envs of each explorer group
    weights: dict[str, tuple[str, tuple[int, ...]]]  # name → (dtype, shape)
    rows: int  # processes that count
    replay: dict[str, tuple[str, tuple[int, ...]]] = {}  # its arrays, likewise
    step_slots: int = 1  # steps of a group that may wait for the learner; more made learning slower (old actions)
    extras: dict[str, tuple[str, tuple[int, ...]]] = {}  # of one env: what an algorithm returns beside actions
    kept_steps: int = 0  # of a group, that were learned from: a learner that starts again finds its windows in them


class ChannelsHandle(msgspec.Struct, frozen=True):
    """Plain data that names the channels to a child; `fds` must be passed on to it."""

    plan: ChannelPlan
    block: BlockHandle
    replay: BlockHandle
    bells: dict[str, Bell]

    @property
    def fds(self) -> list[int]:
        """The descriptors that a child inherits."""
        return [fd for bell in self.bells.values() for fd in (bell.read_fd, bell.write_fd)]


class Channels:
    """The ends of every channel. Each process takes only those that are its own."""

    def __init__(self, handle: ChannelsHandle, block: Block, replay: Block | None = None) -> None:
        self.handle = handle
        self._plan, self._bells, self._block, self._replay = handle.plan, handle.bells, block, replay
        self._views = _layout(handle.plan).views(block)

    @classmethod
    def create(cls, plan: ChannelPlan) -> Channels:
        """The launcher's: new channels, all empty. `close` gives memory and descriptors back.

        ConfigError when there is no memory for the replay buffer.
        """
        replay = _replay_block(plan)
        names = ["launcher", "gate", "stop", "steps", "requests"]
        names += [f"{kind}{group}" for group in range(len(plan.group_sizes)) for kind in ("room", "answer")]
        block = Block.create(_layout(plan).size_bytes, "channels")
        bells = {name: new_bell() for name in names}
        return cls(ChannelsHandle(plan, block.handle, replay.handle, bells), block, replay)

    @classmethod
    def open(cls, handle: ChannelsHandle) -> Channels:
        """A child's."""
        return cls(handle, Block.open(handle.block))

    def close(self) -> None:
        """The launcher's: close the bells and give the block up, after the children have ended."""
        for bell in self._bells.values():
            bell.close()
        self._views.clear()
        self._block.close()
        if self._replay is not None:
            self._replay.close()

    def step_writer(self, groups: list[int]) -> RingWriter:
        """An explorer's, for its own groups."""
        rings = {group: self._ring(group) for group in groups}
        room = {group: self._bells[f"room{group}"] for group in groups}
        return RingWriter(rings, room, self._bells["steps"], self._bells["stop"])

    def step_reader(self) -> RingReader:
        """The learner's."""
        groups = range(len(self._plan.group_sizes))
        room = [self._bells[f"room{group}"] for group in groups]
        return RingReader([self._ring(group) for group in groups], room, self._bells["steps"], self._bells["stop"])

    def replay_arrays(self) -> dict[str, Array]:
        """The learner's: its replay buffer, which outlives it."""
        return Layout(self._plan.replay).views(Block.open(self.handle.replay))

    def played(self, group: int) -> Array:
        """An explorer's: (N,) episodes that each env of a group has ended; they outlive it. The learner saves them."""
        return self._part(f"actions{group}")["played"]

    def action_client(self, group: int) -> SlotClient:
        """An explorer's, one for each of its groups."""
        views = self._part(f"actions{group}")
        return SlotClient(views, self._bells["requests"], self._bells[f"answer{group}"], self._bells["stop"])

    def action_server(self) -> SlotServer:
        """The inference server's."""
        groups = range(len(self._plan.group_sizes))
        slots = [self._part(f"actions{group}") for group in groups]
        answers = [self._bells[f"answer{group}"] for group in groups]
        return SlotServer(slots, self._bells["requests"], answers, self._bells["stop"])

    def weights_writer(self) -> SnapshotWriter:
        """The learner's."""
        return SnapshotWriter(self._part("weights"))

    def weights_reader(self) -> SnapshotReader:
        """Anyone's."""
        return SnapshotReader(self._part("weights"))

    def control(self, row: int) -> RunControl:
        """Anyone's, with the row of its own."""
        launcher, gate, stop = (self._bells[name] for name in ("launcher", "gate", "stop"))
        return RunControl(self._part("control"), row, launcher, gate, stop)

    def counters(self, row: int) -> CounterTable:
        """Anyone's, with the row of its own."""
        return CounterTable(self._part("control"), row)

    def evaluations(self) -> EvaluationLog:
        """The evaluator's, and the launcher's to read."""
        return EvaluationLog(self._part("control"), self._bells["launcher"])

    @property
    def launcher_bell(self) -> Bell:
        """Rings when something happened that the launcher should look at."""
        return self._bells["launcher"]

    def _ring(self, group: int) -> StepRing:
        return StepRing(group, self._part(f"steps{group}"), self._plan.kept_steps)

    def _part(self, name: str) -> dict[str, Array]:
        prefix = f"{name}/"
        return {field.removeprefix(prefix): view for field, view in self._views.items() if field.startswith(prefix)}


def _layout(plan: ChannelPlan) -> Layout:
    fields: Fields = {}
    _add(fields, "control", control_fields(plan.rows))
    _add(fields, "weights", snapshot_fields(plan.weights))
    for group, num_envs in enumerate(plan.group_sizes):
        _add(fields, f"steps{group}", ring_fields(plan.task, num_envs, plan.step_slots + plan.kept_steps, plan.extras))
        _add(fields, f"actions{group}", slot_fields(plan.task, num_envs, plan.extras))
    return Layout(fields)


def _replay_block(plan: ChannelPlan) -> Block:
    size_bytes = Layout(plan.replay).size_bytes
    try:
        return Block.create(size_bytes, "replay")
    except (OSError, MemoryError) as error:
        raise ConfigError(
            f"--buffer-size asks for {size_bytes / 2**30:.1f} GiB of memory, and they are not there: {error}"
        ) from error


def _add(fields: Fields, part: str, more: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
    fields.update({f"{part}/{name}": field for name, field in more.items()})
