"""Claims about actions: wrong ones are refused, the env untouched, the seq not used up; members are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from multiserverrl.testing.conformance.claim import Claims, Skip
from multiserverrl.testing.conformance.subject import Move, RawSession, Subject
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import Leaf
from multiserverrl.wire.messages import Step
from multiserverrl.wire.trees import pack_tree

__all__ = ["CLAIMS"]

_claim = Claims("actions")
CLAIMS = _claim.found
_NUM_SAMPLES = 30


@_claim(
    "actions of another size are refused",
    "compare the body's length with that of N actions (Bodies) and refuse with the code action, is_final false",
)
def refuses_sizes(subject: Subject) -> str:
    def disturb(session: RawSession, move: Move) -> None:
        for what, wrong in _of_wrong_size(move, subject):
            frame = frames.encode(Step(0, session.seq + 1, wrong.tree), wrong.body)
            session.refused(frame, "action", what)

    return subject.drive(disturb, at=_a_step(subject))


def _a_step(subject: Subject) -> int:
    """The last step of the script; a refused one comes before it."""
    return max(index for index, (move, _) in enumerate(subject.script.moves) if not move.is_reset)


def _of_wrong_size(move: Move, subject: Subject) -> list[tuple[str, Move]]:
    if ActionCodec(subject.action_space, 1).layout is None:
        return [("no action at all", Move(False, tree=pack_tree([]))), ("two actions", _two_loose(subject))]
    body = move.body
    cases = [("8 bytes too many", body + bytes(8)), ("a byte too little", body[:-1]), ("no action at all", b"")]
    return [(what, Move(False, body=wrong)) for what, wrong in cases if wrong != body]


def _two_loose(subject: Subject) -> Move:
    return Move(False, tree=pack_tree([subject.action_space.sample(), subject.action_space.sample()]))


@_claim(
    "an action that is no member of its space is refused",
    "check Discrete, MultiDiscrete, MultiBinary, Text and the shape before anything is stepped: code action",
)
def refuses_non_members(subject: Subject) -> str:
    leaf_and_value = _non_member(subject)
    if leaf_and_value is None:
        raise Skip("every number of the right size may go to this action space")
    name, wrong = leaf_and_value

    def disturb(session: RawSession, _: Move) -> None:
        session.refused(session.next_frame(wrong), "action", name)

    return f"{name}; " + subject.drive(disturb, at=_a_step(subject))


@_claim(
    "NaN in an action is refused", "look for NaN in the floating-point parts before anything is stepped: code action"
)
def refuses_nan(subject: Subject) -> str:
    made = _changed(subject, lambda leaf: np.nan if leaf.dtype.kind == "f" else None)
    if made is None:
        raise Skip("no part of the action space is of floating point and fixed size")
    name, wrong = made

    def disturb(session: RawSession, _: Move) -> None:
        session.refused(session.next_frame(wrong), "action", name)

    return f"{name}; " + subject.drive(disturb, at=_a_step(subject))


def _non_member(subject: Subject) -> tuple[str, Move] | None:
    if ActionCodec(subject.action_space, 1).layout is None:
        return "nil in the place of an action", Move(False, tree=pack_tree([None]))
    return _changed(subject, _beyond)


def _beyond(leaf: Leaf) -> int | None:
    """A value of the dtype that is no member; None where there is none."""
    space = leaf.space
    if isinstance(space, spaces.MultiBinary) or leaf.dtype.kind == "b":
        return 2
    if isinstance(space, spaces.Discrete):
        first, behind = int(space.start), int(space.start) + int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        first, behind = int(space.start.ravel()[0]), int(space.start.ravel()[0]) + int(space.nvec.ravel()[0])
    else:
        return None
    limits = np.iinfo(leaf.dtype)
    return behind if behind <= limits.max else first - 1 if first > limits.min else None


def _changed(subject: Subject, wrong: Any) -> tuple[str, Move] | None:
    """A sampled action whose first element of the first leaf that `wrong` knows a value for has that value."""
    codec = ActionCodec(subject.action_space, 1)
    if codec.layout is None:
        return None
    body = bytearray(subject.sampled().body)
    for leaf, array in zip(codec.layout.leaves, codec.layout.arrays(body), strict=True):
        value = wrong(leaf)
        if value is not None and array.size:
            (array.view(np.uint8) if leaf.dtype.kind == "b" else array).reshape(-1)[0] = value
            return f"{leaf.name('action')} = {value}", Move(False, body=bytes(body))
    return None


@_claim(
    f"{_NUM_SAMPLES} random members of the action space are accepted",
    "the description of the action space must be that of the actions which the env takes",
)
def takes_members(subject: Subject) -> str:
    ends = 0
    with subject.session() as session:
        session.play(Move(True, 1))
        for _ in range(_NUM_SAMPLES):
            told = session.play(subject.sampled())
            if told["terminated"][0] or told["truncated"][0]:
                session.play(Move(True))
                ends += 1
    return f"none refused; {ends} episode(s) ended"
