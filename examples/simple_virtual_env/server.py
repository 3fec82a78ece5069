"""Serves CartPole, with a small screen that is quickly rendered: `python server.py`. Ctrl-C ends it."""

import argparse
import sys

import gymnasium

from multiserverrl.errors import MultiServerRLError
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import serve


def cartpole(render_mode: str | None = "rgb_array") -> gymnasium.Env:
    env = gymnasium.make("CartPole-v1", render_mode=render_mode)
    env.unwrapped.screen_width, env.unwrapped.screen_height = 300, 200  # a third of the time of 600×400
    return env


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800)
    options = parser.parse_args()
    try:
        return serve(ServerConfig(env_ids=(f"{__file__}:cartpole",), host=options.host, port=options.port, count=1))
    except MultiServerRLError as error:  # the port is taken, or beyond loopback there is no token
        print(error.headline, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
