"""Claims about an env that fails: a fault ends its episode, is told, and is never learned from in silence.

No server can be made to fail from outside, so these are judged where `multiserverrl.testing.envs:Scripted` is served:
it does wrong what `reset(options=…)` tells it to.
"""

from __future__ import annotations

from typing import Any

from multiserverrl.testing.conformance.claim import Claims, Skip
from multiserverrl.testing.conformance.subject import SEED, Move, RawSession, Subject, shown
from multiserverrl.testing.contract import assert_same
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Refused, Reset
from multiserverrl.wire.trees import pack_tree

__all__ = ["CLAIMS"]

_claim = Claims("faults of the env")
CLAIMS = _claim.found
_SCRIPTED = "multiserverrl.testing.envs:Scripted"


def _scripted(subject: Subject) -> None:
    subject.single()
    if not subject.env.env_id.endswith(":Scripted"):
        raise Skip(f"this env does not fail when asked to; serve {_SCRIPTED} too, and check that")


def _reset(session: RawSession, **options: Any) -> dict[str, Any]:
    """Reset with the script's first seed, and with what the env is to do wrong."""
    return session.play(Move(True, SEED, tree=pack_tree(options)))


def _fault_of(told: dict[str, Any]) -> str:
    """What the answer of a step says of the fault in it."""
    assert told["truncated"][0] and not told["terminated"][0], "a fault ends the episode by truncated, and that alone"
    assert told["rewards"][0] == 0, f"a fault bears the reward {told['rewards'][0]}, not 0"
    fault = told["infos"].get(0, {}).get("multiserverrl", {}).get("fault", "")
    assert fault, f"the info does not say that there was a fault: {told['infos']}"
    return str(fault)


def _fails(subject: Subject, how: str) -> str:
    _scripted(subject)
    undisturbed = subject.script.moves[0][1]["obs"]
    with subject.session() as session:
        _reset(session, how=how, at=3)
        before = [session.play(subject.sampled()) for _ in range(2)][-1]
        told = session.play_through(subject.sampled())
        fault = _fault_of(told)
        assert_same(told["obs"], before["obs"], "the observation that came with the fault")
        session.socket.send(session.last_frame)
        assert session.received()[2] == session.last_answer, "the answer that bears a fault was not kept"
        first = session.play(Move(True, SEED))
        assert_same(first["obs"], undisturbed, "the observation of the reset after the fault")
    return f"{fault}; the next reset went on"


@_claim(
    "an env that raises in a step loses its episode, and says so",
    "last observation, reward 0, truncated, info multiserverrl.fault (docs/protocol.md, Faults); make the env anew",
)
def raises_in_step(subject: Subject) -> str:
    return _fails(subject, "raise")


@_claim(
    "an env whose process dies in a step loses its episode, and says so",
    "run envs apart from what speaks to clients; answer the step as one whose env raised",
)
def dies_in_step(subject: Subject) -> str:
    return _fails(subject, "kill")


@_claim(
    "an env that raises in reset is refused with env_fault, once and for all",
    "is_final true: the seq is used up, and a repeat gets the same refusal",
)
def raises_in_reset(subject: Subject) -> str:
    _scripted(subject)
    with subject.session() as session:
        _reset(session, how="reset", at=1)
        session.play(subject.sampled())
        frame = session.next_frame(Move(True, SEED))
        for what in ("a reset that raised", "its repeat"):
            answer = session.ask(frame)
            assert isinstance(answer, Refused) and answer.code == "env_fault", f"{what} got {shown(answer)}"
            assert answer.is_final, f"{what} was refused with is_final false"
        session.seq += 1
        session.refused(session.next_frame(subject.sampled()), "misuse", "a step after the reset that failed")
        session.play(Move(True, SEED))
    return f"{answer.message}; the next reset went on"


@_claim(
    "a fault of one env leaves the others' episodes alone",
    "the answer of the other lane, or row, is what it would have been",
)
def others_go_on(subject: Subject) -> str:
    _scripted(subject)
    subject.several(2)
    step = subject.script.moves[1][0]
    with subject.session(num_envs=2, lanes=[1, 1], autoreset_mode="disabled") as session:
        told = []
        for how in ("", "raise"):
            first = Reset(0, session.seq + 1, [SEED], pack_tree({"how": how, "at": 1}))
            session.ask(frames.encode(first))
            session.ask(frames.encode(Reset(1, session.seq + 1, [SEED], pack_tree({}))))
            session.ask(step.frame(session.seq + 2, 0))
            told.append(session.ask_body(step.frame(session.seq + 2, 1)))
            session.seq += 2
        assert told[0] == told[1], "the other lane's step gave something else when its neighbour failed"
    return "the neighbour raised; the other lane's step was the same, byte for byte"
