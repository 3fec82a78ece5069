"""Plays episodes on one virtual env and sends every transition to the training worker."""

from multiprocessing import Queue
from multiprocessing.synchronize import Event

from model.agents import ExploringAgent, RemoteAgent
from workers.virtual_env import open_virtual_env, play_episode

EPSILON_DECAY_STEPS = 4000  # of all exploration workers together


def exploration_worker(
    worker: int,
    address: tuple[str, int],
    episodes: int,
    requests: Queue,
    answers: list[Queue],
    transitions: Queue,
    is_stopping: Event,
) -> None:
    """Ends after `episodes`, or when the run stops; its last message is None, whatever happened."""
    try:
        env = open_virtual_env(*address)
        remote = RemoteAgent(worker, requests, answers[worker])
        agent = ExploringAgent(remote, env.action_space.n, EPSILON_DECAY_STEPS // len(answers), seed=worker)
        for episode in range(episodes):
            for transition in play_episode(env, agent, seed=worker if episode == 0 else None):
                transitions.put((worker, *transition))
            if is_stopping.is_set():
                break
        env.close()
    finally:
        transitions.put(None)
