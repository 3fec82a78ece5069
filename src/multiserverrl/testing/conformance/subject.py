"""The server that is looked at, and one session of it spoken in frames.

The script is a short trajectory of the env, driven once undisturbed. A claim drives it again, does something forbidden
or unlucky in the middle, and wants the rest to be equal to the bit: that is how an untouched env shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NamedTuple

from multiserverrl.client.api import ServerDescription, describe
from multiserverrl.client.transport import Address
from multiserverrl.client.trust import SYSTEM_TRUST, Trust
from multiserverrl.errors import MultiServerRLError, UnknownEnvError
from multiserverrl.testing.conformance.claim import Skip
from multiserverrl.testing.conformance.raw import RawSocket
from multiserverrl.testing.contract import assert_same
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import (
    PROTOCOL_VERSION,
    Close,
    Closed,
    EnvInfo,
    Open,
    Opened,
    Refused,
    Reset,
    Resume,
    Resumed,
    Step,
    Stepped,
)
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_rows

__all__ = ["Move", "RawSession", "Script", "Subject", "shown", "told_of"]

SEED = 123
NUM_STEPS = 8  # of the script
_END_TIMEOUT_S = 5.0  # for the close of a session, whatever state a claim left it in
_WAIT_S = 5.0  # for the env of a session that was just closed


class Move(NamedTuple):
    """One request of the script: a reset with a seed (or none) and options (`tree`), or a step."""

    is_reset: bool
    seed: int | None = None
    body: bytes = b""
    tree: bytes = b""

    def frame(self, seq: int, lane: int = 0, num_envs: int = 1) -> bytes:
        if self.is_reset:
            seeds: list[int | None] | None = None if self.seed is None else [self.seed + row for row in range(num_envs)]
            return frames.encode(Reset(lane, seq, seeds, self.tree))
        return frames.encode(Step(lane, seq, self.tree), self.body)


class Script(NamedTuple):
    """What the undisturbed env answered to each move; `is_repeatable` False: a second time it was something else."""

    moves: list[tuple[Move, dict[str, Any]]]
    is_repeatable: bool

    @property
    def caveat(self) -> str:
        """What a claim about an untouched env has to add."""
        return "" if self.is_repeatable else " (the env is not deterministic: only the answers could be compared)"


class Subject:
    """The server at `url` and one env that it serves.

    UnknownEnvError, ServerUnreachable, Unauthorized and the like when it cannot be looked at.
    """

    def __init__(
        self,
        url: str,
        env_id: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        trust: Trust = SYSTEM_TRUST,
    ) -> None:
        self.address, self.timeout_s, self.trust = Address.parse(url, token, trust), timeout_s, trust
        self.url, self.token = str(self.address), self.address.token
        self.description: ServerDescription = describe(self.url, token=self.token, timeout_s=timeout_s, trust=trust)
        self.env = self._chosen(env_id)
        self.observation_space = restore_space(self.env.observation_space)
        self.action_space = restore_space(self.env.action_space)
        self.is_native = bool(self.env.autoreset_modes)
        self.mode = self.env.autoreset_modes[0] if self.is_native else "none"  # of sessions of one env

    def _chosen(self, env_id: str | None) -> EnvInfo:
        for env in self.description.envs:
            if env_id in (None, env.env_id):
                return env
        served = ", ".join(self.description.env_ids) or "no env"
        raise UnknownEnvError(f"{self.url} serves {served}{f', not {env_id}' if env_id else ''}")

    def several(self, most: int) -> int:
        """How many envs may be had at once, up to `most`; Skip when it is only one."""
        num = min(most, self.description.free)
        if num < 2:
            raise Skip(f"it takes 2 envs at once, the server has {self.description.free} free")
        return num

    def single(self) -> None:
        """Skip for a native vector env."""
        if self.is_native:
            raise Skip("a native vector env is had whole, in its own autoreset mode; there is no single env of it")

    def connect(self, timeout_s: float | None = None) -> RawSocket:
        """A new connection, the handshake made."""
        return RawSocket(self.address, timeout_s or self.timeout_s)

    @contextmanager
    def session(self, **opening: Any) -> Iterator[RawSession]:
        """A session of one env that is closed at the end, whatever happened to its connection."""
        session = RawSession(self, **opening)
        try:
            yield session
        finally:
            session.end()

    @cached_property
    def script(self) -> Script:
        self.action_space.seed(SEED)
        first = self._recorded(None)
        again = self._recorded([move for move, _ in first])
        try:
            assert_same([told for _, told in again], [told for _, told in first])
        except AssertionError:
            return Script(first, False)
        return Script(first, True)

    def _recorded(self, moves: list[Move] | None) -> list[tuple[Move, dict[str, Any]]]:
        told: list[tuple[Move, dict[str, Any]]] = []
        with self.session() as session:
            while len(told) < (NUM_STEPS + 1 if moves is None else len(moves)):
                move = self._next(told) if moves is None else moves[len(told)]
                told.append((move, session.play(move)))
        return told

    def _next(self, told: list[tuple[Move, dict[str, Any]]]) -> Move:
        if not told:
            return Move(True, SEED)
        last = told[-1][1]
        ended = last["terminated"][0] or last["truncated"][0]
        return Move(True) if ended and not told[-1][0].is_reset else self.sampled()

    def sampled(self, num_envs: int = 1) -> Move:
        """A step with random members of the action space."""
        actions = [self.action_space.sample() for _ in range(num_envs)]
        codec = ActionCodec(self.action_space, 1)
        if codec.layout is None:
            return Move(False, tree=pack_tree(actions))
        if num_envs == 1:
            return Move(False, body=codec.pack_one(actions[0]))
        layout = ActionCodec(self.action_space, num_envs).layout
        assert layout is not None
        body = bytearray(layout.end)
        write = layout.row_writer(body, "action")
        for row, action in enumerate(actions):
            write(row, action)
        return Move(False, body=bytes(body))

    def drive(self, disturb: Callable[[RawSession, Move], None], at: int = 4) -> str:
        """Play the script, call `disturb` before its move `at`, and compare every answer with the undisturbed ones."""
        script = self.script
        with self.session() as session:
            for index, (move, wanted) in enumerate(script.moves):
                if index == at:
                    disturb(session, move)
                told = session.play(move)
                if script.is_repeatable:
                    what = "the env moved: the answer after it" if index >= at else "the answer before it"
                    assert_same(told, wanted, f"{what} (request {index + 1} of the trajectory)")
        return f"the other {len(script.moves)} answers were as without it{script.caveat}"


class RawSession:
    """Requests of one session, numbered by `seq` (of lane 0, the last that was answered)."""

    def __init__(self, subject: Subject, **opening: Any) -> None:
        self.subject = subject
        given = {"env_id": subject.env.env_id, "num_envs": 1, "autoreset_mode": subject.mode, "wait_s": _WAIT_S}
        self.num_envs: int = {**given, **opening}["num_envs"]
        self.socket = subject.connect()
        self._older: list[RawSocket] = []
        self.seq, self.last_frame, self.last_answer = 0, b"", b""
        self.is_closed = False
        try:
            answer = self.ask(frames.encode(Open(PROTOCOL_VERSION, **{**given, **opening})))
        except BaseException:
            self.socket.cut()
            raise
        if not isinstance(answer, Opened):
            self.socket.cut()
            raise AssertionError(f"open was answered with {shown(answer)}")
        self.opened = answer
        self.layout = StepLayout(subject.observation_space, answer.lanes[0])

    def ask(self, frame: bytes) -> Any:
        """The message that answers these bytes."""
        self.socket.send(frame)
        return self.received()[0]

    def ask_body(self, frame: bytes) -> bytes:
        """The body of the answer to these bytes."""
        self.socket.send(frame)
        return bytes(self.received()[1])

    def received(self) -> tuple[Any, memoryview, bytes]:
        """The next answer: the message, its body, its bytes."""
        frame = self.socket.receive()
        return *frames.decode_answer(frame), frame

    def next_frame(self, move: Move) -> bytes:
        """The move as the next request."""
        return move.frame(self.seq + 1, num_envs=self.opened.lanes[0])

    def play(self, move: Move) -> dict[str, Any]:
        """Carry a move out; what it gave."""
        frame = self.next_frame(move)
        self.socket.send(frame)
        answer, body, content = self.received()
        assert isinstance(answer, Stepped), f"{_kind(move)} with seq {self.seq + 1} was answered with {shown(answer)}"
        named = (answer.lane, answer.seq)
        assert named == (0, self.seq + 1), f"the answer to lane 0, seq {self.seq + 1} bears lane, seq = {named}"
        self.seq, self.last_frame, self.last_answer = self.seq + 1, frame, content
        return told_of(answer, body, self.layout)

    def play_through(self, move: Move) -> dict[str, Any]:
        """Carry a move out as a client does: where the connection ends, resume and send the same again."""
        try:
            return self.play(move)
        except OSError:
            self.resume()
            return self.play(move)

    def refused(self, frame: bytes, code: str, what: str) -> str:
        """Send a request that must be refused with `code`, its seq not used up; what was said."""
        request, _ = frames.decode_request(frame)
        answer = self.ask(frame)
        assert isinstance(answer, Refused), f"{what} was answered with {shown(answer)}, not refused"
        assert answer.code == code, f"{what} was refused with the code {answer.code!r}, not {code!r}: {answer.message}"
        assert not answer.is_final, (
            f"the refusal of {what} is final; nothing was carried out, so its seq must stay free"
        )
        assert not isinstance(request, (Open, Resume))
        assert (answer.lane, answer.seq) == (request.lane, request.seq), (
            f"the refusal of {what} bears lane, seq = {(answer.lane, answer.seq)}, not the request's"
        )
        return answer.message

    def resume(self, timeout_s: float | None = None) -> Resumed:
        """Go on over a new connection; the older one stays as it is."""
        self._older.append(self.socket)
        self.socket = self.subject.connect(timeout_s)
        answer = self.ask(frames.encode(self.resume_request()))
        assert isinstance(answer, Resumed), f"resume was answered with {shown(answer)}"
        assert answer.incarnation == self.opened.incarnation, f"the incarnation is {answer.incarnation} all at once"
        assert len(answer.last_seqs) == len(self.opened.lanes), f"last_seqs are {answer.last_seqs}: not one a lane"
        return answer

    def resume_request(self, **changed: Any) -> Resume:
        opened = self.opened
        given = {"session": opened.session, "secret": opened.secret, "incarnation": opened.incarnation}
        return Resume(PROTOCOL_VERSION, **{**given, **changed})

    def close(self) -> Any:
        """The answer to a close."""
        self.seq += 1
        return self.ask(frames.encode(Close(0, self.seq)))

    def end(self) -> None:
        """Free the envs, over a new connection if need be; never raises for a server that does not answer."""
        timeout_s = min(self.subject.timeout_s, _END_TIMEOUT_S)
        self.socket.set_timeout(timeout_s)
        for is_again in (False, True):
            with suppress(MultiServerRLError, OSError, AssertionError):
                if is_again:
                    self.socket.cut()
                    self.seq = self.resume(timeout_s).last_seqs[0]
                self.is_closed = self.is_closed or isinstance(self.close(), Closed)
            if self.is_closed:
                break
        for socket in (*self._older, self.socket):
            socket.cut()


def shown(answer: Any) -> str:
    """An answer in few words."""
    if isinstance(answer, Refused):
        return f"a refusal ({answer.code}: {answer.message})"
    return f"{type(answer).__name__.lower()!r}"


def told_of(answer: Stepped, body: memoryview, layout: StepLayout) -> dict[str, Any]:
    """An answer as values, without what no two runs agree on. WireError for a body that is not of this layout."""
    obs, rewards, terminated, truncated = layout.unpack(body)
    return {
        "obs": obs if layout.is_fixed else unpack_rows(answer.observations),
        "rewards": rewards,
        "terminated": terminated,
        "truncated": truncated,
        "infos": {row: _without_time(info) for row, info in unpack_rows(answer.infos).items()},
        "finals": [(one.rows, one.content) for one in answer.finals],
    }


def _kind(move: Move) -> str:
    return "a reset" if move.is_reset else "a step"


def _without_time(info: Any) -> Any:
    """RecordEpisodeStatistics puts the wall clock in `episode`."""
    if not isinstance(info, dict) or not isinstance(info.get("episode"), dict):
        return info
    return {**info, "episode": {key: value for key, value in info["episode"].items() if key not in ("t", "_t")}}
