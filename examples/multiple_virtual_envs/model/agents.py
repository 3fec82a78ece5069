"""Who chooses actions: agents with `act(observation)`, and the process that chooses for all of them."""

from multiprocessing import Queue

import numpy as np
import torch
from torch import nn

from model.dqn import make_network


class PlainAgent:
    """The greedy policy of a network; takes one observation, or a batch of them."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        return self.network(torch.from_numpy(observation)).argmax(-1).numpy()


class RemoteAgent:
    """Asks the model worker, and waits for its answer."""

    def __init__(self, worker: int, requests: Queue, answers: Queue) -> None:
        self.worker, self.requests, self.answers = worker, requests, answers

    def act(self, observation: np.ndarray) -> int:
        self.requests.put((self.worker, observation))
        return self.answers.get(timeout=60)


class ExploringAgent:
    """Another agent, but a random action with probability ε, which falls from 1 to 0.02 over `decay_steps`."""

    def __init__(self, agent: RemoteAgent, num_actions: int, decay_steps: int, seed: int) -> None:
        self.agent, self.num_actions, self.decay_steps = agent, num_actions, decay_steps
        self.rng = np.random.default_rng(seed)
        self.steps = 0

    def act(self, observation: np.ndarray) -> int:
        epsilon = max(0.02, 1 - self.steps / self.decay_steps)
        self.steps += 1
        if self.rng.random() < epsilon:
            return int(self.rng.integers(self.num_actions))
        return self.agent.act(observation)


def model_worker(requests: Queue, answers: list[Queue], weights: Queue, obs_size: int, num_actions: int) -> None:
    """Answers all who wait in one batch, with the newest weights; ends at None."""
    torch.set_num_threads(1)
    agent = PlainAgent(make_network(obs_size, num_actions))
    while (first := requests.get()) is not None:
        waiting = [first] + [requests.get() for _ in range(len(answers) - 1) if not requests.empty()]
        if not weights.empty():
            agent.network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.get().items()})
        actions = agent.act(np.stack([observation for _, observation in waiting]))
        for (worker, _), action in zip(waiting, actions, strict=True):
            answers[worker].put(int(action))
