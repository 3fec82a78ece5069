"""Trains on the servers of server.py: `python client.py --count 4`. Builds the queues, starts the processes, waits."""

import argparse
import multiprocessing
import signal
import sys

from model.agents import model_worker
from workers.exploration_worker import exploration_worker
from workers.training_worker import training_worker
from workers.virtual_env import open_virtual_env


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800, help="of the first server")
    parser.add_argument("--count", type=int, default=4, help="how many servers, and exploration workers")
    parser.add_argument("--episodes", type=int, default=200, help="at most, for each exploration worker")
    options = parser.parse_args()
    addresses = [(options.host, options.port + number) for number in range(options.count)]

    env = open_virtual_env(*addresses[0])
    sizes = env.observation_space.shape[0], env.action_space.n
    env.close()

    context = multiprocessing.get_context("spawn")
    requests = context.Queue(options.count)  # exploration workers → model worker: (worker, observation)
    answers = [context.Queue(1) for _ in addresses]  # model worker → each exploration worker: action
    transitions = context.Queue(64)  # exploration workers → training worker; full means: wait for the learning
    weights = context.Queue(1)  # training worker → model worker
    is_stopping = context.Event()

    model = context.Process(target=model_worker, args=(requests, answers, weights, *sizes))
    training = context.Process(target=training_worker, args=(transitions, weights, is_stopping, options.count, *sizes))
    explorers = [
        context.Process(
            target=exploration_worker,
            args=(worker, address, options.episodes, requests, answers, transitions, is_stopping),
        )
        for worker, address in enumerate(addresses)
    ]
    processes = [model, training, *explorers]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: a Ctrl-C is for this process alone
    for process in processes:
        process.daemon = True  # ends with this one
        process.start()
    signal.signal(signal.SIGINT, lambda *_: is_stopping.set())  # the running episodes are the last
    for process in (*explorers, training):
        process.join()
    requests.put(None)
    model.join()
    return max(abs(process.exitcode) for process in processes)


if __name__ == "__main__":
    sys.exit(main())
