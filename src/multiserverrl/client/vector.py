"""VirtualVectorEnv: a `gymnasium.vector.VectorEnv` whose environments run somewhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from multiserverrl.client.envs import DEFAULT_TIMEOUT_S, RemoteEnvs, autoreset_of, rows_of
from multiserverrl.errors import ActionError, SessionLost, SessionTaken
from multiserverrl.wire.messages import Call, Render, Reset, Step, Stepped
from multiserverrl.wire.trees import pack_tree

__all__ = ["VirtualVectorEnv"]

Array = NDArray[Any]


class VirtualVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` environments of one env server, stepped by one message.

    `autoreset_mode` ("next_step", "same_step", "disabled", or Gymnasium's AutoresetMode) is carried out
    at the server, with infos as Gymnasium's own vector envs give them. `on_fault`: "raise" an EnvFault when
    an env fails, or "truncate" its episode and say so in `infos["multiserverrl"]["fault"]`.
    `shared_memory` False keeps observations off same-host shared memory; this version always sends them by TCP.
    """

    def __init__(
        self,
        url: str,
        env_id: str | None = None,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        on_fault: str = "raise",
        owner: str | None = None,
        wait_s: float = 0.0,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        shared_memory: bool = True,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        mode, member = autoreset_of(autoreset_mode)
        self._remote = RemoteEnvs(
            url, env_id, num_envs, mode, render_mode=render_mode, on_fault=on_fault, owner=owner,
            wait_s=wait_s, token=token, timeout_s=timeout_s, arguments=arguments,
        )  # fmt: skip
        self.num_envs = num_envs
        self.single_observation_space = self._remote.observation_space
        self.single_action_space = self._remote.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = member
        self.metadata = {**self._remote.env.metadata, "autoreset_mode": member}
        self.render_mode = render_mode
        self._needs_reset = True
        self._is_stepping = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all envs, or those of `options["reset_mask"]`; seeds as in Gymnasium (env i gets seed + i).

        After SessionLost it opens a new session.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = self._seeds(seed)
        options, mask = self._mask(options)
        packed = b"" if options is None else pack_tree(options)
        remote = self._open()
        remote.link.settle(0)
        if remote.link.has_ended() and (mask is None or all(mask)):
            remote.reopen()
        self._is_stepping = False
        try:
            answer, body = remote.link.request(0, lambda seq: Reset(0, seq, seeds, packed, mask))
        except (SessionLost, SessionTaken):
            if mask is not None and not all(mask):
                raise
            remote.reopen()
            answer, body = remote.link.request(0, lambda seq: Reset(0, seq, seeds, packed, mask))
        self._needs_reset = False
        return self._observations(answer, body), self._infos(answer) if answer.infos else {}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Advance every environment once; actions are (num_envs, *action_shape), nested as the action space nests them.

        Returns observations, rewards (N,) float64, terminations and truncations (N,) bool, infos; all of them
        the caller's own. The step happens at most once on the server, however often the wire breaks. Raises
        SessionLost when the server no longer knows us: the running episodes are gone, call reset().
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Send the actions and return; ActionError for actions that are refused before they are sent."""
        if self._needs_reset:
            raise ResetNeeded("Cannot call step() before calling reset()")
        if self._is_stepping:
            raise AlreadyPendingCallError(
                "Calling `step_async` while waiting for a pending call to `step` to complete", "step"
            )
        remote = self._remote
        if remote.codec.layout is None:
            tree = pack_tree(self._loose_actions(actions))
            remote.link.send(0, lambda seq: Step(0, seq, tree))
        else:
            remote.link.send(0, _step_of, remote.codec.pack(actions))
        self._is_stepping = True

    def step_wait(self) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """The answer to `step_async`."""
        if not self._is_stepping:
            raise NoAsyncCallError("Calling `step_wait` without any prior call to `step_async`.", "step")
        remote = self._remote
        try:
            answer, body = remote.link.receive(0)
        finally:
            self._is_stepping = remote.link.is_pending(0)
        layout = remote.layout
        observations = self._observations(answer, body)
        infos = self._infos(answer) if answer.infos or answer.finals else {}
        return observations, layout.rewards(body), layout.terminated(body), layout.truncated(body), infos

    def render(self) -> tuple[Any, ...] | None:
        """One frame an env, fetched when asked for. None without a render_mode."""
        if self.render_mode is None:
            return None
        answer, _ = self._open().link.request(0, lambda seq: Render(0, seq))
        frames = rows_of(answer.frames)
        return tuple(frames[row] for row in range(self.num_envs))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call (or get) an attribute of each env that the server's operator allows; NotAllowedError otherwise."""
        return self._called("call", name, (args, kwargs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each env that the server's operator allows."""
        return self._called("get", name, None)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each env; a list or tuple has one value an env."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        self._called("set", name, list(values))

    def close_extras(self, **kwargs: Any) -> None:
        """End the session and free the envs at the server."""
        if hasattr(self, "_remote"):
            self._remote.link.close()

    def _called(self, kind: str, name: str, values: Any) -> tuple[Any, ...]:
        packed = pack_tree(values)
        answer, _ = self._open().link.request(0, lambda seq: Call(0, seq, kind, name, packed))
        found = rows_of(answer.values)
        return tuple(found.get(row) for row in range(self.num_envs))

    def _open(self) -> RemoteEnvs:
        if self.closed:
            raise SessionLost("this VirtualVectorEnv was closed; make another")
        self._remote.ensure_open()
        return self._remote

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None] | None:
        if seed is None:
            return None
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"If seeds are passed as a list the length must match num_envs={self.num_envs} "
                f"but got length={len(seeds)}."
            )
        return [None if one is None else int(one) for one in seeds]

    def _mask(self, options: dict[str, Any] | None) -> tuple[dict[str, Any] | None, bytes | None]:
        """The options without the mask, and the mask; Gymnasium's own error types for a wrong one."""
        if options is None or "reset_mask" not in options:
            return options, None
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`options['reset_mask']` must have shape `({self.num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
        if not np.any(mask):
            raise ValueError(
                "`options['reset_mask']` must contain a boolean array with at least one True value, "
                f"got reset_mask={mask}"
            )
        return {key: value for key, value in options.items() if key != "reset_mask"}, mask.tobytes()

    def _loose_actions(self, actions: Any) -> list[Any]:
        listed = list(iterate(self.action_space, actions))
        for row, action in enumerate(listed):
            if not self.single_action_space.contains(action):
                raise ActionError(f"action[{row}] is not a member of {self.single_action_space}: {str(action)[:80]}")
        return listed

    def _observations(self, answer: Stepped, body: memoryview) -> Any:
        remote = self._remote
        remote.layout.check(len(body))
        if remote.layout.is_fixed:
            return remote.layout.batch(body)
        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, remote.loose_observations(answer), empty)

    def _infos(self, answer: Stepped) -> dict[str, Any]:
        """The vector infos, as Gymnasium's vector envs make them of the envs' own."""
        finals = self._remote.finals_of(answer)
        if not answer.infos:
            return self._infos_of_ends(finals)
        rows = rows_of(answer.infos)
        self._remote.raise_faults(rows)
        for row, final in finals.items():
            rows[row] = {"final_obs": final, "final_info": {}, **rows.get(row, {})}
        infos: dict[str, Any] = {}
        for row, info in sorted(rows.items()):
            infos = self._add_info(infos, info, row)
        return infos

    def _infos_of_ends(self, finals: dict[int, Any]) -> dict[str, Any]:
        """The usual case at the end of episodes: nothing but final observations."""
        observations, mask = np.full(self.num_envs, None, dtype=object), np.zeros(self.num_envs, np.bool_)
        for row, final in finals.items():
            observations[row], mask[row] = final, True
        return {"final_obs": observations, "_final_obs": mask, "final_info": {}, "_final_info": mask.copy()}


def _step_of(seq: int) -> Step:
    return Step(0, seq)
