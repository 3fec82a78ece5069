"""Requests that come again, late, or changed; and what becomes of a client that just asks again."""

from __future__ import annotations

import select
from typing import Any

import numpy as np

from matrix import Effort, Seen
from multiserverrl.client.transport import Address, Connection
from multiserverrl.errors import error_for
from multiserverrl.testing.serving import serving
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import PROTOCOL_VERSION, Call, Open, Opened, Refused, Reset, Resume, Step
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_tree
from twins import ENDLESS, SCRIPTED

__all__ = ["repeat_requests"]

NUM_ENVS = 64
TIMEOUT_S = 30.0
NAIVE_STEPS = 2000
FAULTS = ("none", "reply lost", "twice", "stale", "other body", "too far ahead")


class Asker:
    """A session by the protocol's own words, so that requests can be sent that no client of ours would send."""

    def __init__(self, url: str, num_envs: int) -> None:
        self._address = Address.parse(url)
        self._connection = self._connected()
        opened: Any = self.ask(frames.encode(Open(PROTOCOL_VERSION, num_envs=num_envs)))[0]
        assert isinstance(opened, Opened)
        self._opened = opened
        self.layout = StepLayout(restore_space(opened.env.observation_space), num_envs)
        self._codec = ActionCodec(restore_space(opened.env.action_space), num_envs)
        self.seq = 0

    def _connected(self) -> Connection:
        connection = Connection(self._address, TIMEOUT_S)
        connection.set_timeout(TIMEOUT_S)
        return connection

    def ask(self, *requests: bytes) -> tuple[Any, memoryview]:
        """Send all of these, take as many answers, and give the last one."""
        for request in requests:
            self._connection.send(request)
        return [frames.decode_answer(self._connection.receive()) for _ in requests][-1]

    def lose_reply(self, request: bytes) -> None:
        """Send it, cut the connection when the answer is on its way, and come back."""
        self._connection.send(request)
        select.select([self._connection.fileno()], [], [], TIMEOUT_S)
        self._connection.drop()
        self._connection = self._connected()
        opened = self._opened
        self.ask(frames.encode(Resume(PROTOCOL_VERSION, opened.session, opened.secret, opened.incarnation)))

    def request(self, seq: int, actions: Any) -> bytes:
        """A step's bytes."""
        return frames.encode(Step(0, seq), self._codec.pack(actions))

    def reset(self) -> None:
        """Begin episodes that never end."""
        self.seq += 1
        self.ask(frames.encode(Reset(0, self.seq, [0] * self.layout.num, pack_tree({"length": ENDLESS}))))

    def applied(self) -> list[int]:
        """How many steps each real env says it took."""
        self.seq += 1
        answer, _ = self.ask(frames.encode(Call(0, self.seq, "get", "steps", pack_tree(None))))
        found = {row: value for part in answer.values for row, value in unpack_tree(part).items()}
        return [int(found[row]) for row in range(self.layout.num)]

    def close(self) -> None:
        self._connection.drop()


def repeat_requests(effort: Effort) -> Seen:
    """One fault a request; an env's step counts as one, so a request of 64 envs is 64 of them."""
    batches = effort.times(20_000, 1_000_000) // NUM_ENVS
    choices = np.random.default_rng(effort.seed)
    counts = dict.fromkeys(FAULTS, 0)
    wrong = 0
    with serving(SCRIPTED, count=NUM_ENVS, workers=1, allow_attr="steps") as server:
        asker = Asker(server.url, NUM_ENVS)
        asker.reset()
        for batch in range(1, batches + 1):
            fault = FAULTS[choices.integers(len(FAULTS))]
            counts[fault] += 1
            actions = choices.integers(0, 2, NUM_ENVS)
            wrong += not _step_with(asker, fault, actions, batch)
        applied = asker.applied()
        asker.close()
    beyond = sum(applied) - batches * NUM_ENVS
    wrong += sum(one != batches for one in applied)
    naive = _naively(effort)
    done = f"{batches * NUM_ENVS} steps ({batches} requests of {NUM_ENVS} envs): " + ", ".join(
        f"{count} {name}" for name, count in counts.items() if name != "none"
    )
    what = (
        f"applied − wanted {beyond}, wrong answers {wrong}; "
        f"a client that just asks again for one answer in ten applied {naive} for {NAIVE_STEPS}"
    )
    return Seen(done, what, beyond == wrong == 0 and naive > NAIVE_STEPS)


def _step_with(asker: Asker, fault: str, actions: Any, number: int) -> bool:
    """The `number`th step of all envs with a fault before or after it; whether all that was told is right."""
    asker.seq += 1
    seq, request = asker.seq, asker.request(asker.seq, actions)
    is_right = True
    if fault == "too far ahead":
        is_right = _is_refused(asker, asker.request(seq + 1, actions), "too far ahead")
    elif fault == "reply lost":
        asker.lose_reply(request)
    answer, body = asker.ask(request, request) if fault == "twice" else asker.ask(request)
    observations, rewards, _, _ = asker.layout.unpack(body)
    is_right &= bool((observations[:, 0] == number).all() and (rewards == observations[:, 1] + actions).all())
    if fault == "stale":
        is_right &= _is_refused(asker, asker.request(seq - 1, actions), "stale")
    elif fault == "other body":
        is_right &= _is_refused(asker, asker.request(seq, 1 - actions), "another request with the same seq")
    return is_right and answer.seq == seq


def _is_refused(asker: Asker, request: bytes, words: str) -> bool:
    answer, _ = asker.ask(request)
    return (
        isinstance(answer, Refused)
        and type(error_for(answer.code, "")).__name__ == "SeqError"
        and words in answer.message
    )


def _naively(effort: Effort) -> int:
    """What an env takes from a client that asks for a lost answer as for a new step; each tenth is lost."""
    choices = np.random.default_rng(effort.seed)
    with serving(SCRIPTED, count=1, workers=1, allow_attr="steps") as server:
        asker = Asker(server.url, 1)
        asker.reset()
        action = np.zeros(1, np.int64)
        for _ in range(NAIVE_STEPS):
            asker.seq += 1
            while choices.random() < 0.1:
                asker.lose_reply(asker.request(asker.seq, action))
                asker.seq += 1
            asker.ask(asker.request(asker.seq, action))
        (applied,) = asker.applied()
        asker.close()
    return applied
