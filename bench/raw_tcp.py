"""The yardstick of the rows against raw TCP: the floor for Python, and no product.

One process, blocking sockets, fixed frames (int32 actions in; observations, float32 rewards and a byte
of ends out); no isolation, no session, no spaces, no retry. `python raw_tcp.py ENV_ID N` serves, on a
port that it prints. Envs are what `gymnasium.make` gives, reset where they end.
"""

from __future__ import annotations

import socket
import sys
from typing import Any


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill the view, or raise ConnectionError."""
    got = 0
    while got < len(view):
        count = connection.recv_into(view[got:])
        if not count:
            raise ConnectionError("the other side went away")
        got += count


def serve(env_id: str, num_envs: int) -> None:
    """Step `num_envs` environments for one client after the other."""
    import gymnasium
    import numpy as np

    envs = [gymnasium.make(env_id) for _ in range(num_envs)]
    obs = np.stack([env.reset()[0] for env in envs])
    rewards, ends, actions = np.zeros(num_envs, np.float32), np.zeros(num_envs, np.uint8), np.zeros(num_envs, np.int32)
    incoming = actions.data.cast("B")
    outgoing = [array.data.cast("B") for array in (obs, rewards, ends)]
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                receive_into(connection, incoming)
                for index, (env, action) in enumerate(zip(envs, actions.tolist(), strict=True)):
                    observation, reward, terminated, truncated, _ = env.step(action)
                    if terminated or truncated:
                        observation, _ = env.reset()
                    obs[index], rewards[index], ends[index] = observation, reward, terminated or truncated
                sent = connection.sendmsg(outgoing)
                if sent < sum(map(len, outgoing)):
                    connection.sendall(b"".join(outgoing)[sent:])
        except ConnectionError:
            connection.close()


class Client:
    """The other end: `step` sends actions and waits for the frame."""

    def __init__(self, port: int, num_envs: int, obs_bytes: int) -> None:
        import numpy as np

        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._view = memoryview(bytearray(num_envs * (obs_bytes + 5)))
        self._array, self._int32 = np.array, np.int32

    def step(self, actions: Any) -> None:
        """Send the actions, wait for the answer."""
        self._connection.sendall(self._array(actions, self._int32).tobytes())
        receive_into(self._connection, self._view)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
