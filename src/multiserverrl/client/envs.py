"""What VirtualEnv and VirtualVectorEnv share: opening a session, and turning answers into observations and infos."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from multiserverrl.client.link import Link
from multiserverrl.client.transport import Address
from multiserverrl.errors import ConfigError, EnvFault, SpaceError, WireError
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import BatchLayout, StepLayout
from multiserverrl.wire.messages import AUTORESET_MODES, PROTOCOL_VERSION, Open, Stepped
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_tree

__all__ = ["RemoteEnvs", "autoreset_of", "rows_of"]

DEFAULT_TIMEOUT_S = 180.0  # a step deadline of 30 s, an env worker's new start of 120 s, and some
_FAULT_POLICIES = ("raise", "truncate")


class RemoteEnvs:
    """N envs behind one session with one lane; `arguments` go to the env's constructor where the operator allows."""

    def __init__(
        self,
        url: str,
        env_id: str | None,
        num_envs: int,
        autoreset_mode: str,
        *,
        render_mode: str | None,
        on_fault: str,
        owner: str | None,
        wait_s: float,
        token: str | None,
        timeout_s: float,
        arguments: dict[str, Any] | None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
        if on_fault not in _FAULT_POLICIES:
            raise ConfigError(f"on_fault must be one of {', '.join(_FAULT_POLICIES)}, not {on_fault!r}")
        if render_mode == "human":
            raise ConfigError(
                "render_mode='human' would open its window at the server; use 'rgb_array', "
                "with gymnasium.wrappers.HumanRendering to see it here"
            )
        self.num_envs, self.on_fault = num_envs, on_fault
        self.address = Address.parse(url, token)
        self._request = Open(
            PROTOCOL_VERSION, env_id, num_envs, autoreset_mode, render_mode, [], owner, wait_s,
            pack_tree(arguments) if arguments else b"",
        )  # fmt: skip
        self._timeout_s = timeout_s
        self.link = Link(self.address, self._request, timeout_s=timeout_s)
        env = self.link.opened.env
        self.env = env
        self.observation_space = restore_space(env.observation_space)
        self.action_space = restore_space(env.action_space)
        self.codec = ActionCodec(self.action_space, num_envs)
        self.layout = StepLayout(self.observation_space, num_envs)
        self._final_layouts: dict[int, BatchLayout] = {}

    def ensure_open(self) -> None:
        """In the child of a fork, open a session of its own."""
        if self.link.is_forgotten():
            self.link = Link(self.address, self._request, timeout_s=self._timeout_s)

    def reopen(self) -> None:
        """Open a new session in place of one that was lost."""
        self.link.close()
        self.link = Link(self.address, self._request, timeout_s=self._timeout_s)
        if self.link.opened.env != self.env:
            self.link.close()
            raise SpaceError(f"{self.address} serves another {self.env.env_id} than before; make a new virtual env")

    def raise_faults(self, infos: dict[int, dict[str, Any]]) -> None:
        """EnvFault for the first env that faulted, when that is the caller's choice."""
        if self.on_fault != "raise":
            return
        for row, info in infos.items():
            told = info.get("multiserverrl")
            if isinstance(told, dict) and "fault" in told:
                raise EnvFault(f"env {row} ended by a fault: {told['fault']}", told.get("traceback", ""))

    def finals_of(self, answer: Stepped) -> dict[int, Any]:
        """{row: final observation} of the episodes that ended; each the caller's own."""
        found: dict[int, Any] = {}
        for finals in answer.finals:
            count, content = len(finals.rows), bytearray(finals.content)
            if count not in self._final_layouts:
                self._final_layouts[count] = BatchLayout(self.observation_space, count)
            layout = self._final_layouts[count]
            if len(content) != layout.end or not 0 <= min(finals.rows) <= max(finals.rows) < self.num_envs:
                raise WireError(f"these are not {count} final observations of {self.num_envs} envs")
            found.update(zip(finals.rows, layout.rows(content), strict=True))
        return found

    def loose_observations(self, answer: Stepped) -> list[Any]:
        """One observation an env, for spaces without a fixed size."""
        found = rows_of(answer.observations)
        return [found.get(row) for row in range(self.num_envs)]


def rows_of(parts: list[bytes]) -> dict[int, Any]:
    """{row: value} of the trees of an answer, in the rows' order."""
    found: dict[int, Any] = {}
    for part in parts:
        found.update(unpack_tree(part))
    return dict(sorted(found.items())) if len(parts) > 1 else found


def autoreset_of(mode: str | AutoresetMode) -> tuple[str, AutoresetMode]:
    """The wire's name and Gymnasium's member for a mode in either's spelling; ConfigError for another."""
    members = dict(
        zip(AUTORESET_MODES, (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED), strict=True)
    )
    for name, member in members.items():
        if mode in (name, member, member.value):
            return name, member
    raise ConfigError(f"autoreset_mode must be one of {', '.join(AUTORESET_MODES)}, not {mode!r}")
