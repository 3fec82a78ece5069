"""Envs of a run are sessions of their own."""

import numpy as np

from multiserverrl.launch.envs import open_envs
from multiserverrl.testing.serving import serving


def test_envs_without_an_owner_end_no_other_session() -> None:
    with serving("CartPole-v1", count=2, workers=1) as server:
        both = [open_envs(server.url, "CartPole-v1", 1, owner=None) for _ in range(2)]
        for envs in both:
            envs.reset(seed=0)
        for envs in both:
            assert envs.step(np.zeros(1, np.int64))[1].tolist() == [1.0]
            envs.close()
