"""A state machine for hypothesis: a client, a server, others, and a wire that loses, repeats, reorders and delays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from multiserverrl.errors import SessionLost, Unauthorized
from multiserverrl.wire.session import ServerLane, ServerSession
from tests.wire.wires import IDLE_S, TIME_TO_LIVE_S, Client, Exchange, Request, Server, answer_of

PICKS = st.integers(0, 10**6)
WAITS_S = st.sampled_from([0.0, 0.5, 1.0, 30.0, 59.0, 119.0, 119.5, 121.0, 3599.0, 3601.0, 36000.0])


class ExactlyOnce(RuleBasedStateMachine):
    """Whatever the wire does, what the client believes answered was applied once, in order, with that answer."""

    make_session: Any = ServerSession
    make_lane: Any = ServerLane

    @initialize(num_lanes=st.integers(1, 3), is_stream=st.booleans())
    def begin(self, num_lanes: int, is_stream: bool) -> None:
        self.server = Server(self.make_session, self.make_lane)
        self.client = Client(num_lanes)
        self.requests: list[Exchange] = []  # on the wire, each way
        self.replies: list[Exchange] = []
        self.cut: list[tuple[str, int]] = []  # connections whose end the server has not noticed yet
        self.count = 0
        self.open(is_stream)

    def open(self, is_stream: bool) -> None:
        connection = self.number() if is_stream else None
        state = self.server.open(connection, self.client.num_lanes).state
        self.client.opened(state, connection)
        # what the test itself knows of the session: its holder, since when it is quiet, how long it may be
        self.holder, self.quiet_since, self.limit_s = (
            connection,
            self.server.now,
            TIME_TO_LIVE_S if is_stream else IDLE_S,
        )

    def number(self) -> int:
        self.count += 1
        return self.count

    def is_live(self) -> bool:
        return self.client.session in self.server.live

    def heard_from(self, exchange: Exchange) -> None:
        if exchange.session == self.client.session and exchange.connection in (None, self.holder):
            self.quiet_since = self.server.now

    # -- the client

    @precondition(lambda self: not self.client.is_lost)
    @rule(pick=PICKS, is_bad=st.sampled_from([False, False, False, True]))
    def client_sends_the_next_request(self, pick: int, is_bad: bool) -> None:
        lane = pick % self.client.num_lanes
        if lane not in self.client.in_flight:
            self.client.make(lane, f"body-{self.number()}", is_bad)
            self.requests.append(self.client.send(lane, self.number()))

    @precondition(lambda self: not self.client.is_lost and self.client.connection is None)
    @rule()
    def client_repeats_what_is_in_flight_by_http(self) -> None:
        self.requests += [self.client.send(lane, self.number()) for lane in self.client.in_flight]

    @precondition(lambda self: self.client.connection is not None)
    @rule()
    def connection_breaks(self) -> None:
        assert self.client.connection is not None
        self.cut.append((self.client.session, self.client.connection))
        self.client.connection = None

    @precondition(lambda self: not self.client.is_lost)
    @rule(is_answer_lost=st.booleans())
    def client_resumes_on_a_new_connection(self, is_answer_lost: bool) -> None:
        connection, client = self.number(), self.client
        if not self.is_live():
            with pytest.raises(SessionLost):
                self.server.resume(client.session, client.secret, client.incarnation, connection)
            client.is_lost = True
            return
        assert self.server.resume(client.session, client.secret, client.incarnation, connection) == self.holder
        self.holder, self.quiet_since, self.limit_s = connection, self.server.now, TIME_TO_LIVE_S
        if client.connection is not None:
            self.cut.append((client.session, client.connection))
        client.connection = None if is_answer_lost else connection
        if is_answer_lost:
            self.cut.append((client.session, connection))
        else:
            self.requests += [client.send(lane, self.number()) for lane in client.in_flight]

    @precondition(lambda self: self.client.is_lost)
    @rule(is_stream=st.booleans())
    def client_opens_a_new_session(self, is_stream: bool) -> None:
        self.open(is_stream)

    # -- others

    @precondition(lambda self: self.is_live())
    @rule(secret=st.sampled_from(["", "secret-0", "secret-10", "SECRET-1"]))
    def stranger_does_not_get_in(self, secret: str) -> None:
        with pytest.raises(Unauthorized):
            self.server.resume(self.client.session, secret, self.client.incarnation, self.number())

    @precondition(lambda self: self.is_live())
    @rule()
    def twin_with_the_secret_takes_the_session_over(self) -> None:
        connection = self.number()
        self.server.resume(self.client.session, self.client.secret, self.client.incarnation, connection)
        self.holder, self.quiet_since, self.limit_s = connection, self.server.now, TIME_TO_LIVE_S
        self.cut.append((self.client.session, connection))

    @precondition(lambda self: self.is_live())
    @rule(pick=PICKS, which=st.sampled_from(["last", "running", "before", "ahead", "never"]))
    def another_request_of_a_used_seq_is_refused(self, pick: int, which: str) -> None:
        lane = pick % self.client.num_lanes
        state = self.server.live[self.client.session].state.lane(lane)
        used = {"last": state.last_seq, "running": state.running_seq, "before": state.last_seq - 1, "never": -1}
        seq = used.get(which, state.last_seq + 2)
        if seq is None:
            return
        forged = Exchange(self.client.session, None, Request(lane, seq, "forged"), self.number())
        self.heard_from(forged)
        (told,) = self.server.receive(forged)
        assert told.reply is not None
        assert (told.reply.is_refusal, told.reply.text) == (True, "seq")

    # -- the wire

    @precondition(lambda self: self.requests)
    @rule(pick=PICKS, fate=st.sampled_from(["arrives", "arrives", "arrives", "is repeated", "is lost"]))
    def request_on_the_wire(self, pick: int, fate: str) -> None:
        exchange = self.requests.pop(pick % len(self.requests))
        if fate == "is repeated":
            self.requests.append(exchange)
        if fate != "is lost":
            self.deliver(exchange)

    def deliver(self, exchange: Exchange) -> None:
        is_fenced = exchange.connection is not None and exchange.connection != self.holder
        is_live = exchange.session in self.server.live
        self.heard_from(exchange)
        told = self.server.receive(exchange)
        if not is_live or (is_fenced and exchange.session == self.client.session):
            assert [one.reply.text for one in told if one.reply] == ["session_taken" if is_live else "session_lost"]
        self.replies += told

    @precondition(lambda self: self.replies)
    @rule(pick=PICKS, fate=st.sampled_from(["arrives", "arrives", "arrives", "is repeated", "is lost"]))
    def reply_on_the_wire(self, pick: int, fate: str) -> None:
        exchange = self.replies.pop(pick % len(self.replies))
        if fate == "is repeated":
            self.replies.append(exchange)
        if fate != "is lost":
            self.client.hear(exchange)

    # -- the server

    def running(self) -> list[tuple[str, int]]:
        return [(name, lane) for name, session in self.server.live.items() for lane in session.running]

    @precondition(lambda self: self.running())
    @rule(pick=PICKS)
    def envs_have_stepped(self, pick: int) -> None:
        name, lane = self.running()[pick % len(self.running())]
        self.replies += self.server.finish(name, lane)
        if name == self.client.session:
            self.quiet_since = self.server.now

    @precondition(lambda self: self.cut)
    @rule(pick=PICKS)
    def server_notices_that_a_connection_ended(self, pick: int) -> None:
        name, connection = self.cut.pop(pick % len(self.cut))
        if name in self.server.live:
            self.server.live[name].state.detach(connection, self.server.now)
        if name == self.client.session and connection == self.holder:
            self.holder, self.quiet_since = None, self.server.now

    @rule(wait_s=WAITS_S)
    def time_passes(self, wait_s: float) -> None:
        self.server.now += wait_s
        name, was_live = self.client.session, self.is_live()
        is_running = any(one == name for one, _ in self.running())
        is_over = self.holder is None and not is_running and self.server.now - self.quiet_since >= self.limit_s
        assert (name in self.server.expire()) == (was_live and is_over)

    # -- what holds

    @invariant()
    def what_the_client_believes_was_applied_once_and_in_order(self) -> None:
        client = self.client
        for lane, applied in enumerate(self.server.history[client.session]):
            believed = client.believed[lane]
            assert applied[: len(believed)] == believed
            assert client.answers[lane] == [answer_of(applied[: count + 1]) for count in range(len(believed))]
            unheard = applied[len(believed) :]
            assert unheard in ([], [client.in_flight[lane].body] if lane in client.in_flight else [])

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        applied = [body for lanes in self.server.history.values() for lane in lanes for body in lane]
        assert len(applied) == len(set(applied))

    def teardown(self) -> None:
        """While the session lives, its one true answer can be had: over a wire that works everything settles."""
        if not hasattr(self, "client") or self.client.is_lost or not self.is_live():
            return
        self.requests, self.replies = [], []
        self.client_resumes_on_a_new_connection(False)
        for exchange in self.requests:
            self.deliver(exchange)
        for name, lane in self.running():
            self.replies += self.server.finish(name, lane)
        for exchange in self.replies:
            self.client.hear(exchange)
        assert self.client.in_flight == {}
        assert self.client.believed == self.server.history[self.client.session]
        self.what_the_client_believes_was_applied_once_and_in_order()
