"""VirtualEnv: a `gymnasium.Env` whose environment runs somewhere else."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from multiserverrl.client.envs import DEFAULT_TIMEOUT_S, RemoteConfig, RemoteEnvs
from multiserverrl.client.specs import HasSpec
from multiserverrl.errors import EnvFault, SeqError, SessionLost
from multiserverrl.wire.trees import pack_tree

__all__ = ["VirtualEnv"]


class VirtualEnv(HasSpec, gymnasium.Env[Any, Any]):
    """One environment of an env server, as if it were local.

    `env_id` may be left out where the server serves just one. `arguments` go to the env's constructor
    as far as the server's operator allows. Every step happens at most once, however often the wire breaks.

    `on_fault`: "raise" EnvFault when the env raises, or its env worker dies or passes the step deadline, or "truncate"
    the episode: reward 0, `truncated`, the cause in `info["multiserverrl"]["fault"]`. Either way reset() goes on.
    `on_lost`: "raise" SessionLost when the server no longer knows the session, or "truncate" the episode: the last
    observation, reward 0, `truncated`, and the cause in `info["multiserverrl"]["lost"]`, of a step that no env took (do
    not learn from it). A new session is open by then; ServerUnreachable or ServerFull when none opens for `timeout_s`.

    Where client and server are on one host, large observations come by shared memory, and by TCP where that cannot
    be (`uses_shared_memory` says which); `shared_memory=False` leaves them to TCP.
    `compression` (zstd): None where the server is on another host, "zstd" or True wherever it grants it, False never.
    `checksum`: every message bears one, so that bits that flip on the way are a broken connection and no wrong step.

    Under https the server's certificate must be signed by a CA of this system, or by one of `ca_file`, or be the one
    with the SHA-256 `fingerprint`, as `serve` prints it.

    `timeout_s`: how long an answer may take before the connection is taken for broken and made anew. From then on a
    server that cannot be reached is given up, as SessionLost, when its session has outlived its time to live (after
    5 s where nobody listens any more), one that takes connections and stays silent after 2 `timeout_s`, if that is
    longer; each within one try, which takes `timeout_s` at most (client/retries.py).

    A pickled (or copied) one opens a session of its own, without `owner`, where it is unpickled; reset() it
    first. A token that was given is in the pickle, one from the environment is not. `np_random` is a generator
    of its own that `reset(seed=…)` seeds, not the served env's.

    Raises ServerUnreachable, ServerFull, UnknownEnvError or ConfigError when it cannot be opened.
    """

    # what gymnasium.make may ask for, and make lists of; an env's own metadata says which of these it has
    metadata = {"render_modes": ["rgb_array", "ansi", "depth_array", "rgbd_tuple"]}  # noqa: RUF012 - gymnasium's own way

    def __init__(
        self,
        url: str,
        env_id: str | None = None,
        *,
        render_mode: str | None = None,
        on_fault: str = "raise",
        on_lost: str = "raise",
        owner: str | None = None,
        wait_s: float = 0.0,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        shared_memory: bool = True,
        compression: bool | str | None = None,
        checksum: bool = False,
        ca_file: str | None = None,
        fingerprint: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        config = RemoteConfig(
            env_id=env_id, autoreset_mode="none", render_mode=render_mode, on_fault=on_fault, owner=owner,
            wait_s=wait_s, token=token, timeout_s=timeout_s, arguments=arguments, shared_memory=shared_memory,
            compression=compression, checksum=checksum, on_lost=on_lost, ca_file=ca_file, fingerprint=fingerprint,
        )  # fmt: skip
        self._url = url
        self._remote = RemoteEnvs(url, [1], config)
        self._lane = self._remote.lanes[0]
        self.observation_space = self._remote.observation_space
        self.action_space = self._remote.action_space
        self.metadata = dict(self._remote.env.metadata)
        self.render_mode = render_mode
        self._served = self._remote.env
        self._tell({"url": url, **config.copied()})
        self._needs_reset = True
        self._is_closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `seed` and `options` reach the real env. After SessionLost it opens a new session.

        A step that a Ctrl-C interrupted is waited for, and its answer dropped.
        """
        super().reset(seed=seed)
        remote = self._open()
        self._needs_reset = True
        remote.begin_reset(None if seed is None else [seed], b"" if options is None else pack_tree(options), None)
        told = remote.finish_only_reset()
        self._needs_reset = False
        return told

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance the env by one action, at most once on the server, however often the wire breaks.

        An action is cast to its space's dtype where nothing is lost but precision: whole numbers within range, bools to
        numbers, floats to narrower floats; never a float to a whole number, never a text.
        ActionError: refused before anything was stepped. EnvFault: the env raised or its worker died; reset().
        SessionLost: the server no longer knows us, the episode is gone; reset() opens a new session.
        """
        if self._needs_reset:
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        lane = self._lane
        try:
            if lane.codec.layout is None:
                lane.send_packed(b"", pack_tree(lane.codec.check_tree([action])))
            else:
                lane.send_packed(lane.codec.pack_one(action))
        except SeqError:
            raise SeqError("the step before was interrupted, and its answer not taken: reset() goes on") from None
        try:
            return lane.take_only()
        except EnvFault:
            self._needs_reset = True
            raise

    @property
    def uses_shared_memory(self) -> bool:
        """Whether observations come by shared memory: large ones do, where the server is on this host."""
        return self._remote.uses_shared_memory()

    def render(self) -> Any:
        """What the real env renders now; fetched when asked for, never with a step. None without a render_mode."""
        if self.render_mode is None:
            return None
        self._open()
        return self._lane.render()[0]

    def close(self) -> None:
        """End the session and free the env at the server; may be called again."""
        if not self._is_closed:
            self._is_closed = True
            self._remote.link.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self._url, **self._remote.config.copied()), (), {"_spec": self._spec}

    def _open(self) -> RemoteEnvs:
        if self._is_closed:
            raise SessionLost("this VirtualEnv was closed; make another")
        self._remote.ensure_open()
        return self._remote
