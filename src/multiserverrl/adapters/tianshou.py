"""tianshou: an env worker (its word) that has its environment on an env server.

Of several such workers tianshou sends every action first and takes the answers afterwards, so the
environments step at the same time, in the env server's own env workers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from tianshou.env import BaseVectorEnv
from tianshou.env.worker import EnvWorker

from multiserverrl.adapters.infos import infos_by_env, warn_of_made_up
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, NotAllowedError

__all__ = ["RemoteEnvWorker", "remote_vector_env"]


class RemoteEnvWorker(EnvWorker):
    """One environment, with a session of its own; `env_fn` gives a VirtualVectorEnv of one env without autoreset.

    `on_fault` is what `env_fn` asks for; `remote_vector_env` asks for "raise": an env that fails ends the
    collecting with EnvFault, since tianshou has no way to leave a transition out. After `reset()` it goes on.
    """

    def __init__(self, env_fn: Callable[[], VirtualVectorEnv]) -> None:
        self.env = env_fn()
        if self.env.num_envs != 1 or self.env.autoreset_mode is not AutoresetMode.DISABLED:
            self.env.close()
            raise ConfigError("env_fn must give VirtualVectorEnv(…, num_envs=1, autoreset_mode='disabled')")
        self._is_stepping = False
        self.result: Any = None
        super().__init__(env_fn)

    def get_env_attr(self, key: str) -> Any:
        """The virtual env's own spaces, metadata, spec and render mode; others as the server's operator allows."""
        if key in ("action_space", "observation_space"):
            return getattr(self.env, f"single_{key}")
        if key in ("metadata", "spec", "render_mode"):
            return getattr(self.env, key)
        try:
            return self.env.get_attr(key)[0]
        except NotAllowedError as error:
            raise AttributeError(str(error)) from error

    def set_env_attr(self, key: str, value: Any) -> None:
        """Set an attribute of the real env, as the server's operator allows."""
        try:
            self.env.set_attr(key, [value])
        except NotAllowedError as error:
            raise AttributeError(str(error)) from error

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `seed` and `options` reach the real env. An answer that nobody took is dropped."""
        if "seed" in kwargs:
            super().seed(kwargs["seed"])
        self._is_stepping = False
        observations, infos = self.env.reset(**kwargs)
        return _only(observations), infos_by_env(infos, 1)[0]

    def send(self, action: Any, **kwargs: Any) -> None:
        """Send an action and return; None resets."""
        if action is None:
            self.result = self.reset(**kwargs)
        else:
            self.env.step_async(_batch_of(action))
            self._is_stepping = True

    def recv(self) -> Any:
        """(obs, reward, terminated, truncated, info) of the step that was sent, or (obs, info) of the reset."""
        if self._is_stepping:
            self._is_stepping = False
            observations, rewards, terminated, truncated, infos = self.env.step_wait()
            info = infos_by_env(infos, 1)[0]
            warn_of_made_up(0, info, stacklevel=2)
            self.result = (_only(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info)
        return self.result

    @staticmethod
    def wait(workers: list[EnvWorker], wait_num: int, timeout: float | None = None) -> list[EnvWorker]:
        """Those that were sent first, whether or not others answer sooner; their answers may still be on the way."""
        return workers[:wait_num]

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Reset the env with this seed, as tianshou's own workers do."""
        self.reset(seed=seed)
        return [seed]

    def render(self, **kwargs: Any) -> Any:
        """What the real env renders now; None without a render_mode."""
        frames = self.env.render()
        return None if frames is None else frames[0]

    def close_env(self) -> None:
        """End the session and free the env at the server."""
        self.env.close()


def remote_vector_env(
    url: str,
    env_id: str | None = None,
    num_envs: int = 1,
    *,
    wait_num: int | None = None,
    render_mode: str | None = None,
    on_lost: str = "raise",
    owner: str | None = None,
    token: str | None = None,
    ca_file: str | None = None,
    fingerprint: str | None = None,
    arguments: dict[str, Any] | None = None,
) -> BaseVectorEnv:
    """`num_envs` environments of an env server for tianshou's collectors; `wait_num` as tianshou has it.

    `on_lost` "raise" ends the collecting with SessionLost; with "truncate" the lost episode ends with its last
    observation and reward 0, tianshou learns from this made-up transition, and a RuntimeWarning says so. `owner`
    is of all sessions together: each has it with its env's number behind it.
    """

    def env_fn(number: int) -> VirtualVectorEnv:
        return VirtualVectorEnv(
            url, env_id, 1, autoreset_mode="disabled", render_mode=render_mode, on_lost=on_lost,
            owner=None if owner is None else f"{owner}-{number}", token=token, ca_file=ca_file, fingerprint=fingerprint,
            arguments=arguments,
        )  # fmt: skip

    return BaseVectorEnv([partial(env_fn, number) for number in range(num_envs)], RemoteEnvWorker, wait_num)


def _only(observations: Any) -> Any:
    """The single observation of a batch of one."""
    if isinstance(observations, dict):
        return {key: _only(part) for key, part in observations.items()}
    return observations[0]


def _batch_of(action: Any) -> Any:
    """The single action as a batch of one."""
    if isinstance(action, dict):
        return {key: _batch_of(part) for key, part in action.items()}
    return np.asarray(action)[None]
