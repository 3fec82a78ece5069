"""Serves CartPole: `python server.py --count 4` starts four env servers on ports 1800 … 1803. Ctrl-C ends them."""

import argparse
import multiprocessing

from workers.real_env_worker import real_env_worker


def main() -> None:
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
    try:
        for server in servers:
            server.join()
    except KeyboardInterrupt:  # the servers got it too, and are closing
        for server in servers:
            server.join()


if __name__ == "__main__":
    main()
