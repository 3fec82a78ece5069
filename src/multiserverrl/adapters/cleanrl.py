"""CleanRL: remote environments with infos as Gymnasium gave them before 1.0, which its scripts read.

An episode that ends leaves `infos["final_observation"]` and `infos["final_info"]`, one entry an env (None
for those that go on), with the episode's return and length in `final_info[i]["episode"]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray

from multiserverrl.adapters.infos import infos_by_env, warn_of_made_up
from multiserverrl.client.vector import VirtualVectorEnv

__all__ = ["CleanRLEnvs"]

Stepped = tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class CleanRLEnvs(VectorWrapper):
    """`num_envs` environments of an env server, in the place of a script's `gym.vector.SyncVectorEnv(…)`.

    `on_fault` is "raise": an env that fails ends the script with EnvFault, since a script has no way to leave
    a transition out. A session that is lost ends it with SessionLost; with `on_lost="truncate"` all its episodes end
    with their last observation and reward 0, the script learns from these made-up transitions, and a RuntimeWarning
    says so.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        env_id: str | None = None,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        on_lost: str = "raise",
        owner: str | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        fingerprint: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        envs = VirtualVectorEnv(
            url, env_id, num_envs, autoreset_mode="same_step", on_lost=on_lost, owner=owner, token=token,
            ca_file=ca_file, fingerprint=fingerprint, arguments=arguments,
        )  # fmt: skip
        super().__init__(RecordEpisodeStatistics(envs))
        if seed is not None:  # the scripts seed what draws the random actions
            envs.single_action_space.seed(seed)

    def step(self, actions: Any) -> Stepped:
        """As a Gymnasium vector env before 1.0; infos of running episodes stay as they are."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            infos = self._with_finals(infos, ended)
        return observations, rewards, terminated, truncated, infos

    def _with_finals(self, infos: dict[str, Any], ended: NDArray[Any]) -> dict[str, Any]:
        told = infos_by_env(infos, self.num_envs)
        observations = np.full(self.num_envs, None, object)
        final_infos = np.full(self.num_envs, None, object)
        mask = np.zeros(self.num_envs, np.bool_)
        for env in ended:
            warn_of_made_up(env, told[env], stacklevel=3)
            observations[env], mask[env] = told[env]["final_obs"], True
            episode = {key: column[env] for key, column in infos["episode"].items()}
            final_infos[env] = {**told[env].get("final_info", {}), "episode": episode}
        kept = {key: value for key, value in infos.items() if key.lstrip("_") not in _MOVED}
        return {
            **kept,
            "final_observation": observations, "_final_observation": mask,
            "final_info": final_infos, "_final_info": mask.copy(),
        }  # fmt: skip


_MOVED = ("final_obs", "final_info", "episode")
