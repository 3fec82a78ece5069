"""Sessions that end while something else happens: their envs are closed, and nobody waits for them in vain."""

import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from multiserverrl.client.api import describe
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.errors import SessionTaken
from multiserverrl.testing.envs import count_of
from multiserverrl.testing.serving import serving
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Open, Reset, Step
from multiserverrl.wire.trees import pack_tree
from tests.server.support import RawSession


def env_that_closes_by(tmp_path: Path, body: str) -> str:
    """The id of a Scripted env with this `close`."""
    (tmp_path / "closing.py").write_text(
        "import time\nfrom multiserverrl.testing.envs import Scripted\n"
        f"class Closing(Scripted):\n    def close(self):\n        {body}\n"
    )
    return f"{tmp_path}/closing.py:Closing"


def test_an_expired_session_whose_env_hangs_at_its_close_does_not_stop_the_deadlines(tmp_path: Path) -> None:
    env_id = env_that_closes_by(tmp_path, "time.sleep(3600 if self.steps else 0)")
    with serving(env_id, count=1, workers=1, time_to_live_s=0.2, step_deadline_s=0.3) as server:
        left = VirtualEnv(server.url)
        left.reset()
        left.step(0)
        left._remote.link._drop()
        env = VirtualEnv(server.url, wait_s=20.0)  # free again when the env worker was killed past its deadline
        env.reset()
        env.close()
        left.close()


def test_envs_are_closed_though_whoever_took_their_place_went_away_meanwhile(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    env_id = env_that_closes_by(tmp_path, f"self.steps and (time.sleep(0.5), open({str(closed)!r}, 'w').close())")
    with serving(env_id, count=1, workers=1) as server:
        older = RawSession(server.url, env_id, owner="the-key-of-a-run")
        older.ask(Reset(0, 1, options=pack_tree({"how": "sleep", "at": 2, "sleep_s": 0.5})))
        older.ask(Step(0, 2), bytes(8))
        older.connection.send(frames.encode(Step(0, 3), bytes(8)))
        newer = Connection(Address.parse(server.url), 20)
        newer.send(frames.encode(Open(PROTOCOL_VERSION, owner="the-key-of-a-run")))
        with pytest.raises(ConnectionEnded):  # it was told to make room, perhaps when its step had been answered
            list(iter(older.connection.receive, None))
        newer.drop()
        env = VirtualEnv(server.url, wait_s=20.0)
        assert closed.exists()
        env.close()
        older.connection.close()


def env_that_is_made_by(tmp_path: Path, seconds: float) -> str:
    """The id of a Scripted env that is made slowly once `slow` exists, and counts in files: `made` and `closed`."""
    (tmp_path / "making.py").write_text(
        "import pathlib, time\nfrom multiserverrl.testing.envs import Scripted\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "class Making(Scripted):\n"
        f"    def __init__(self):\n        time.sleep({seconds} if (here / 'slow').exists() else 0)\n"
        "        super().__init__()\n        (here / 'made').open('a').write('+')\n"
        "    def close(self):\n        (here / 'closed').open('a').write('-')\n"
    )
    return f"{tmp_path}/making.py:Making"


def wait_until_free(url: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while describe(url).free < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert describe(url).free == count


def test_envs_whose_client_goes_away_while_they_are_made_are_closed(tmp_path: Path) -> None:
    with serving(env_that_is_made_by(tmp_path, 0.5), count=1, workers=1) as server:
        (tmp_path / "slow").touch()
        leaver = Connection(Address.parse(server.url), 20)
        leaver.send(frames.encode(Open(PROTOCOL_VERSION)))
        while describe(server.url).free:
            time.sleep(0.02)
        time.sleep(0.2)
        leaver.drop()
        wait_until_free(server.url, 1)
        (tmp_path / "slow").unlink()
        VirtualEnv(server.url).close()
        assert count_of(tmp_path / "made") == count_of(tmp_path / "closed") >= 2


def test_a_client_that_goes_away_while_it_waits_by_http_gets_no_envs(tmp_path: Path) -> None:
    with serving("CartPole-v1", count=1, workers=1) as server:
        holder, parts = VirtualEnv(server.url), urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), 20) as waiting:
            head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n"
            waiting.sendall(head + b'{"wait_s": 60}')
            time.sleep(0.2)
        time.sleep(0.2)
        holder.close()
        wait_until_free(server.url, 1)
        time.sleep(0.2)
        assert describe(server.url).free == 1


def test_of_two_opens_of_one_owner_the_later_one_counts(tmp_path: Path) -> None:
    with serving(env_that_is_made_by(tmp_path, 0.7), count=2, workers=2) as server:
        (tmp_path / "slow").touch()
        taken: list[bool] = []

        def open_first() -> None:
            with pytest.raises(SessionTaken, match="its owner opened another"):
                VirtualEnv(server.url, owner="the-key-of-a-run")
            taken.append(True)

        first = threading.Thread(target=open_first)
        first.start()
        while describe(server.url).free == 2:
            time.sleep(0.02)
        later = VirtualEnv(server.url, owner="the-key-of-a-run")
        first.join()
        assert taken and describe(server.url).free == 1
        later.close()
