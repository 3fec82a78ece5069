"""Claims about connections that break, and about two of them: the episode goes on, and no step is lost or doubled."""

from __future__ import annotations

from contextlib import suppress

from multiserverrl.client.transport import ConnectionEnded
from multiserverrl.testing.conformance.claim import Claims
from multiserverrl.testing.conformance.raw import TEXT, RawSocket
from multiserverrl.testing.conformance.subject import Move, RawSession, Subject

__all__ = ["CLAIMS"]

_claim = Claims("broken connections")
CLAIMS = _claim.found
_FENCED, _NO_MESSAGE = 4001, 4002


@_claim(
    "after a cut in mid-episode, resume goes on in the same episode",
    "a session outlives its connection for time_to_live_s; `resumed` bears each lane's last answered seq (rule 6)",
)
def resumes(subject: Subject) -> str:
    def disturb(session: RawSession, _: Move) -> None:
        for how in ("fin", "rst"):
            session.socket.cut(how)
            _resumed_at(session, session.seq)

    return "cut twice; " + subject.drive(disturb)


def _resumed_at(session: RawSession, seq: int, *more: int) -> None:
    last = session.resume().last_seqs[0]
    assert last in (seq, *more), f"resumed says that seq {last} was the last to be answered, not {seq}"


@_claim(
    "a request whose answer was lost is carried out once",
    "carry a request out whether or not its connection lives on, and keep the answer for its repeat (rules 2, 3)",
)
def answers_after_the_cut(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        for how in ("fin", "rst"):  # the client sends what was in flight again, and so does the script
            session.socket.send(session.next_frame(move))
            session.socket.cut(how)
            _resumed_at(session, session.seq, session.seq + 1)

    return "the connection ended before the answer came; " + subject.drive(disturb)


@_claim(
    "a cut in the middle of a request is never a step",
    "act on a WebSocket message when its last byte is there, and not before",
)
def half_is_nothing(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        content = RawSocket.framed(session.next_frame(move))
        for size in (1, len(content) // 2, len(content) - 1):
            session.socket.send_bytes(content[:size])
            session.socket.cut()
            _resumed_at(session, session.seq)

    return "cut after the first byte, half way, and before the last; " + subject.drive(disturb)


@_claim(
    "a newer connection fences the older, which is closed with 4001",
    "on resume close the session's older connection with 4001 and carry out nothing more that comes from it (rule 6)",
)
def fences(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        older = session.socket
        _resumed_at(session, session.seq)
        _ends(older, _FENCED, "the older connection")
        with suppress(OSError):
            older.send(session.next_frame(move))

    return subject.drive(disturb)


def _ends(socket: RawSocket, code: int | None, what: str) -> None:
    try:
        socket.receive()
    except ConnectionEnded as ended:
        if code not in (None, ended.close_code):
            raise AssertionError(f"{what} was closed with {ended.close_code}, not {code}") from None
    except TimeoutError:
        raise AssertionError(f"{what} was not closed") from None
    else:
        raise AssertionError(f"{what} got an answer where it should be closed")


@_claim(
    "a message in parts is one request, with pings between them answered",
    "put fragments together (RFC 6455, 5.4); control frames may come between them",
)
def takes_parts(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        before = session.socket.num_pongs
        session.socket.send_in_parts(session.next_frame(move))
        answer = session.received()[0]
        assert getattr(answer, "seq", None) == session.seq + 1, f"it was answered with {answer}"
        assert session.socket.num_pongs > before, "the ping was not answered before the request"

    return subject.drive(disturb)


@_claim(
    "text, and bytes that are no message, close the connection and change nothing",
    "close with 4002 for bytes that are no message of the protocol; text messages are refused, too (Transport)",
)
def refuses_noise(subject: Subject) -> str:
    def disturb(session: RawSession, _: Move) -> None:
        for content, code in ((RawSocket.framed(b"{}", TEXT), None), (RawSocket.framed(b"M\x01??"), _NO_MESSAGE)):
            session.socket.send_bytes(content)
            _ends(session.socket, code, "a connection that bore noise")
            session.socket.cut()
            _resumed_at(session, session.seq)

    return subject.drive(disturb)
