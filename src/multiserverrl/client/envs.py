"""What VirtualEnv and VirtualVectorEnv share: a session on one server, and its lanes of envs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from multiserverrl.client.batches import rows_of
from multiserverrl.client.coding import Wanted
from multiserverrl.client.link import Link
from multiserverrl.client.lost import TruncatingLink, patiently
from multiserverrl.client.transport import Address
from multiserverrl.client.trust import Trust
from multiserverrl.errors import ActionError, ConfigError, EnvFault, SessionLost, SessionTaken, SpaceError, WireError
from multiserverrl.memory import host_id
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import BatchLayout, StepLayout
from multiserverrl.wire.brief import brief
from multiserverrl.wire.messages import (
    AUTORESET_MODES,
    PROTOCOL_VERSION,
    WHOLE_LANE,
    Call,
    Called,
    Open,
    Render,
    Rendered,
    Reset,
    Step,
    Stepped,
)
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree

__all__ = ["LaneEnvs", "RemoteConfig", "RemoteEnvs", "Taken", "autoreset_of", "rows_at"]

Array = NDArray[Any]
DEFAULT_TIMEOUT_S = 180.0  # a step deadline of 30 s, an env worker's new start of 120 s, and some
_POLICIES = ("raise", "truncate")  # of what ends an episode that is no step of its env


@dataclass(frozen=True)
class RemoteConfig:
    """What every session of one virtual env asks for; ConfigError for what cannot be."""

    env_id: str | None
    autoreset_mode: str
    render_mode: str | None
    on_fault: str
    owner: str | None
    wait_s: float
    token: str | None = field(repr=False)
    timeout_s: float
    arguments: dict[str, Any] | None
    shared_memory: bool = True
    compression: bool | str | None = None
    checksum: bool = False
    on_lost: str = "raise"
    ca_file: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("env_id", str), ("render_mode", str), ("owner", str), ("token", str), ("arguments", dict)):
            if not isinstance(getattr(self, name), (kind, type(None))):
                got = type(getattr(self, name)).__name__  # never the value: it may be a token
                raise ConfigError(f"{name} must be a {kind.__name__} or None, not a {got}")
        if not _is_seconds(self.timeout_s) or self.timeout_s == 0:
            raise ConfigError(f"timeout_s must be a number of seconds, more than 0, not {self.timeout_s!r}")
        if not _is_seconds(self.wait_s):
            raise ConfigError(f"wait_s must be a number of seconds, at least 0, not {self.wait_s!r}")
        self.wanted()
        self.trust()
        for name in ("on_fault", "on_lost"):
            if getattr(self, name) not in _POLICIES:
                raise ConfigError(f"{name} must be one of {', '.join(_POLICIES)}, not {getattr(self, name)!r}")
        if self.render_mode == "human":
            raise ConfigError(
                "render_mode='human' would open its window at the server; use 'rgb_array', "
                "with gymnasium.wrappers.HumanRendering to see it here"
            )

    def wanted(self) -> Wanted:
        """What is asked of the connections."""
        return Wanted(self.compression, self.checksum)

    def trust(self) -> Trust:
        """Whom to believe under https."""
        return Trust(self.ca_file, self.fingerprint)

    def copied(self) -> dict[str, Any]:
        """The arguments that open another session of this kind; not `owner`, which would close this one."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if name not in ("owner", "autoreset_mode")}

    def request(self, lanes: list[int]) -> Open:
        """The message that opens a session with lanes of these sizes."""
        arguments = pack_tree(self.arguments) if self.arguments else b""
        return Open(
            PROTOCOL_VERSION, self.env_id, sum(lanes), self.autoreset_mode, self.render_mode, lanes,
            self.owner, self.wait_s, arguments, host_id() if self.shared_memory else "",
        )  # fmt: skip


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


class RemoteEnvs:
    """The envs of one session; `lanes` are their disjoint groups, each with one request in flight at most."""

    def __init__(self, url: str, lanes: list[int], config: RemoteConfig) -> None:
        if min(lanes) < 1:
            raise ConfigError(f"num_envs must be at least 1, not {min(lanes)}")
        self.config = config
        self.address = Address.parse(url, config.token, config.trust())
        self._request = config.request(lanes)
        self.link = self._opened()
        self.env = self.link.opened.env
        self.observation_space = restore_space(self.env.observation_space)
        self.action_space = restore_space(self.env.action_space)
        self._reset: tuple[list[int | None] | None, bytes, bytes | None] = (None, b"", None)
        self.lanes = [LaneEnvs(self, index, size) for index, size in enumerate(lanes)]

    def _opened(self) -> Link:
        kind = TruncatingLink if self.config.on_lost == "truncate" else Link
        return kind(self.address, self._request, timeout_s=self.config.timeout_s, wanted=self.config.wanted())

    def ensure_open(self) -> None:
        """In the child of a fork, open a session of its own."""
        if self.link.is_forgotten():
            self._request = msgspec.structs.replace(self._request, owner=None)  # the parent keeps its session
            self.link = self._opened()

    def reopen(self) -> None:
        """Open a new session in place of one that was lost."""
        self.link.close()
        is_patient = self.config.on_lost == "truncate"
        self.link = patiently(self._opened, self.config.timeout_s) if is_patient else self._opened()
        if self.link.opened.env != self.env:
            self.link.close()
            raise SpaceError(f"{self.address} serves another {self.env.env_id} than before; make a new virtual env")

    def uses_shared_memory(self) -> bool:
        """Whether the observations of all lanes come by shared memory."""
        return all(self.link.shared.in_use)

    def begin_reset(self, seeds: list[int | None] | None, options: bytes, mask: bytes | None) -> None:
        """Ask every lane to reset; the answers are taken by `finish_reset`. Answers that nobody took are dropped."""
        self.ensure_open()
        for lane in self.lanes:
            self.link.settle(lane.index)
        self._reset = (seeds, options, mask)
        if self.link.has_ended() and self._resets_all():
            self.reopen()
        self._send_resets()

    def finish_reset(self) -> list[Taken]:
        """The lanes' answers. A session that turns out to be lost is opened anew, when all of its envs are reset."""
        try:
            return [lane.take() for lane in self.lanes]
        except (SessionLost, SessionTaken):
            if not self._resets_all():
                raise
            self._reset_anew()
            return [lane.take() for lane in self.lanes]

    def finish_only_reset(self) -> tuple[Any, dict[str, Any]]:
        """The same for a session of one env: its observation and info."""
        try:
            told = self.lanes[0].take_only()
        except (SessionLost, SessionTaken):
            if not self._resets_all():
                raise
            self._reset_anew()
            told = self.lanes[0].take_only()
        return told[0], told[4]

    def _reset_anew(self) -> None:
        """The session turned out to be lost: ask a new one."""
        self.reopen()
        self._send_resets()

    def _resets_all(self) -> bool:
        mask = self._reset[2]
        return mask is None or all(mask)

    def _send_resets(self) -> None:
        (seeds, options, mask), first = self._reset, 0
        for lane in self.lanes:
            rows = slice(first, first + lane.num_envs)
            lane.send_reset(None if seeds is None else seeds[rows], options, None if mask is None else mask[rows])
            first += lane.num_envs


@dataclass(slots=True)
class Taken:
    """One lane's answer: arrays that are the caller's own, and infos by the row in the lane."""

    observations: Any  # a batch, nested as the space nests it; a list of values without a fixed size
    rewards: Array  # (N,) float64
    terminated: Array  # (N,) bool
    truncated: Array  # (N,) bool
    infos: dict[int, dict[str, Any]]
    finals: dict[int, Any]  # final observations that stand in no info


class LaneEnvs:
    """N envs of one lane: requests go out, answers are taken."""

    def __init__(self, remote: RemoteEnvs, index: int, num_envs: int) -> None:
        self.remote, self.index, self.num_envs = remote, index, num_envs
        self.first_row = 0  # among all envs of the virtual env
        self.codec = ActionCodec(remote.action_space, num_envs)
        self.layout = StepLayout(remote.observation_space, num_envs)
        self._final_layouts: dict[int, BatchLayout] = {}
        self._batched_actions = batch_space(remote.action_space, num_envs)

    def stand_at(self, first_row: int, num_envs: int) -> None:
        """The lane's rows begin there among `num_envs`; messages name envs by it."""
        self.first_row = first_row
        self.codec.first_row = None if num_envs == 1 else first_row

    def send_step(self, actions: Any) -> None:
        """Send the lane's actions, (N, *action_shape); ActionError for those that are refused before they are sent."""
        self.send_packed(*self.packed(actions))

    def packed(self, actions: Any) -> tuple[bytes, bytes]:
        """The body and the tree of a step with these actions, one of them empty."""
        if self.codec.layout is not None:
            return self.codec.pack(actions), b""
        try:
            return b"", pack_tree(self.codec.check_tree(list(iterate(self._batched_actions, actions))))
        except (TypeError, ValueError, IndexError) as error:
            raise ActionError(f"these are not {self.num_envs} actions of {self.codec.space}: {error}") from error

    def check(self, body: bytes, tree: bytes) -> None:
        """The check that the server makes at its door, made here; ActionError."""
        if not tree:
            self.codec.check(body)

    def send_packed(self, body: bytes, tree: bytes = b"") -> None:
        """Send actions that were packed before."""
        link, index = self.remote.link, self.index
        by_block = link.shared.in_use[index]
        link.send_frame(index, frames.encode(Step(index, link.lanes[index].seq + 1, tree, by_block), body))

    def send_reset(self, seeds: list[int | None] | None, options: bytes, mask: bytes | None) -> None:
        """Ask for a reset of the envs of the mask (None: all)."""
        index, link = self.index, self.remote.link
        link.send(index, lambda seq: Reset(index, seq, seeds, options, mask, link.shared.in_use[index]))

    def render(self) -> list[Any]:
        """One frame an env."""
        answer, _ = self.remote.link.request(self.index, lambda seq: Render(self.index, seq))
        return self._each(self._told(answer, Rendered).frames)

    def call(self, kind: str, name: str, values: Any) -> list[Any]:
        """Get, set or call an attribute of each env."""
        packed = pack_tree(values)
        answer, _ = self.remote.link.request(self.index, lambda seq: Call(self.index, seq, kind, name, packed))
        told = self._told(answer, Called).values
        return self._each(told) if kind != "set" else [None] * self.num_envs

    def take(self) -> Taken:
        """Wait for the answer to the lane's step or reset."""
        return self.taken(*self.remote.link.receive(self.index))

    def take_only(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The same for a lane of one env, in the singular."""
        answer, body = self.remote.link.receive(self.index)
        if type(answer) is not Stepped:
            self._told(answer, Stepped)
        infos = self._infos(answer) if answer.infos else {}
        obs, reward, terminated, truncated = self.layout.unpack_only(body)
        if not self.layout.is_fixed:
            obs = self._loose_observations(answer)[0]
        return obs, reward, terminated, truncated, infos.get(0, {})

    def taken(self, answer: Stepped, body: memoryview) -> Taken:
        """An answer as arrays; EnvFault when an env failed and the caller wants to hear of it."""
        if type(answer) is not Stepped:
            self._told(answer, Stepped)
        observations, rewards, terminated, truncated = self.layout.unpack(body)
        infos = self._infos(answer) if answer.infos else {}
        finals = self._finals(answer) if answer.finals else {}
        if not self.layout.is_fixed:
            observations = self._loose_observations(answer)
        return Taken(observations, rewards, terminated, truncated, infos, finals)

    def _infos(self, answer: Stepped) -> dict[int, dict[str, Any]]:
        infos = rows_of(answer.infos)
        if not {*map(type, infos.values())} <= {dict} or not all(WHOLE_LANE <= row < self.num_envs for row in infos):
            raise WireError(f"these are no infos of {self.num_envs} envs: {brief(infos)}")
        if self.remote.config.on_fault == "raise":
            _raise_fault(infos, self.first_row)
        return infos

    def _finals(self, answer: Stepped) -> dict[int, Any]:
        """{row: final observation} of the episodes that ended; each the caller's own."""
        found: dict[int, Any] = {}
        for finals in answer.finals:
            count, content = len(finals.rows), bytearray(finals.content)
            if count > self.num_envs:
                raise WireError(f"{count} final observations of {self.num_envs} envs cannot be")
            if count not in self._final_layouts:
                self._final_layouts[count] = BatchLayout(self.remote.observation_space, count)
            layout = self._final_layouts[count]
            if len(content) != layout.end or any(not 0 <= row < self.num_envs for row in finals.rows):
                raise WireError(f"these are not {count} final observations of {self.num_envs} envs")
            found.update(zip(finals.rows, layout.rows(content), strict=True))
        return found

    def _loose_observations(self, answer: Stepped) -> list[Any]:
        return self._each(answer.observations)

    def _each(self, parts: list[bytes]) -> list[Any]:
        """One value an env; WireError where one is missing."""
        found = rows_of(parts)
        if not all(row in found for row in range(self.num_envs)):
            raise WireError(f"an answer bears values of {len(found)} envs, not of {self.num_envs}")
        return [found[row] for row in range(self.num_envs)]

    def _told(self, answer: Any, kind: Any) -> Any:
        if type(answer) is not kind:
            raise WireError(f"{type(answer).__name__} came where {kind.__name__} was expected")
        return answer


def _raise_fault(infos: dict[int, dict[str, Any]], first_row: int) -> None:
    for row, info in infos.items():
        told = info.get("multiserverrl")
        if isinstance(told, dict) and "fault" in told:
            fault, traceback = (
                told.get(name) if isinstance(told.get(name), str) else "" for name in ("fault", "traceback")
            )
            raise EnvFault(f"env {first_row + row} ended by a fault: {fault}", str(traceback))


def rows_at(first: int, rows: dict[int, Any]) -> dict[int, Any]:
    """The rows of one lane as rows of a batch in which the lane begins at `first`."""
    return {first + row: value for row, value in rows.items()} if first else rows


def autoreset_of(mode: str | AutoresetMode) -> tuple[str, AutoresetMode]:
    """The wire's name and Gymnasium's member for a mode in either's spelling; ConfigError for another."""
    members = dict(
        zip(AUTORESET_MODES, (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED), strict=True)
    )
    for name, member in members.items():
        if mode in (name, member, member.value):
            return name, member
    raise ConfigError(f"autoreset_mode must be one of {', '.join(AUTORESET_MODES)}, not {mode!r}")
