"""Fakes that break one rule of docs/protocol.md each, and the claim that has to find it."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

from multiserverrl.testing.fake import FakeServer, FakeSession, Walk
from multiserverrl.testing.fake.connection import BINARY, PONG, Connection
from multiserverrl.testing.fake.frames import Refusal, framed, parsed, stepped


class StepsAgain(FakeSession):
    """A repeated request is carried out once more; the answer is the kept one."""

    def repeated(self, name: str, fields: list[Any], body: bytes) -> bytes:
        self.carried_out(name, fields, body)
        return self.last_answer


class AnswersAnew(FakeSession):
    """A repeated request is carried out once more, and answered with what came of it."""

    def repeated(self, name: str, fields: list[Any], body: bytes) -> bytes:
        return self.carried_out(name, fields, body)


class AnswersStale(FakeSession):
    def perform(self, frame: bytes) -> bytes:
        (_, _, seq, *_), _ = parsed(frame)
        return self.last_answer if seq < self.last_seq else super().perform(frame)


class JumpsAhead(FakeSession):
    def perform(self, frame: bytes) -> bytes:
        (_, _, seq, *_), _ = parsed(frame)
        self.last_seq = max(self.last_seq, seq - 1)
        return super().perform(frame)


class ComparesNoBodies(FakeSession):
    def is_repeat(self, seq: int, frame: bytes) -> bool:
        return 0 < seq == self.last_seq


class KnowsEveryLane(FakeSession):
    def perform(self, frame: bytes) -> bytes:
        (name, _, *fields), body = parsed(frame)
        return super().perform(framed([name, 0, *fields], body))


class UsesUpTheSeq(FakeSession):
    """What is refused at the door has used its seq up all the same."""

    def check(self, name: str, fields: list[Any], body: bytes) -> None:
        try:
            super().check(name, fields, body)
        except Refusal:
            self.last_seq += 1
            raise


class StepsAndRefuses(FakeSession):
    def check_action(self, body: bytes) -> None:
        try:
            super().check_action(body)
        except Refusal:
            self.env.step(1)
            raise


class TakesEveryAction(FakeSession):
    def check_action(self, body: bytes) -> None:
        if len(body) != 8:
            super().check_action(body)


class TakesEverySize(FakeSession):
    def check_action(self, body: bytes) -> None:
        if len(body) == 8:
            super().check_action(body)


class StepsWithoutReset(FakeSession):
    def check(self, name: str, fields: list[Any], body: bytes) -> None:
        if name == "step" and not self.was_reset:
            self.env.reset(0)
            self.was_reset = True
        super().check(name, fields, body)


class StepsTheEnded(FakeSession):
    def check(self, name: str, fields: list[Any], body: bytes) -> None:
        self.has_ended = self.has_ended and self.mode != "disabled"
        super().check(name, fields, body)


class NeverResets(FakeSession):
    """next_step without the reset."""

    def carried_out(self, name: str, fields: list[Any], body: bytes) -> bytes:
        self.has_ended = False
        return super().carried_out(name, fields, body)


class ForgetsTheFinal(FakeSession):
    """same_step without the final observation."""

    def step(self, seq: int, action: int) -> bytes:
        obs, reward, is_terminated, is_truncated = self.env.step(action)
        if self.mode == "same_step" and (is_terminated or is_truncated):
            obs = self.env.reset(None)
        return stepped(seq, obs, reward, is_terminated, is_truncated)


class RefusesMembers(FakeSession):
    def check_action(self, body: bytes) -> None:
        super().check_action(body)
        if self.env.steps == 3:
            raise Refusal("action", "no fourth step")


class RendersNothing(FakeSession):
    """render is answered where there is nothing to show."""

    def check(self, name: str, fields: list[Any], body: bytes) -> None:
        if name != "render":
            super().check(name, fields, body)

    def carried_out(self, name: str, fields: list[Any], body: bytes) -> bytes:
        return framed(["rendered", *fields[:2], []]) if name == "render" else super().carried_out(name, fields, body)


class ResetsByItself(FakeSession):
    """In the mode disabled, too."""

    def step(self, seq: int, action: int) -> bytes:
        answer = super().step(seq, action)
        if self.mode == "disabled" and self.has_ended:
            self.env.reset(None)
        return answer


class AnswersNoise(FakeSession):
    def perform(self, frame: bytes) -> bytes:
        return b"?" * 40


class NeverCloses(FakeSession):
    def carried_out(self, name: str, fields: list[Any], body: bytes) -> bytes:
        answer = super().carried_out(name, fields, body)
        self.is_over = False
        return answer


class Dice(Walk):
    """No seed means anything to it."""

    draws = random.Random(1)

    def obs(self) -> tuple[float, ...]:
        return self.position / 4, self.draws.random(), 1.0


class Outside(Walk):
    """It has more luck than it says of its space."""

    def obs(self) -> tuple[float, ...]:
        position, luck, one = super().obs()
        return position, luck + 1.5, one


class Lottery(Walk):
    """A NaN now and then."""

    def obs(self) -> tuple[float, ...]:
        position, luck, one = super().obs()
        return position, struct.unpack("<f", b"\0\0\xc0\x7f")[0] if position == 0.5 else luck, one


class RemembersTheSeed(Walk):
    """The same seed again in one session begins another episode."""

    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count()

    def reset(self, seed: int | None) -> tuple[float, ...]:
        return super().reset(None if seed is None else seed + next(self.count))


class ForgetsSessions(FakeServer):
    """A broken connection ends the session."""

    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        if self.session is not None:
            self.session.is_over = True
        return super().resume(name, secret, incarnation, connection=connection)


class ResetsOnResume(FakeServer):
    """Another episode goes on after a resume."""

    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        answer = super().resume(name, secret, incarnation, connection=connection)
        assert self.session is not None
        self.session.env.reset(3)
        return answer


class RunsAgain(FakeServer):
    """After a resume the last request is carried out again when it comes again."""

    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        if self.session is not None and self.session.last_seq > 3:
            self.session.last_seq -= 1
        return super().resume(name, secret, incarnation, connection=connection)


class HasMoreThanAll(FakeServer):
    def answer_get(self, path: str) -> dict[str, Any]:
        return {**super().answer_get(path), "free": 5}


class FencesNobody(FakeServer):
    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        if self.session is not None and secret == self.session.secret:
            self.session.holder = None
        return super().resume(name, secret, incarnation, connection=connection)


class TakesEverySecret(FakeServer):
    def resume(self, name: str, secret: str, incarnation: int, *, connection: Connection) -> bytes:
        secret = self.session.secret if self.session is not None else secret
        return super().resume(name, secret, incarnation, connection=connection)


class OpensEveryEnv(FakeServer):
    def open(self, env_id: str | None = None, *given: Any, connection: Connection) -> bytes:  # type: ignore[override]
        return super().open(None, *given, connection=connection)


class SaysMisuse(FakeServer):
    """Every refusal of open has the same code."""

    def begin(self, frame: bytes, connection: Connection) -> bytes:
        try:
            return super().begin(frame, connection)
        except Refusal as refusal:
            raise Refusal("misuse", refusal.message) from None


class DescribesAnother(FakeServer):
    """What it opens is not what it said."""

    def answer_get(self, path: str) -> dict[str, Any]:
        told = super().answer_get(path)
        for env in told.get("envs", []):
            env["max_episode_steps"] = 99
        return told


class HearsHalves(Connection):
    """A message that is cut off in the middle is a step all the same."""

    def exactly(self, size: int) -> bytes:
        try:
            return super().exactly(size)
        except EOFError:
            with self.server.lock:
                if self.session is not None and size > 16:
                    self.session.perform(framed(["step", 0, self.session.last_seq + 1, b""], bytes(8)))
            raise


class NeverPongs(Connection):
    def send(self, opcode: int, payload: bytes) -> None:
        if opcode != PONG:
            super().send(opcode, payload)


class LeavesOpen(Connection):
    """Answers noise instead of closing."""

    def close(self, code: int, reason: str) -> None:
        self.send(BINARY, framed(["refused", 0, 0, "wire", reason, "", False]))


class LetsEverybodyStream(Connection):
    def check_headers(self, headers: dict[str, str]) -> None:
        if "upgrade" not in headers:
            super().check_headers(headers)


BROKEN: list[tuple[Any, str]] = [
    (StepsAgain, "a repeated request gets the kept answer"),
    (AnswersAnew, "a repeated request gets the kept answer"),
    (AnswersStale, "a stale seq is refused"),
    (JumpsAhead, "a seq too far ahead is refused"),
    (ComparesNoBodies, "the same seq with another request is refused"),
    (KnowsEveryLane, "a lane that does not exist is refused"),
    (UsesUpTheSeq, "a step before the first reset is refused, and its seq stays free"),
    (UsesUpTheSeq, "an action that is no member of its space is refused"),
    (StepsAndRefuses, "actions of another size are refused"),
    (StepsAndRefuses, "an action that is no member of its space is refused"),
    (TakesEveryAction, "an action that is no member of its space is refused"),
    (TakesEverySize, "actions of another size are refused"),
    (StepsWithoutReset, "a step before the first reset is refused"),
    (StepsTheEnded, "a step in mode disabled is refused"),
    (RefusesMembers, "30 random members of the action space are accepted"),
    (RendersNothing, "requests that the session was not opened for are refused"),
    (RunsAgain, "a request whose answer was lost is carried out once"),
    (ResetsByItself, "disabled is Gymnasium's"),
    (HasMoreThanAll, "the server describes itself"),
    (Outside, "rewards, ends and infos are of Gymnasium's types"),
    (Outside, "Gymnasium's own env checker passes on it"),
    (NeverResets, "next_step is Gymnasium's"),
    (ForgetsTheFinal, "same_step is Gymnasium's"),
    (AnswersNoise, "a repeated request gets the kept answer"),
    (NeverCloses, "a session that was closed is gone"),
    (Dice, "two sessions with the same seed and actions are equal to the bit"),
    (Outside, "observations are members of the observation space"),
    (Lottery, "observations are members of the observation space"),
    (RemembersTheSeed, "a seed begins the same episode again"),
    (ForgetsSessions, "after a cut in mid-episode, resume goes on"),
    (ResetsOnResume, "after a cut in mid-episode, resume goes on"),
    (FencesNobody, "a newer connection fences the older"),
    (TakesEverySecret, "resume with a wrong secret"),
    (OpensEveryEnv, "what cannot be opened is refused by name"),
    (SaysMisuse, "what cannot be opened is refused by name"),
    (DescribesAnother, "open gives a session of the env that was described"),
    (HearsHalves, "a cut in the middle of a request is never a step"),
    (NeverPongs, "a message in parts is one request"),
    (LeavesOpen, "text, and bytes that are no message"),
    (LetsEverybodyStream, "without the token nothing is told"),
]


def broken(part: Any, token: str = "") -> FakeServer:
    """A fake with this part in the place of the whole one."""
    server: FakeServer = part(token) if issubclass(part, FakeServer) else FakeServer(token)
    for name, kind in (("make_env", Walk), ("make_session", FakeSession), ("make_connection", Connection)):
        if issubclass(part, kind):
            setattr(server, name, part)
    return server
