"""Stable-Baselines3: remote environments as its `VecEnv`, all of them stepped by one message.

What SB3 calls an info is made here of Gymnasium's vector infos: `terminal_observation` and
`TimeLimit.truncated` at the end of an episode, whose next one has then begun already. Their scalars are NumPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Wrapper, spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from multiserverrl.adapters.infos import infos_by_env, warn_of_made_up
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, NotAllowedError

__all__ = ["SB3VecEnv"]

_FAULT_KEY = "multiserverrl"


class SB3VecEnv(VecEnv):
    """`num_envs` environments of an env server (or of several) for any of SB3's algorithms.

    `on_fault` is "raise": an env that fails ends `learn()` with EnvFault, since SB3 has no way to leave a
    transition out. With "truncate" that env's episode ends with its last observation and reward 0, SB3 learns
    from this made-up transition, and a RuntimeWarning says so; `infos[i]["multiserverrl"]["fault"]` has the cause.
    `on_lost` is the same for a session that is lost, of all its envs, with the cause in `["multiserverrl"]["lost"]`.

    The other settings are VirtualVectorEnv's. Attributes and methods of the real envs are reached as far as the
    server's operator allows them (`--allow-attr`): AttributeError otherwise.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        env_id: str | None = None,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        on_fault: str = "raise",
        on_lost: str = "raise",
        owner: str | None = None,
        wait_s: float = 0.0,
        token: str | None = None,
        ca_file: str | None = None,
        fingerprint: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.envs = VirtualVectorEnv(
            url, env_id, num_envs, autoreset_mode="same_step", render_mode=render_mode, on_fault=on_fault,
            on_lost=on_lost, owner=owner, wait_s=wait_s, token=token, ca_file=ca_file, fingerprint=fingerprint,
            arguments=arguments,
        )  # fmt: skip
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)

    def reset(self) -> Any:
        """Begin an episode in every env, with the seeds and options that were set since the last reset."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ConfigError("set_options() takes one dict for all envs; these differ")
        observations, infos = self.envs.reset(seed=seeds, options=options or None)
        self.reset_infos = infos_by_env(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send the actions and return."""
        if isinstance(self.action_space, spaces.MultiBinary):
            actions = actions.astype(self.action_space.dtype)  # SB3 draws them as floats 0.0 and 1.0
        self.envs.step_async(actions)

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations, rewards (N,) float32, dones (N,) bool, and one info an env."""
        observations, rewards, terminated, truncated, told = self.envs.step_wait()
        infos, ended = infos_by_env(told, self.num_envs), terminated | truncated
        for env, info in enumerate(infos):
            if ended[env]:
                infos[env] = info = self._at_the_end(env, info)
            info["TimeLimit.truncated"] = bool(truncated[env] and not terminated[env])
        return observations, rewards.astype(np.float32), ended, infos

    def _at_the_end(self, env: int, told: dict[str, Any]) -> dict[str, Any]:
        """The last info of an episode; what the reset told is kept for `reset_infos`."""
        info = {**told.pop("final_info", {}), "terminal_observation": told.pop("final_obs")}
        if _FAULT_KEY in told:
            info[_FAULT_KEY] = told.pop(_FAULT_KEY)
            warn_of_made_up(env, info, stacklevel=3)
        self.reset_infos[env] = told
        return info

    def close(self) -> None:
        """End the session and free the envs at the server."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """One frame an env, fetched when asked for."""
        return list(self.envs.render() or [None] * self.num_envs)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the real envs; `render_mode` needs no leave."""
        chosen = self._get_indices(indices)
        if attr_name == "render_mode":
            return [self.envs.render_mode for _ in chosen]
        try:
            values = self.envs.get_attr(attr_name)
        except NotAllowedError as error:
            raise AttributeError(str(error)) from error
        return [values[env] for env in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all real envs to one value; ConfigError for some of them only."""
        self._check_all(indices)
        try:
            self.envs.set_attr(attr_name, [value] * self.num_envs)
        except NotAllowedError as error:
            raise AttributeError(str(error)) from error

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of all real envs; ConfigError for some of them only."""
        self._check_all(indices)
        try:
            return list(self.envs.call(method_name, *method_args, **method_kwargs))
        except NotAllowedError as error:
            raise AttributeError(str(error)) from error

    def env_is_wrapped(
        self, wrapper_class: type[Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for every env: what wraps them at the server is no wrapper of this process."""
        return [False for _ in self._get_indices(indices)]

    def _check_all(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ConfigError(f"this reaches all {self.num_envs} envs at once, not those of indices={indices} alone")
