"""The row of a served EnvPool: 64 CartPole envs in C++, against the same EnvPool in this process, on one core."""

from __future__ import annotations

import importlib
import warnings

import numpy as np

import multiserverrl as msr
import placement
from rates import in_turns, rate_of
from rows import Row, Settings, Start, Unavailable

NUM_ENVS = 64


def against_in_process(settings: Settings) -> Start:
    """One start: the pool here and the served one have one thread each, and everything shares the client's core."""
    try:
        envpool = importlib.import_module("envpool")
    except ImportError as error:
        raise Unavailable("pip install 'multiserverrl[envpool]'") from error
    actions = np.random.default_rng(7).integers(0, 2, (4096, NUM_ENVS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bounds of its spaces
        local = envpool.make_gymnasium("CartPole-v1", num_envs=NUM_ENVS, num_threads=1, seed=0)
        local.reset()
    with placement.env_server("envpool:CartPole-v1", NUM_ENVS, settings.client_core) as (url, _):
        envs = msr.VirtualVectorEnv(url, num_envs=NUM_ENVS)
        envs.reset(seed=0)
        reference, ours = rate_of(local.step, actions, NUM_ENVS), rate_of(envs.step, actions, NUM_ENVS)
        part = in_turns(reference, ours, settings.seconds)
        envs.close()
    return Start(part)


ROWS = [Row("W3p", "64 CartPole of EnvPool, same", "EnvPool in process", 0.55, against_in_process)]
