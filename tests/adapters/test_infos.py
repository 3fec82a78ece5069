"""Vector infos taken apart give back what each env said; needs no trainer, and is run by every plain `pytest`."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from multiserverrl.adapters.infos import infos_by_env


def together(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """As Gymnasium's own vector envs put the envs' infos together."""
    envs: VectorEnv[Any, Any, Any] = VectorEnv()
    envs.num_envs = len(infos)
    found: dict[str, Any] = {}
    for env, info in enumerate(infos):
        found = envs._add_info(found, info, env)
    return found


def test_each_env_gets_what_it_said() -> None:
    said = [
        {"lives": 3, "inner": {"deep": {"x": 1.5}}, "name": "left"},
        {},
        {"lives": 2, "inner": {"other": True}, "point": np.array([1, 2]), "final_obs": "last"},
    ]
    found = infos_by_env(together(said), 3)
    assert found[:2] == said[:2]
    assert found[2].pop("point").tolist() == [1, 2]
    assert found[2] == {"lives": 2, "inner": {"other": True}, "final_obs": "last"}


def test_an_empty_final_info_stays_empty() -> None:
    assert infos_by_env(together([{"final_info": {}}, {}]), 2) == [{"final_info": {}}, {}]
