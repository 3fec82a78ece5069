"""The schemas of the OpenAPI document: bodies from what decodes them, answers as they are sent, refusals by error."""

from __future__ import annotations

from typing import Any

import msgspec

from multiserverrl.errors import MisuseError, MultiServerRLError, PeerError
from multiserverrl.server.jsonrequests import OPERATIONS, OpenBody
from multiserverrl.wire.messages import EnvInfo

__all__ = ["FRAME_TYPE", "refusals", "schemas"]

FRAME_TYPE = "application/vnd.multiserverrl.frame"


class Refusal(msgspec.Struct):
    """Not done. `is_final` where a request bore a seq: true, and the seq is used up; then also an env's traceback."""

    error: str
    message: str
    is_final: bool | msgspec.UnsetType = msgspec.UNSET
    traceback: str | msgspec.UnsetType = msgspec.UNSET


class Index(msgspec.Struct):
    """Where to read on."""

    name: str
    version: str
    docs: str
    openapi: str


class Health(msgspec.Struct):
    """`status`: ok or degraded."""

    status: str
    workers: int
    workers_up: int


class Served(msgspec.Struct):
    """What is served, and how much of it is free."""

    protocol: int
    version: str
    capacity: int
    free: int
    envs: list[EnvInfo]


class Opened(msgspec.Struct):
    """A session, and the secret that every further request of it must bear."""

    session: str
    secret: str
    incarnation: int
    lanes: list[int]
    env: EnvInfo
    time_to_live_s: float
    blocks: list[Any]


class Stepped(msgspec.Struct):
    """One item an env where the session has several."""

    seq: int
    lane: int
    obs: Any
    reward: float | str | list[float | str]
    terminated: bool | list[bool]
    truncated: bool | list[bool]
    info: dict[str, Any] | list[dict[str, Any]]
    infos: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Rendered(msgspec.Struct):
    """A frame that is neither image nor text."""

    frame: Any


class Called(msgspec.Struct):
    """One value an env."""

    seq: int
    lane: int
    values: list[Any]


class Closed(msgspec.Struct):
    """The session's id."""

    closed: str


def schemas() -> dict[str, Any]:
    """Every schema by its name."""
    answers = [Refusal, Index, Health, Served, Opened, Stepped, Rendered, Called, Closed]
    kinds: list[Any] = [OpenBody, *OPERATIONS.values(), *answers]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {**found, "Document": {"type": "object", "required": ["openapi", "paths"]}}


def refusals() -> dict[str, Any]:
    """The answers that a request may get instead, by status."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    codes: dict[int, set[str]] = {404: {"misuse"}, 405: {"misuse"}, 413: {"too_large"}, 500: {"internal"}}
    for kind in _kinds(MultiServerRLError):
        if issubclass(kind, (MisuseError, PeerError)):
            codes.setdefault(kind.http_status, set()).add(kind.code)
    return {
        str(status): {"description": f"refused: {', '.join(sorted(codes[status]))}", "content": content}
        for status in sorted(codes)
    }


def _kinds(base: type[MultiServerRLError]) -> list[type[MultiServerRLError]]:
    """All errors of the package itself; those made elsewhere are not told of."""
    below = [kind for child in base.__subclasses__() for kind in _kinds(child)]
    return [base, *below] if base.__module__ == MultiServerRLError.__module__ else below
