"""Owns the replay memory and the network: learns from transitions and hands new weights to the model worker."""

from collections import deque
from multiprocessing import Queue
from multiprocessing.synchronize import Event

import numpy as np
import torch

from model.dqn import Replay, make_network, update

GOOD_RETURN = 195  # mean of the last 20 episodes; the run ends there
WARM_UP, BATCH_SIZE = 500, 128
STEPS_PER_UPDATE, UPDATES_PER_SNAPSHOT, UPDATES_PER_TARGET = 2, 10, 50


def training_worker(
    transitions: Queue, weights: Queue, is_stopping: Event, count: int, obs_size: int, num_actions: int
) -> None:
    """Reads until each of the `count` exploration workers has said None."""
    torch.set_num_threads(1)
    weights.cancel_join_thread()  # weights that nobody reads any more must not keep this process alive
    rng = np.random.default_rng(0)
    replay = Replay(50_000, obs_size)
    network, target = make_network(obs_size, num_actions), make_network(obs_size, num_actions)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scores, returns, episodes, updates = [0.0] * count, deque(maxlen=20), 0, 0

    while count:
        if (message := transitions.get(timeout=120)) is None:
            count -= 1
            continue
        worker, *transition, truncated = message
        replay.add(*transition)  # `terminated` is in it; `truncated` is not: such an episode could have gone on
        terminated, reward = transition[-1], transition[2]

        scores[worker] += reward
        if terminated or truncated:
            returns.append(scores[worker])
            scores[worker], episodes = 0.0, episodes + 1
            if episodes % 20 == 0:
                print(f"episodes {episodes}  steps {replay.added}  mean return {np.mean(returns):.1f}", flush=True)
            if len(returns) == 20 and np.mean(returns) >= GOOD_RETURN:
                is_stopping.set()

        if replay.added >= WARM_UP and replay.added % STEPS_PER_UPDATE == 0:
            update(network, target, optimizer, replay.sample(BATCH_SIZE, rng))
            updates += 1
            if updates % UPDATES_PER_TARGET == 0:
                target.load_state_dict(network.state_dict())
            if updates % UPDATES_PER_SNAPSHOT == 0 and weights.empty():
                weights.put({name: value.numpy().copy() for name, value in network.state_dict().items()})
    print(
        f"ended after {episodes} episodes: mean return {np.mean(returns):.1f} over the last {len(returns)}", flush=True
    )
