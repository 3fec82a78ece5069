"""The messages of the protocol: every request a client can make, and every answer.

Each is a small typed header; arrays travel behind it in the frame's body (see `frames`). A request
that touches envs bears its lane and seq; its answer bears the same. Trees are bytes of `trees`.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "AUTORESET_MODES",
    "PROTOCOL_VERSION",
    "WHOLE_LANE",
    "Answer",
    "Call",
    "Called",
    "Close",
    "Closed",
    "EnvInfo",
    "Finals",
    "Open",
    "Opened",
    "Refused",
    "Render",
    "Rendered",
    "Request",
    "Reset",
    "Resume",
    "Resumed",
    "SharedBlock",
    "Step",
    "Stepped",
]

PROTOCOL_VERSION = 1
AUTORESET_MODES = ("next_step", "same_step", "disabled")
WHOLE_LANE = -1  # in the place of a row: the infos of all envs of a lane, in Gymnasium's vector form


class Open(msgspec.Struct, array_like=True, frozen=True, tag="open"):
    """Begin a session with `num_envs` envs, in lanes of these sizes (empty: one lane of all).

    `owner`: an older session of the same owner is closed first. `wait_s`: how long to wait for
    free envs. `arguments` (a tree): the env's constructor arguments, those that the operator allows.
    `host`: the client's (`memory.host_id`), where it can read a server's memory files; empty: it cannot.
    """

    version: int
    env_id: str | None = None
    num_envs: int = 1
    autoreset_mode: str = "next_step"
    render_mode: str | None = None
    lanes: list[int] = []
    owner: str | None = None
    wait_s: float = 0.0
    arguments: bytes = b""
    host: str = ""


class Resume(msgspec.Struct, array_like=True, frozen=True, tag="resume"):
    """Go on with a session on this connection; an older connection of it is fenced."""

    version: int
    session: str
    secret: str
    incarnation: int


class Reset(msgspec.Struct, array_like=True, frozen=True, tag="reset"):
    """Reset the lane's envs; `seeds` one an env, `mask` one byte an env (None: all), `options` a tree.

    `by_block`: the answer's body may stay in the lane's SharedBlock.
    """

    lane: int
    seq: int
    seeds: list[int | None] | None = None
    options: bytes = b""
    mask: bytes | None = None
    by_block: bool = False


class Step(msgspec.Struct, array_like=True, frozen=True, tag="step"):
    """Step the lane's envs once; the actions are the body, or `actions` (a tree) without a fixed size.

    `by_block`: the answer's body may stay in the lane's SharedBlock.
    """

    lane: int
    seq: int
    actions: bytes = b""
    by_block: bool = False


class Render(msgspec.Struct, array_like=True, frozen=True, tag="render"):
    """Fetch what each env of the lane renders now."""

    lane: int
    seq: int


class Call(msgspec.Struct, array_like=True, frozen=True, tag="call"):
    """Get, set or call an attribute that the operator allows. `kind`: "get", "set" or "call"; `values` a tree.

    "set" takes a list with one value an env; "call" takes (args, kwargs).
    """

    lane: int
    seq: int
    kind: str
    name: str
    values: bytes = b""


class Close(msgspec.Struct, array_like=True, frozen=True, tag="close"):
    """End the session and free its envs."""

    lane: int
    seq: int


class EnvInfo(msgspec.Struct, frozen=True):
    """What a server serves under one id.

    `autoreset_modes`: those that a native vector env has; a session gets such an env whole, in one lane.
    Empty: single envs, for which the server carries out every mode.
    """

    env_id: str
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    render_modes: list[str]
    metadata: dict[str, Any] = {}
    reward_threshold: float | None = None
    max_episode_steps: int | None = None
    nondeterministic: bool = False
    autoreset_modes: list[str] = []


class SharedBlock(msgspec.Struct, array_like=True, frozen=True):
    """Where a lane's answers' bodies lie in a memory file of the server's host, for reading.

    `bodies`: where its two bodies begin, each of `body_bytes`. `answered_at`, `nonce_at`: where two numbers (int64)
    lie: the seq that the lane answered last, and `nonce`, by which the file is known to be the right one.
    """

    path: str
    size_bytes: int
    body_bytes: int
    bodies: list[int]
    answered_at: int
    nonce_at: int
    nonce: int


class Opened(msgspec.Struct, array_like=True, frozen=True, tag="opened"):
    """The session's names and what its envs are; `secret` is needed for every later operation.

    `blocks`: one a lane, where client and server are on one host and both want it.
    """

    session: str
    secret: str
    incarnation: int
    lanes: list[int]
    env: EnvInfo
    time_to_live_s: float
    blocks: list[SharedBlock] = []


class Resumed(msgspec.Struct, array_like=True, frozen=True, tag="resumed"):
    """The session goes on; `last_seqs` is each lane's last answered seq."""

    incarnation: int
    last_seqs: list[int]


class Finals(msgspec.Struct, array_like=True, frozen=True):
    """Final observations of some rows of a lane: `content` is a batch of them (`arrays.BatchLayout`)."""

    rows: list[int]
    content: bytes


class Stepped(msgspec.Struct, array_like=True, frozen=True, tag="stepped"):
    """The answer to Reset and Step: rewards, observations and ends are the body (`arrays.StepLayout`).

    `infos`: trees, each a dict from env (its row in the lane) to that env's info; envs without one
    are left out; a native vector env's infos stand under WHOLE_LANE, as it gives them. `observations`:
    trees of {row: observation}, for spaces without a fixed size.
    `finals`: the last observations of episodes that ended in same_step, for spaces of fixed size; what
    Gymnasium calls `final_obs`. Elsewhere a `final_obs` stands in the env's info.
    `block_body`: the body is this one of the lane's SharedBlock, 0 or 1; -1: it follows.
    """

    lane: int
    seq: int
    infos: list[bytes] = []
    observations: list[bytes] = []
    finals: list[Finals] = []
    block_body: int = -1


class Rendered(msgspec.Struct, array_like=True, frozen=True, tag="rendered"):
    """Trees of {row: frame}."""

    lane: int
    seq: int
    frames: list[bytes]


class Called(msgspec.Struct, array_like=True, frozen=True, tag="called"):
    """Trees of {row: value}."""

    lane: int
    seq: int
    values: list[bytes]


class Closed(msgspec.Struct, array_like=True, frozen=True, tag="closed"):
    """The session is over."""

    lane: int
    seq: int


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Not done; `code` is an error's code. `is_final` False: nothing was stepped and the seq was not used up."""

    lane: int
    seq: int
    code: str
    message: str
    traceback: str = ""
    is_final: bool = False


Request = Open | Resume | Reset | Step | Render | Call | Close
Answer = Opened | Resumed | Stepped | Rendered | Called | Closed | Refused
