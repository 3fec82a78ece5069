from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from multiserverrl.errors import SeqError, SessionLost, SessionTaken, Unauthorized
from multiserverrl.wire.session import ClientLane, ServerLane, ServerSession, Verdict, digest_of
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


class TestExactlyOnce(ExactlyOnce.TestCase):  # type: ignore[name-defined,misc]
    """The machine, as pytest runs it."""


ExactlyOnce.TestCase.settings = settings(stateful_step_count=40)


# -- a machine that cannot fail proves nothing: each of these servers is broken in one way ---------------


class StepsARepeatAgain(ServerLane):
    def offer(self, seq: int, digest: bytes) -> Verdict:
        verdict = super().offer(seq, digest)
        if verdict is Verdict.REPEAT:
            self.running_seq, self.running_digest = seq, digest
            return Verdict.RUN
        return verdict


class StepsWhileItSteps(ServerLane):
    def offer(self, seq: int, digest: bytes) -> Verdict:
        verdict = super().offer(seq, digest)
        return Verdict.RUN if verdict is Verdict.WAIT else verdict


class LooksAtTheSeqAlone(ServerLane):
    def offer(self, seq: int, digest: bytes) -> Verdict:
        return super().offer(seq, self.running_digest or (self.last_digest if seq == self.last_seq else digest))


class RunsWhateverIsAhead(ServerLane):
    def offer(self, seq: int, digest: bytes) -> Verdict:
        if self.running_seq is None and seq > self.last_seq:
            self.last_seq = seq - 1
        return super().offer(seq, digest)


class UsesUpWhatItRefused(ServerLane):
    def withdraw(self) -> None:
        self.finish(b"refused")


class ForgetsItsAnswer(ServerLane):
    def finish(self, answer: bytes) -> None:
        super().finish(answer)
        self.answer = b""


class LetsEverybodyIn(ServerSession):
    def authenticate(self, secret: str) -> None:
        pass


class HearsFencedConnections(ServerSession):
    def check_holder(self, connection: int | None) -> None:
        pass


class BelievesTheEndOfFencedConnections(ServerSession):
    def detach(self, connection: int, now: float) -> None:
        self.connection, self.last_seen = None, now


class ExpiresWhileConnected(ServerSession):
    def expires_at(self, time_to_live_s: float, idle_s: float) -> float | None:
        return self.last_seen + time_to_live_s


BROKEN_LANES = [
    StepsARepeatAgain,
    StepsWhileItSteps,
    LooksAtTheSeqAlone,
    RunsWhateverIsAhead,
    UsesUpWhatItRefused,
    ForgetsItsAnswer,
]
BROKEN_SESSIONS = [LetsEverybodyIn, HearsFencedConnections, BelievesTheEndOfFencedConnections, ExpiresWhileConnected]


@pytest.mark.parametrize("broken", [*BROKEN_LANES, *BROKEN_SESSIONS], ids=lambda kind: kind.__name__)
def test_the_machine_finds_a_server_that_is_broken(broken: type) -> None:
    kind = "make_lane" if broken in BROKEN_LANES else "make_session"
    machine = type("Broken", (ExactlyOnce,), {kind: broken})
    look = settings(
        max_examples=1000,
        stateful_step_count=40,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=look)


# -- the same rules, one by one ------------------------------------------------------------------------


def lane_that_answered(*answers: bytes) -> ServerLane:
    lane = ServerLane()
    for seq, answer in enumerate(answers, start=1):
        assert lane.offer(seq, b"request %d" % seq) is Verdict.RUN
        lane.finish(answer)
    return lane


def session(*, lanes: int = 1, connection: int | None = 7) -> ServerSession:
    made = ServerSession("id", "secret", lanes, now=0.0)
    if connection is not None:
        made.attach(connection, now=0.0)
    return made


def test_a_repeated_seq_gets_the_first_answer_and_does_not_step() -> None:
    lane = lane_that_answered(b"one", b"two")
    for _ in range(3):
        assert lane.offer(2, b"request 2") is Verdict.REPEAT
        assert lane.answer == b"two"
    assert lane.running_seq is None


def test_a_repeat_while_the_step_runs_waits_for_that_same_step() -> None:
    lane = lane_that_answered(b"one")
    assert lane.offer(2, b"request 2") is Verdict.RUN
    assert lane.offer(2, b"request 2") is Verdict.WAIT
    lane.finish(b"two")
    assert lane.offer(2, b"request 2") is Verdict.REPEAT


@pytest.mark.parametrize(
    ("seq", "body", "message"),
    [
        (2, b"another", "seq 2 was answered, and this is another request with the same seq"),
        (1, b"request 1", "seq 1 is stale: the last was 2, so 3 is expected"),
        (4, b"request 4", "seq 4 is too far ahead: the last was 2, so 3 is expected"),
        (0, b"", "seq 0 is stale"),
        (-1, b"", "seq -1 is stale"),
    ],
)
def test_any_other_seq_is_refused_and_changes_nothing(seq: int, body: bytes, message: str) -> None:
    lane = lane_that_answered(b"one", b"two")
    with pytest.raises(SeqError, match=message):
        lane.offer(seq, body)
    assert lane.offer(2, b"request 2") is Verdict.REPEAT
    assert lane.offer(3, b"request 3") is Verdict.RUN


@pytest.mark.parametrize(
    ("seq", "body", "message"),
    [(2, b"another", "seq 2 runs"), (1, b"request 1", "while seq 2 runs"), (3, b"request 3", "while seq 2 runs")],
)
def test_while_a_request_runs_any_other_is_refused(seq: int, body: bytes, message: str) -> None:
    lane = lane_that_answered(b"one")
    lane.offer(2, b"request 2")
    with pytest.raises(SeqError, match=message):
        lane.offer(seq, body)
    assert lane.running_seq == 2


def test_before_the_first_request_there_is_no_answer_to_repeat() -> None:
    with pytest.raises(SeqError, match="seq 0 is stale"):
        ServerLane().offer(0, b"")


def test_a_request_that_was_refused_before_anything_was_stepped_leaves_its_seq_free() -> None:
    lane = lane_that_answered(b"one")
    lane.offer(2, b"bad request")
    lane.withdraw()
    assert lane.offer(1, b"request 1") is Verdict.REPEAT
    assert lane.offer(2, b"good request") is Verdict.RUN


def test_lanes_do_not_wait_for_one_another() -> None:
    two = session(lanes=2)
    assert two.lane(0).offer(1, b"a") is Verdict.RUN
    assert two.lane(1).offer(1, b"b") is Verdict.RUN


@pytest.mark.parametrize("index", [-1, 2, 2**40])
def test_a_lane_that_is_not_there_is_refused_by_its_number(index: int) -> None:
    with pytest.raises(SeqError, match=f"lane {index} does not exist; the session has 2"):
        session(lanes=2).lane(index)


def test_a_digest_tells_requests_apart_that_differ_in_one_byte() -> None:
    for size in (10, 1024, 1025, 100_000):
        request = bytes(size)
        assert digest_of(request) == digest_of(bytes(size))
        assert digest_of(request) != digest_of(request[:-1] + b"!")
        assert digest_of(request) != digest_of(request + b"!")
        assert len(digest_of(request)) <= 1024


def test_a_newer_connection_takes_the_session_over_and_the_older_one_is_fenced() -> None:
    held = session(connection=7)
    assert held.resume(8, "secret", held.incarnation, now=1.0) == 7
    held.check_holder(8)
    with pytest.raises(SessionTaken, match="took session id over"):
        held.check_holder(7)


def test_plain_http_needs_no_connection_to_hold_the_session() -> None:
    session(connection=7).check_holder(None)


@pytest.mark.parametrize("secret", ["", "Secret", "secret ", "\ud800", "ß"], ids=ascii)
def test_a_wrong_secret_changes_nothing(secret: str) -> None:
    held = session(connection=7)
    with pytest.raises(Unauthorized):
        held.resume(8, secret, held.incarnation, now=1.0)
    held.check_holder(7)
    assert held.last_seen == 0.0


def test_a_session_whose_envs_were_made_anew_is_lost_to_those_who_knew_the_old_ones() -> None:
    held = session(connection=7)
    with pytest.raises(SessionLost, match="incarnation 1, not 2"):
        held.resume(8, "secret", 2, now=1.0)
    held.check_holder(7)


def test_a_connected_client_may_pause_for_as_long_as_it_likes() -> None:
    assert session(connection=7).expires_at(120.0, 3600.0) is None


def test_the_time_to_live_begins_when_the_connection_ends() -> None:
    held = session(connection=7)
    held.detach(7, now=1000.0)
    assert held.expires_at(120.0, 3600.0) == 1120.0


def test_the_end_of_a_fenced_connection_changes_nothing() -> None:
    held = session(connection=7)
    held.resume(8, "secret", held.incarnation, now=1.0)
    held.detach(7, now=2.0)
    assert held.expires_at(120.0, 3600.0) is None


def test_a_session_of_plain_http_may_idle_for_longer() -> None:
    held = session(connection=None)
    assert held.expires_at(120.0, 3600.0) == 3600.0


def test_no_session_expires_while_a_request_runs() -> None:
    held = session(connection=None)
    held.lane(0).offer(1, b"a long step")
    assert held.expires_at(120.0, 3600.0) is None
    held.lane(0).finish(b"done")
    assert held.expires_at(120.0, 3600.0) == 3600.0


def test_a_client_numbers_its_requests_from_one_and_one_at_a_time() -> None:
    lane = ClientLane()
    assert lane.next_seq == 1
    lane.sent(b"one")
    with pytest.raises(SeqError, match="seq 1 is in flight"):
        lane.sent(b"two")
    assert lane.in_flight == b"one"
    assert lane.answered(1)
    assert lane.next_seq == 2


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_an_answer_that_is_not_awaited_is_dropped(seq: int) -> None:
    lane = ClientLane()
    lane.sent(b"one")
    lane.answered(1)
    assert not lane.answered(seq)
    lane.sent(b"two")
    assert not lane.answered(seq)
    assert lane.in_flight == b"two"


def test_a_seq_that_a_refusal_did_not_use_up_is_the_next_ones() -> None:
    lane = ClientLane()
    lane.sent(b"bad")
    assert lane.answered(1, is_used=False)
    assert lane.next_seq == 1
