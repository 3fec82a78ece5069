"""Claims about exactly once: what is repeated, stale, too early or changed never steps the env."""

from __future__ import annotations

from multiserverrl.testing.conformance.claim import Claims
from multiserverrl.testing.conformance.subject import SEED, Move, RawSession, Subject
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Call, Render, Reset

__all__ = ["CLAIMS"]

_claim = Claims("exactly once")
CLAIMS = _claim.found


@_claim(
    "a repeated request gets the kept answer, and no second step",
    "keep each lane's last request and answer; the same bytes again are answered from there (Sessions, rule 2)",
)
def repeats(subject: Subject) -> str:
    def disturb(session: RawSession, _: Move) -> None:
        for _again in range(3):
            session.socket.send(session.last_frame)
            answer = session.received()[2]
            assert answer == session.last_answer, "the answer to a repeated request is not the first one, byte for byte"

    return "three times the same bytes; " + subject.drive(disturb)


@_claim(
    "a stale seq is refused",
    "refuse every seq but the last (repeated) and the next with the code seq (Sessions, rule 4)",
)
def refuses_stale(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        for seq in (session.seq - 1, 0, -1):
            session.refused(move.frame(seq), "seq", f"seq {seq} after {session.seq}")

    return subject.drive(disturb)


@_claim("a seq too far ahead is refused", "refuse every seq but the last (repeated) and the next with the code seq")
def refuses_ahead(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        for seq in (session.seq + 2, session.seq + 1000, 2**40):
            session.refused(move.frame(seq), "seq", f"seq {seq} after {session.seq}")

    return subject.drive(disturb)


@_claim(
    "the same seq with another request is refused",
    "keep the last request, or a digest of it, and compare (Sessions, rule 4)",
)
def refuses_another_body(subject: Subject) -> str:
    def disturb(session: RawSession, _: Move) -> None:
        other = frames.encode(Reset(0, session.seq, [SEED + 77]))
        session.refused(other, "seq", "a reset with the seq of the last step")
        other = session.last_frame + b"\0"
        session.refused(other, "seq", "the last request with a byte more")

    return subject.drive(disturb)


@_claim("a lane that does not exist is refused", "refuse it with the code seq")
def refuses_unknown_lane(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        for lane in (len(session.opened.lanes), -1):
            session.refused(move.frame(session.seq + 1, lane), "seq", f"lane {lane}")

    return subject.drive(disturb)


@_claim(
    "requests that the session was not opened for are refused",
    "misuse: seeds or a mask for other numbers of envs, render without a render_mode; not_allowed: hidden attributes",
)
def refuses_misuse(subject: Subject) -> str:
    def disturb(session: RawSession, _: Move) -> None:
        seq = session.seq + 1
        session.refused(frames.encode(Reset(0, seq, [1, 2])), "misuse", "a reset of one env with two seeds")
        session.refused(frames.encode(Reset(0, seq, None, b"", b"\1\1")), "misuse", "a mask of two bytes for one env")
        session.refused(frames.encode(Render(0, seq)), "misuse", "render in a session without a render_mode")
        session.refused(frames.encode(Call(0, seq, "get", "no_such_attribute")), "not_allowed", "a hidden attribute")

    return subject.drive(disturb)


@_claim(
    "a step before the first reset is refused, and its seq stays free",
    "refuse it with the code misuse and is_final false; the reset then bears the same seq (Sessions, rule 5)",
)
def wants_a_reset(subject: Subject) -> str:
    with subject.session() as session:
        session.refused(session.next_frame(subject.sampled()), "misuse", "a step before the first reset")
        session.play(Move(True, SEED))
    return "refused with misuse; the reset bore seq 1"
