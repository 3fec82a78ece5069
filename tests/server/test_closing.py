"""Sessions that end while something else happens: their envs are closed, and nobody waits for them in vain."""

from pathlib import Path

import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
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
        older.ask(Reset(0, 1, options=pack_tree({"how": "sleep", "at": 1, "sleep_s": 0.5})))
        older.connection.send(frames.encode(Step(0, 2), bytes(8)))
        newer = Connection(Address.parse(server.url), 20)
        newer.send(frames.encode(Open(PROTOCOL_VERSION, owner="the-key-of-a-run")))
        with pytest.raises(ConnectionEnded):  # it was told to make room, perhaps when its step had been answered
            list(iter(older.connection.receive, None))
        newer.drop()
        env = VirtualEnv(server.url, wait_s=20.0)
        assert closed.exists()
        env.close()
        older.connection.close()
