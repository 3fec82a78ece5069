"""Serves CartPole: `python server.py --count 4` starts four env servers on ports 1800 … 1803. Ctrl-C ends them."""

import argparse
import multiprocessing
import signal
import sys

from workers.real_env_worker import real_env_worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800, help="of the first server")
    parser.add_argument("--count", type=int, default=4, help="how many servers")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    servers = [
        context.Process(target=real_env_worker, args=("CartPole-v1", options.host, options.port + number))
        for number in range(options.count)
    ]
    for server in servers:
        server.start()
    signal.signal(signal.SIGINT, lambda *_: None)  # a Ctrl-C reaches the servers, too: wait until they have closed
    for server in servers:
        server.join()
    return max(abs(server.exitcode) for server in servers)


if __name__ == "__main__":
    sys.exit(main())
