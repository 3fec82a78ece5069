"""JSON of the HTTP routes to messages of the wire, and answers back to JSON.

A session of one env speaks in the singular (action, obs, reward), one of several in lists.
"""

from __future__ import annotations

from typing import Any

import msgspec

from multiserverrl.errors import ActionError, MisuseError
from multiserverrl.server.lane import Lane
from multiserverrl.wire.arrays import BatchLayout
from multiserverrl.wire.brief import brief
from multiserverrl.wire.jsonvalues import from_json, to_json
from multiserverrl.wire.messages import (
    PROTOCOL_VERSION,
    WHOLE_LANE,
    Answer,
    Call,
    Called,
    Open,
    Render,
    Reset,
    Step,
    Stepped,
)
from multiserverrl.wire.trees import pack_tree, unpack_rows

__all__ = ["OPERATIONS", "OpenBody", "answer_json", "open_of", "request_of"]


class OpenBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/sessions"""

    env_id: str | None = None
    num_envs: int = 1
    autoreset_mode: str | None = None
    render_mode: str | None = None
    owner: str | None = None
    wait_s: float = 0.0
    arguments: dict[str, Any] = {}
    lanes: list[int] = []


class ResetBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST …/reset: `seed` is a number (env i gets seed + i) or a list, one an env; `mask` says which envs."""

    seq: int
    lane: int = 0
    seed: int | list[int | None] | None = None
    options: dict[str, Any] | None = None
    mask: list[bool] | None = None


class StepBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST …/step: `action` for a session of one env, `actions` (a list) for one of several."""

    seq: int
    lane: int = 0
    action: Any = msgspec.UNSET
    actions: Any = msgspec.UNSET


class RenderBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST …/render"""

    seq: int
    lane: int = 0


class CallBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST …/call: `kind` is get, set or call; `values` one an env to set, `args` and `kwargs` to call."""

    seq: int
    name: str
    kind: str = "get"
    lane: int = 0
    values: list[Any] = []
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


OPERATIONS: dict[str, type[msgspec.Struct]] = {
    "reset": ResetBody,
    "step": StepBody,
    "render": RenderBody,
    "call": CallBody,
}


def _decoded(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MisuseError(f"this is not the JSON that is expected here: {error} (see /docs)") from error


def open_of(content: bytes) -> Open:
    """The open message of a JSON body."""
    body: OpenBody = _decoded(content, OpenBody)
    mode = body.autoreset_mode or ("none" if body.num_envs == 1 else "next_step")
    arguments = pack_tree(body.arguments) if body.arguments else b""
    return Open(
        PROTOCOL_VERSION,
        body.env_id,
        body.num_envs,
        mode,
        body.render_mode,
        body.lanes,
        body.owner,
        body.wait_s,
        arguments,
    )


def request_of(operation: str, content: bytes, lanes: list[Lane]) -> tuple[Any, bytes]:
    """The message of an operation's JSON body, and the frame's body; MisuseError or ActionError says what is wrong."""
    if operation not in OPERATIONS:
        raise MisuseError(f"there is no operation {operation[:40]!r}; there are {', '.join(OPERATIONS)}")
    body: Any = _decoded(content, OPERATIONS[operation])
    if not 0 <= body.lane < len(lanes):
        raise MisuseError(f"lane {body.lane} does not exist; the session has {len(lanes)}")
    lane = lanes[body.lane]
    if isinstance(body, ResetBody):
        return _reset(body, lane), b""
    if isinstance(body, StepBody):
        return _step(body, lane)
    if isinstance(body, CallBody):
        return _call(body), b""
    return Render(body.lane, body.seq), b""


def _reset(body: ResetBody, lane: Lane) -> Reset:
    seeds: Any = [body.seed + row for row in range(lane.num_envs)] if isinstance(body.seed, int) else body.seed
    options = b"" if body.options is None else pack_tree(body.options)
    return Reset(body.lane, body.seq, seeds, options, None if body.mask is None else bytes(body.mask))


def _step(body: StepBody, lane: Lane) -> tuple[Step, bytes]:
    if (body.action is msgspec.UNSET) == (body.actions is msgspec.UNSET):
        raise MisuseError("a step needs action (a session of one env) or actions (a list, one an env)")
    actions = [body.action] if body.actions is msgspec.UNSET else body.actions
    if not isinstance(actions, list) or len(actions) != lane.num_envs:
        raise ActionError(f"actions must be a list of {lane.num_envs}, one an env, not {brief(actions)}")
    values = [_action(lane, row, action) for row, action in enumerate(actions)]
    if lane.codec.layout is None:
        return Step(body.lane, body.seq, pack_tree(values)), b""
    packed = bytearray(lane.codec.size_bytes)
    write = lane.codec.layout.row_writer(packed, "action")
    for row, value in enumerate(values):
        write(row, value)
    return Step(body.lane, body.seq), bytes(packed)


def _action(lane: Lane, row: int, action: Any) -> Any:
    try:
        return from_json(lane.codec.space, action)
    except ActionError as error:
        raise ActionError(f"env {row}: {error}" if lane.num_envs > 1 else str(error)) from error


def _call(body: CallBody) -> Call:
    if body.kind not in ("get", "set", "call"):
        raise MisuseError(f"kind must be get, set or call, not {body.kind[:20]!r}")
    values: Any = (body.args, body.kwargs) if body.kind == "call" else body.values
    return Call(body.lane, body.seq, body.kind, body.name, pack_tree(values))


def answer_json(answer: Answer, body: memoryview, lane: Lane, is_single: bool) -> dict[str, Any]:
    """An answer for people: lists with one item an env, or the singular for a session of one env."""
    if isinstance(answer, Called):
        values = _rows(answer.values, lane.num_envs)
        return {"seq": answer.seq, "lane": answer.lane, "values": [to_json(value) for value in values]}
    assert isinstance(answer, Stepped)
    if lane.layout.is_fixed:
        observations = [lane.layout.row(body, row) for row in range(lane.num_envs)]
    else:
        observations = _rows(answer.observations, lane.num_envs)
    whole = unpack_rows(answer.infos).get(WHOLE_LANE)
    infos = [info or {} for info in _rows(answer.infos, lane.num_envs)]
    for final in answer.finals:
        layout = BatchLayout(lane.layout.space, len(final.rows))
        for index, row in enumerate(final.rows):
            infos[row] = {"final_obs": layout.row(final.content, index), "final_info": {}, **infos[row]}
    columns = {
        "obs": [to_json(obs) for obs in observations],
        "reward": [to_json(reward) for reward in lane.layout.rewards(body)],
        "terminated": lane.layout.terminated(body).tolist(),
        "truncated": lane.layout.truncated(body).tolist(),
        "info": [to_json(info) for info in infos],
    }
    head = {"seq": answer.seq, "lane": answer.lane}
    if whole is not None:
        head["infos"] = to_json(whole)
    return {**head, **({name: column[0] for name, column in columns.items()} if is_single else columns)}


def _rows(parts: list[bytes], num_envs: int) -> list[Any]:
    found = unpack_rows(parts)
    return [found.get(row) for row in range(num_envs)]
