"""VirtualVectorEnv: a `gymnasium.vector.VectorEnv` whose environments run somewhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from multiserverrl.client.batches import joined, merged, num_rows, rows_of_batch
from multiserverrl.client.envs import (
    DEFAULT_TIMEOUT_S,
    LaneEnvs,
    RemoteConfig,
    RemoteEnvs,
    Taken,
    autoreset_of,
    rows_at,
)
from multiserverrl.client.opening import open_on
from multiserverrl.client.resets import mask_of, seeds_of
from multiserverrl.client.specs import HasSpec
from multiserverrl.client.spread import whole_lanes
from multiserverrl.client.waiting import some_ready
from multiserverrl.errors import ActionError, MultiServerRLError, SeqError, SessionLost
from multiserverrl.wire.messages import WHOLE_LANE
from multiserverrl.wire.trees import pack_tree

__all__ = ["VirtualVectorEnv"]

Array = NDArray[Any]
_STILL_STEPPING = (
    "the step before still waits for its answer: step_wait() (of single lanes recv()) takes it, reset() drops it"
)


class VirtualVectorEnv(HasSpec, VectorEnv[Any, Any, Any]):
    """`num_envs` environments of one env server, or of several, stepped by one message to each lane.

    `autoreset_mode` ("next_step", "same_step", "disabled", or Gymnasium's AutoresetMode) is carried out
    at the server, with infos as Gymnasium's own vector envs give them. `on_fault`: "raise" an EnvFault when
    an env fails, or "truncate" its episode and say so in `infos["multiserverrl"]["fault"]`. `on_lost` is VirtualEnv's;
    all episodes of the lost session are truncated, in `infos["multiserverrl"]["lost"]`, and go on by `autoreset_mode`.

    `url` may be a list: the envs are spread by each server's free capacity, in the order of the list. A server
    named k times holds k sessions, each with a connection of its own that an env worker can answer by itself.
    `lanes` (a number, or the sizes, for each server) makes groups of envs that `send` and `recv` step
    independently. `shared_memory` False keeps observations off the shared memory by which large ones come
    from a server on the same host. `compression`, `checksum`, `ca_file` and `fingerprint` are VirtualEnv's.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        env_id: str | None = None,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        on_fault: str = "raise",
        on_lost: str = "raise",
        owner: str | None = None,
        wait_s: float = 0.0,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        lanes: int | Sequence[int] = 1,
        shared_memory: bool = True,
        compression: bool | str | None = None,
        checksum: bool = False,
        ca_file: str | None = None,
        fingerprint: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        mode, member = autoreset_of(autoreset_mode)
        config = RemoteConfig(
            env_id=env_id, autoreset_mode=mode, render_mode=render_mode, on_fault=on_fault, owner=owner,
            wait_s=wait_s, token=token, timeout_s=timeout_s, arguments=arguments, shared_memory=shared_memory,
            compression=compression, checksum=checksum, on_lost=on_lost, ca_file=ca_file, fingerprint=fingerprint,
        )  # fmt: skip
        self._remotes = open_on(url, num_envs, lanes, config)
        num_envs = int(num_envs)
        self._asked: dict[str, Any] = {"url": url, "num_envs": num_envs, "lanes": lanes}
        self._asked.update(config.copied(), autoreset_mode=member.value)
        self._lanes = [lane for remote in self._remotes for lane in remote.lanes]
        ends = np.cumsum([lane.num_envs for lane in self._lanes]).tolist()
        self._rows = [slice(end - lane.num_envs, end) for lane, end in zip(self._lanes, ends, strict=True)]
        for lane, rows in zip(self._lanes, self._rows, strict=True):
            lane.stand_at(rows.start, num_envs)
        self._only = self._lanes[0] if len(self._lanes) == 1 else None
        first = self._remotes[0]
        self._is_fixed = self._lanes[0].layout.is_fixed
        self.num_envs = num_envs
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = member
        self.metadata = {**first.env.metadata, "autoreset_mode": member}
        self.render_mode = render_mode
        self._served, self._limits_episodes = first.env, False
        self._tell(self._asked)
        self._needs_reset = True
        self._is_stepping = False
        self._taken: dict[int, Taken] = {}  # lanes' answers that were not handed out yet

    @property
    def uses_shared_memory(self) -> bool:
        """Whether the observations of all envs come by shared memory: large ones do, from servers on this host."""
        return all(remote.uses_shared_memory() for remote in self._remotes)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all envs, or those of `options["reset_mask"]`; seeds as in Gymnasium (env i gets seed + i).

        After SessionLost it opens a new session. Steps whose answers nobody took yet are waited for and their answers
        dropped; with a mask that is an AlreadyPendingCallError, as envs that it leaves out keep their episode. Their
        observation is the one they gave last.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = seeds_of(self.num_envs, seed)
        options, mask = mask_of(self.num_envs, options)
        if mask is not None and not self._needs_reset and self._pending():
            raise AlreadyPendingCallError(
                "reset() of some envs would lose the others' steps: take their answers", "reset"
            )
        packed = b"" if options is None else pack_tree(options)
        remotes, first = self._open(), 0
        self._is_stepping = False
        self._taken.clear()
        self._needs_reset = True  # a reset that fails leaves answers behind that are no steps'
        for remote in remotes:
            rows = slice(first, first + sum(lane.num_envs for lane in remote.lanes))
            first = rows.stop
            remote.begin_reset(None if seeds is None else seeds[rows], packed, None if mask is None else mask[rows])
        parts = [taken for remote in remotes for taken in remote.finish_reset()]
        self._needs_reset = False
        taken = self._joined(range(len(self._lanes)), parts)
        return taken[0], taken[4]

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
        if self._is_stepping or (self._only is None and self._pending()):
            raise AlreadyPendingCallError(_STILL_STEPPING, "step")
        if self._only is not None:
            try:
                self._only.send_step(actions)
            except SeqError:  # a Ctrl-C came while it was sent
                raise AlreadyPendingCallError(_STILL_STEPPING, "step") from None
        else:
            self._send(range(len(self._lanes)), actions)
        self._is_stepping = True

    def step_wait(self) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """The answer to `step_async`."""
        if not self._is_stepping:
            raise NoAsyncCallError("Calling `step_wait` without any prior call to `step_async`.", "step")
        try:
            told = self._take_all() if self._only is None else self._take_only(self._only)
        except BaseException:
            self._is_stepping = bool(self._pending())
            raise
        self._is_stepping = False
        return told

    def _take_only(self, lane: LaneEnvs) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """The answer of the one lane there is."""
        answer, body = lane.remote.link.receive(lane.index)
        if self._is_fixed and not answer.infos and not answer.finals:  # the usual case
            return (*lane.layout.unpack(body), {})
        taken = lane.taken(answer, body)
        observations = taken.observations if self._is_fixed else self._observations([taken])
        if taken.infos:
            infos = self._infos([0], [taken])
        else:
            infos = self._infos_of_ends(taken.finals) if taken.finals else {}
        return observations, taken.rewards, taken.terminated, taken.truncated, infos

    def send(self, actions: Any, env_ids: Iterable[int] | None = None) -> None:
        """Step some envs, whole lanes of them, and return at once; the rows of `actions` are in the order of `env_ids`.

        None: all envs. ConfigError when the envs are not whole lanes; AlreadyPendingCallError when one still steps.
        """
        if self._needs_reset:
            raise ResetNeeded("Cannot call send() before calling reset()")
        chosen, order = whole_lanes(self._rows, env_ids)
        if busy := [index for index in chosen if self._is_pending(index)]:
            raise AlreadyPendingCallError(f"lane {busy[0]} still steps; recv() its answer first", "send")
        self._send(chosen, actions, order)

    def recv(self, min_envs: int = 1) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """What the lanes that have finished gave, as soon as they have at least `min_envs` envs together.

        As `step`, with one row an env that answered; `infos["env_id"]` says which (M,) int64.
        NoAsyncCallError when fewer than `min_envs` envs were sent.
        """
        if self._needs_reset:
            raise ResetNeeded("Cannot call recv() before calling reset()")
        pending = self._pending()
        if sum(self._lanes[index].num_envs for index in pending) < max(1, min_envs):
            raise NoAsyncCallError(f"recv({min_envs}) without so many envs sent", "recv")
        found: list[int] = []
        while sum(self._lanes[index].num_envs for index in found) < min_envs or not found:
            waiting = [index for index in pending if index not in found]
            found += self._arrived(waiting) or self._wait(waiting)
        found.sort()
        for index in found:
            self._take(index)  # one that fails leaves the others' answers for the next recv()
        taken = self._joined(found, [self._taken.pop(index) for index in found])
        env_ids = np.concatenate([np.arange(self._rows[index].start, self._rows[index].stop) for index in found])
        return (*taken[:4], {**taken[4], "env_id": env_ids})

    def render(self) -> tuple[Any, ...] | None:
        """One frame an env, fetched when asked for. None without a render_mode."""
        if self.render_mode is None:
            return None
        self._open()
        return tuple(frame for lane in self._lanes for frame in lane.render())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call (or get) an attribute of each env that the server's operator allows; NotAllowedError otherwise."""
        self._open()
        return tuple(value for lane in self._lanes for value in lane.call("call", name, (args, kwargs)))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each env that the server's operator allows."""
        self._open()
        return tuple(value for lane in self._lanes for value in lane.call("get", name, None))

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each env; a list or tuple has one value an env."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        self._open()
        for lane, rows in zip(self._lanes, self._rows, strict=True):
            lane.call("set", name, list(values[rows]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled (or copied) as VirtualEnv is: the other one opens sessions of its own, without `owner`."""
        return partial(type(self), **self._asked), (), {"_spec": self._spec}

    def close_extras(self, **kwargs: Any) -> None:
        """End the sessions and free the envs at the servers."""
        for remote in getattr(self, "_remotes", []):
            remote.link.close()

    def _open(self) -> list[RemoteEnvs]:
        if self.closed:
            raise SessionLost("this VirtualVectorEnv was closed; make another")
        for remote in self._remotes:
            remote.ensure_open()
        return self._remotes

    def _is_pending(self, index: int) -> bool:
        lane = self._lanes[index]
        return index in self._taken or lane.remote.link.is_pending(lane.index)

    def _pending(self) -> list[int]:
        return [index for index in range(len(self._lanes)) if self._is_pending(index)]

    def _send(self, chosen: Sequence[int], actions: Any, order: list[int] | None = None) -> None:
        """Pack every lane's actions before any is sent: a refused action leaves all envs unstepped."""
        space, packed, first = self.single_action_space, [], 0
        wanted, got = sum(self._lanes[index].num_envs for index in chosen), num_rows(space, actions)
        if got != wanted:
            raise ActionError(f"the actions are for {got} envs; {wanted} were expected")
        for index in chosen:
            last = first + self._lanes[index].num_envs
            which = order[first:last] if order else slice(first, last)
            packed.append(self._lanes[index].packed(rows_of_batch(space, actions, which)))
            self._lanes[index].check(*packed[-1])
            first = last
        for index, (body, tree) in zip(chosen, packed, strict=True):
            self._lanes[index].send_packed(body, tree)

    def _take_all(self) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """All lanes' answers, waited for all at once; when one fails, the others are taken all the same."""
        everyone = range(len(self._lanes))
        waiting = [index for index in everyone if index not in self._taken]  # some, after a Ctrl-C
        failure: MultiServerRLError | None = None
        while waiting:
            try:
                arrived = self._arrived(waiting) or self._wait(waiting)
            except MultiServerRLError as error:  # a session was lost: its lanes have nothing more to say
                failure = failure or error
                arrived = []
                waiting = [index for index in waiting if not self._lanes[index].remote.link.has_ended()]
            for index in arrived:
                waiting.remove(index)
                try:
                    self._take(index)
                except MultiServerRLError as error:
                    failure = failure or error
        parts, self._taken = self._taken, {}
        if failure is not None:
            raise failure
        return self._joined(everyone, [parts[index] for index in everyone])

    def _take(self, index: int) -> None:
        """A lane's answer, kept until all that are wanted are there."""
        if index not in self._taken:
            self._taken[index] = self._lanes[index].take()

    def _arrived(self, waiting: list[int]) -> list[int]:
        """The lanes among these whose answers are here."""
        for link in {self._lanes[index].remote.link for index in waiting}:
            link.take_arrived()
        return [index for index in waiting if self._has_answer(index)]

    def _has_answer(self, index: int) -> bool:
        lane = self._lanes[index]
        return index in self._taken or lane.remote.link.has_answer(lane.index)

    def _wait(self, waiting: list[int]) -> list[int]:
        """Block until one of the connections has something to say; the lane to take in, which mends a broken one."""
        for remote in some_ready({id(remote): remote for remote in (self._lanes[i].remote for i in waiting)}.values()):
            lanes = [index for index in waiting if self._lanes[index].remote is remote]
            if remote.link.fileno() is None:
                return lanes[:1]
            remote.link.receive_any([self._lanes[index].index for index in lanes])
        return [index for index in waiting if self._has_answer(index)]

    def _observations(self, parts: list[Taken]) -> Any:
        return joined(self.single_observation_space, [part.observations for part in parts], is_fixed=self._is_fixed)

    def _joined(self, chosen: Sequence[int], parts: list[Taken]) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Several lanes' answers as one, in the lanes' order."""
        observations = self._observations(parts)
        columns = (
            np.concatenate([getattr(part, name) for part in parts]) if len(parts) > 1 else getattr(parts[0], name)
            for name in ("rewards", "terminated", "truncated")
        )
        rewards, terminated, truncated = columns
        return observations, rewards, terminated, truncated, self._infos(chosen, parts)

    def _infos(self, chosen: Sequence[int], parts: list[Taken]) -> dict[str, Any]:
        """The vector infos, as Gymnasium's vector envs make them of the envs' own; rows as in this answer."""
        rows, finals, first = {}, {}, 0
        for index, part in zip(chosen, parts, strict=True):
            rows.update(rows_at(first, part.infos))
            finals.update(rows_at(first, part.finals))
            first += self._lanes[index].num_envs
        whole, self.num_envs = self.num_envs, first  # Gymnasium's own function sizes its arrays by it
        try:
            if WHOLE_LANE in rows:  # a native vector env's own
                whole_infos: dict[str, Any] = rows[WHOLE_LANE]
                return whole_infos
            if not rows:
                return self._infos_of_ends(finals) if finals else {}
            for row, final in finals.items():
                rows[row] = {"final_obs": final, "final_info": {}, **rows.get(row, {})}
            told: dict[str, Any] = merged(self._add_info, rows)
            return told
        finally:
            self.num_envs = whole

    def _infos_of_ends(self, finals: dict[int, Any]) -> dict[str, Any]:
        """The usual case at the end of episodes: nothing but final observations."""
        observations, mask = np.empty(self.num_envs, object), np.zeros(self.num_envs, np.bool_)
        for row, final in finals.items():
            observations[row], mask[row] = final, True
        return {"final_obs": observations, "_final_obs": mask, "final_info": {}, "_final_info": mask.copy()}
