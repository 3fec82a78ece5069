from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from multiserverrl.errors import SeqError, SessionLost, SessionTaken, Unauthorized
from multiserverrl.wire.session import ClientLane, ServerLane, ServerSession, Verdict, digest_of
from tests.wire.exactly_once import ExactlyOnce


def test_what_a_client_believes_answered_was_applied_exactly_once_whatever_the_wire_does() -> None:
    run_state_machine_as_test(ExactlyOnce, settings=settings())


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


def test_a_secret_that_is_missing_is_told_from_a_wrong_one() -> None:
    with pytest.raises(Unauthorized, match="missing: send it in the header Session-Secret"):
        session(connection=7).authenticate("")
    with pytest.raises(Unauthorized, match="is wrong"):
        session(connection=7).authenticate("another")


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
