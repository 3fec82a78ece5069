"""A client and a server of `wire/session`, and between them a wire that drops, repeats, reorders and delays.

The server does what the real one does, no more: `applied` is what reached the envs. Two kinds of
exchange lie on the wire: streams (a connection holds the session, an answer comes on the connection of
its request) and plain HTTP (an answer belongs to its request; proxies may repeat requests).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from multiserverrl.errors import MultiServerRLError, SessionLost
from multiserverrl.wire.session import ClientLane, ServerLane, ServerSession, Verdict, digest_of

TIME_TO_LIVE_S, IDLE_S = 120.0, 3600.0


@dataclass(frozen=True)
class Request:
    """What a frame holds; `is_bad`: refused at the door, before anything is stepped."""

    lane: int
    seq: int
    body: str
    is_bad: bool = False

    @property
    def frame(self) -> bytes:
        return repr(self).encode()


@dataclass(frozen=True)
class Reply:
    lane: int
    seq: int
    text: str  # of the step, or the code of the error
    is_refusal: bool = False


@dataclass
class Exchange:
    """A request on its way, or its reply on the way back. `connection` is None for plain HTTP."""

    session: str
    connection: int | None
    request: Request
    number: int  # of the sending; a reply is for the sending it answers
    reply: Reply | None = None


@dataclass
class Live:
    """A session at the server and what its envs went through."""

    state: ServerSession
    applied: list[list[str]]  # per lane, the bodies that were stepped, in order
    running: dict[int, Request] = field(default_factory=dict)
    waiting: dict[int, list[Exchange]] = field(default_factory=dict)


class Server:
    """The front's way through a request: holder, lane, verdict; the envs finish when the test says so."""

    def __init__(self, make_session: Any = ServerSession, make_lane: Any = ServerLane) -> None:
        self._make_session, self._make_lane = make_session, make_lane
        self.now = 0.0
        self.live: dict[str, Live] = {}
        self.history: dict[str, list[list[str]]] = {}
        self._opened = 0

    def open(self, connection: int | None, num_lanes: int) -> Live:
        self._opened += 1
        name = f"session-{self._opened}"
        state = self._make_session(name, f"secret-{self._opened}", num_lanes, self.now)
        state.lanes = [self._make_lane() for _ in range(num_lanes)]
        if connection is not None:
            state.attach(connection, self.now)
        applied: list[list[str]] = [[] for _ in range(num_lanes)]
        self.live[name] = Live(state, applied)
        self.history[name] = applied
        return self.live[name]

    def get(self, name: str) -> Live:
        if name not in self.live:
            raise SessionLost(f"{name} is not known here")
        return self.live[name]

    def resume(self, name: str, secret: str, incarnation: int, connection: int) -> int | None:
        return self.get(name).state.resume(connection, secret, incarnation, self.now)

    def receive(self, exchange: Exchange) -> list[Exchange]:
        """The replies that are ready at once."""
        request = exchange.request
        try:
            session = self.get(exchange.session)
            session.state.check_holder(exchange.connection)
            session.state.last_seen = self.now
            lane = session.state.lane(request.lane)
            verdict = lane.offer(request.seq, digest_of(request.frame))
        except MultiServerRLError as error:
            return [_replied(exchange, Reply(request.lane, request.seq, error.code, is_refusal=True))]
        if verdict is Verdict.REPEAT:
            return [_replied(exchange, Reply(request.lane, request.seq, lane.answer.decode()))]
        if verdict is Verdict.WAIT:
            session.waiting[request.lane].append(exchange)
            return []
        if request.is_bad:
            lane.withdraw()
            return [_replied(exchange, Reply(request.lane, request.seq, "action", is_refusal=True))]
        session.applied[request.lane].append(request.body)
        session.running[request.lane] = request
        session.waiting[request.lane] = [exchange]
        return []

    def finish(self, name: str, lane: int) -> list[Exchange]:
        """The envs of a lane are done with their step."""
        session = self.live[name]
        request = session.running.pop(lane)
        text = answer_of(session.applied[lane])
        session.state.lane(lane).finish(text.encode())
        session.state.last_seen = self.now
        return [_replied(one, Reply(lane, request.seq, text)) for one in session.waiting.pop(lane)]

    def expire(self) -> list[str]:
        over = []
        for name, session in list(self.live.items()):
            ends = session.state.expires_at(TIME_TO_LIVE_S, IDLE_S)
            if ends is not None and ends <= self.now:
                del self.live[name]
                over.append(name)
        return over


def answer_of(applied: list[str]) -> str:
    """The answer to the last of these steps: it tells the whole trajectory, so that a doubled step shows."""
    return f"{len(applied)}:{applied[-1]}"


def _replied(exchange: Exchange, reply: Reply) -> Exchange:
    return Exchange(exchange.session, exchange.connection, exchange.request, exchange.number, reply)


class Client:
    """Resumes as the link does: a new connection, then everything that is in flight once more."""

    def __init__(self, num_lanes: int) -> None:
        self.num_lanes = num_lanes
        self.session = ""
        self.secret = ""
        self.incarnation = 0
        self.connection: int | None = None
        self.lanes: list[ClientLane] = []
        self.in_flight: dict[int, Request] = {}
        self.believed: list[list[str]] = []
        self.answers: list[list[str]] = []
        self.is_lost = False  # the session is over for this client
        self._open_sendings: dict[int, set[int]] = {}  # lane → sendings whose refusal would be heard

    def opened(self, state: ServerSession, connection: int | None) -> None:
        self.session, self.secret, self.incarnation = state.id, state.secret, state.incarnation
        self.connection = connection
        self.lanes = [ClientLane() for _ in range(self.num_lanes)]
        self.in_flight, self._open_sendings, self.is_lost = {}, {}, False
        self.believed = [[] for _ in range(self.num_lanes)]
        self.answers = [[] for _ in range(self.num_lanes)]

    def make(self, lane: int, body: str, is_bad: bool) -> Request:
        request = Request(lane, self.lanes[lane].next_seq, body, is_bad)
        self.lanes[lane].sent(request.frame)
        self.in_flight[lane] = request
        self._open_sendings[lane] = set()
        return request

    def send(self, lane: int, number: int) -> Exchange:
        """What is in flight on a lane, for the first time or again."""
        request = self.in_flight[lane]
        assert self.lanes[lane].in_flight == request.frame
        self._open_sendings[lane].add(number)
        return Exchange(self.session, self.connection, request, number)

    def hear(self, exchange: Exchange) -> None:
        """A reply arrives; a refusal is believed only in the exchange that it belongs to."""
        reply = exchange.reply
        assert reply is not None
        if exchange.session != self.session or self.is_lost:
            return
        if reply.is_refusal:
            is_ours = exchange.number in self._open_sendings.get(reply.lane, set())
            if not is_ours or exchange.connection != self.connection:
                return
            if reply.text in ("session_lost", "session_taken"):
                self.is_lost = True
                return
        if not self.lanes[reply.lane].answered(reply.seq, is_used=not reply.is_refusal):
            return
        request = self.in_flight.pop(reply.lane)
        self._open_sendings[reply.lane] = set()
        if reply.is_refusal:
            assert (reply.text, request.is_bad) == ("action", True)  # an honest client is refused nothing else
        else:
            self.believed[reply.lane].append(request.body)
            self.answers[reply.lane].append(reply.text)
