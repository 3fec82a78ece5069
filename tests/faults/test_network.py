"""A network that is gone and comes back, packet by packet: two namespaces, and a wire between them (root)."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from matrix import Unavailable
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from network_rows import TOKEN, served_over_wire
from packet_wire import CLIENT, PacketWire, Weather

pytestmark = pytest.mark.root
SCRIPTED = "multiserverrl.testing.envs:Scripted"
GONE_S, HEAL_S = 5.0, 10.0


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[PacketWire, str]]:
    with ExitStack() as opened:
        try:
            wire, server = opened.enter_context(served_over_wire(SCRIPTED, count=8, workers=2))
        except Unavailable as error:
            pytest.skip(str(error))
        opened.enter_context(wire.inside(CLIENT))
        yield wire, server.url


def healed_after(wire: PacketWire, seconds: float, at: list[float]) -> threading.Timer:
    def heal() -> None:
        at.append(time.monotonic())
        wire.heal()

    timer = threading.Timer(seconds, heal)
    timer.start()
    return timer


@pytest.mark.parametrize("what", ["request", "reply"])
def test_after_an_outage_the_same_step_is_answered_at_once(wired: tuple[PacketWire, str], what: str) -> None:
    wire, url = wired
    env = VirtualEnv(url, token=TOKEN)
    env.reset(options={"how": "sleep", "at": 2, "sleep_s": 1.0})
    env.step(0)
    cut = threading.Timer(0.5 if what == "reply" else 0.0, wire.cut)  # in mid-step, or before it is asked for
    cut.start()
    if what == "request":
        cut.join()
    at: list[float] = []
    healed = healed_after(wire, GONE_S, at)
    obs, *_ = env.step(0)
    assert obs[0] == 2.0
    assert time.monotonic() - at[0] < HEAL_S + (1.0 if what == "request" else 0.0)  # then the step itself, asked late
    assert env.step(0)[0][0] == 3.0
    cut.join()
    healed.join()
    env.close()


def test_a_slow_step_on_a_wire_that_stands_keeps_its_connection(wired: tuple[PacketWire, str]) -> None:
    env = VirtualEnv(wired[1], token=TOKEN)
    env.reset(options={"how": "sleep", "at": 1, "sleep_s": 5.0})
    assert env.step(0)[0][0] == 1.0
    assert env._remote.link.reconnects == 0
    env.close()


def test_a_client_that_pauses_through_an_outage_keeps_its_connection(wired: tuple[PacketWire, str]) -> None:
    wire, url = wired
    env = VirtualEnv(url, token=TOKEN)
    env.reset()
    wire.cut()
    time.sleep(GONE_S)
    wire.heal()
    assert env.step(0)[0][0] == 1.0
    assert env._remote.link.reconnects == 0
    env.close()


def test_sessions_that_are_waited_for_together_come_back_together(wired: tuple[PacketWire, str]) -> None:
    wire, url = wired
    envs = VirtualVectorEnv([url, url, url], num_envs=6, token=TOKEN)
    envs.reset(options={"how": "sleep", "at": 1, "sleep_s": 1.0})
    cut = threading.Timer(0.5, wire.cut)
    cut.start()
    at: list[float] = []
    healed = healed_after(wire, GONE_S, at)
    obs, *_ = envs.step([0] * 6)
    assert time.monotonic() - at[0] < HEAL_S
    assert obs[:, 0].tolist() == [1.0] * 6
    cut.join()
    healed.join()
    envs.close()


@pytest.mark.parametrize(
    "weather", [Weather(0.02, jitter_s=0.05), Weather(0.02, lost=0.1), Weather(0.02, damaged=0.2, doubled=0.2)]
)
def test_no_weather_is_seen_in_what_is_answered(wired: tuple[PacketWire, str], weather: Weather) -> None:
    wire, url = wired
    env = VirtualEnv(url, token=TOKEN)

    def walk() -> list[Any]:
        obs, _ = env.reset(seed=3, options={"length": 30})
        return [list(obs), *([*step[0], *step[1:4]] for step in (env.step(n % 2) for n in range(20)))]

    clear = walk()
    wire.weather = weather
    assert walk() == clear
    wire.weather = Weather()
    env.close()
