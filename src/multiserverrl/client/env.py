"""VirtualEnv: a `gymnasium.Env` whose environment runs somewhere else."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from multiserverrl.client.envs import DEFAULT_TIMEOUT_S, RemoteEnvs, rows_of
from multiserverrl.errors import ActionError, SessionLost, SessionTaken
from multiserverrl.wire.messages import Render, Reset, Step, Stepped
from multiserverrl.wire.trees import pack_tree

__all__ = ["VirtualEnv"]


class VirtualEnv(gymnasium.Env[Any, Any]):
    """One environment of an env server, as if it were local.

    `env_id` may be left out where the server serves just one. `arguments` go to the env's constructor
    as far as the server's operator allows. Every step happens at most once, however often the wire breaks.

    Raises ServerUnreachable, ServerFull, UnknownEnvError or ConfigError when it cannot be opened.
    """

    def __init__(
        self,
        url: str,
        env_id: str | None = None,
        *,
        render_mode: str | None = None,
        on_fault: str = "raise",
        owner: str | None = None,
        wait_s: float = 0.0,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._remote = RemoteEnvs(
            url, env_id, 1, "none", render_mode=render_mode, on_fault=on_fault, owner=owner,
            wait_s=wait_s, token=token, timeout_s=timeout_s, arguments=arguments,
        )  # fmt: skip
        self.observation_space = self._remote.observation_space
        self.action_space = self._remote.action_space
        self.metadata = dict(self._remote.env.metadata)
        self.render_mode = render_mode
        self._needs_reset = True
        self._is_closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `seed` and `options` reach the real env. After SessionLost it opens a new session."""
        super().reset(seed=seed)
        remote = self._open()
        remote.link.settle(0)
        self._needs_reset = True
        if remote.link.has_ended():
            remote.reopen()
        packed = b"" if options is None else pack_tree(options)
        try:
            answer, body = remote.link.request(0, lambda seq: Reset(0, seq, None if seed is None else [seed], packed))
        except (SessionLost, SessionTaken):
            remote.reopen()
            answer, body = remote.link.request(0, lambda seq: Reset(0, seq, None if seed is None else [seed], packed))
        told = self._observation(answer, body)
        self._needs_reset = False
        return told

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance the env by one action, at most once on the server, however often the wire breaks.

        ActionError: refused before anything was stepped. EnvFault: the env raised or its worker died; reset().
        SessionLost: the server no longer knows us, the episode is gone; reset() opens a new session.
        """
        if self._needs_reset:
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        remote = self._remote
        codec = remote.codec
        if codec.layout is None:
            if not self.action_space.contains(action):
                raise ActionError(f"action is not a member of {self.action_space}: {str(action)[:80]}")
            tree = pack_tree([action])
            answer, body = remote.link.request(0, lambda seq: Step(0, seq, tree))
        else:
            packed = codec.pack_one(action)
            answer, body = remote.link.request(0, _step_of, packed)
        obs, info = self._observation(answer, body)
        layout = remote.layout
        return (
            obs,
            float(layout.rewards(body)[0]),
            bool(layout.terminated(body)[0]),
            bool(layout.truncated(body)[0]),
            info,
        )

    def render(self) -> Any:
        """What the real env renders now; fetched when asked for, never with a step. None without a render_mode."""
        if self.render_mode is None:
            return None
        answer, _ = self._open().link.request(0, lambda seq: Render(0, seq))
        return rows_of(answer.frames)[0]

    def close(self) -> None:
        """End the session and free the env at the server; may be called again."""
        if not self._is_closed:
            self._is_closed = True
            self._remote.link.close()

    def _open(self) -> RemoteEnvs:
        if self._is_closed:
            raise SessionLost("this VirtualEnv was closed; make another")
        self._remote.ensure_open()
        return self._remote

    def _observation(self, answer: Stepped, body: memoryview) -> tuple[Any, dict[str, Any]]:
        remote = self._remote
        infos = rows_of(answer.infos) if answer.infos else {}
        if remote.layout.is_fixed:
            remote.layout.check(len(body))
            obs = remote.layout.row(body, 0)
        else:
            obs = remote.loose_observations(answer)[0]
        if infos:
            needed_reset, self._needs_reset = self._needs_reset, True
            remote.raise_faults(infos)
            self._needs_reset = needed_reset
        return obs, infos.get(0, {})


def _step_of(seq: int) -> Step:
    return Step(0, seq)
