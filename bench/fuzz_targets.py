"""What bytes are thrown at: every decoder, as a function of bytes that raises nothing, and some bytes to begin with.

A target lets through what its decoder may raise for bad bytes (WireError and its kin), and nothing else; what it
decodes it also looks at, as whoever asked for it would. bench/fuzz.py and tests/bench/test_fuzz.py share them.
"""

from __future__ import annotations

import contextlib
import json
import types
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from gymnasium import spaces

from multiserverrl.client.coding import CodedConnection, Wanted
from multiserverrl.client.envs import LaneEnvs
from multiserverrl.client.fetching import checked_json
from multiserverrl.client.link import Link
from multiserverrl.client.transport import Connection
from multiserverrl.errors import MisuseError, MultiServerRLError, PeerError
from multiserverrl.server import jsonrequests
from multiserverrl.server.checks import check_reset
from multiserverrl.wire import frames, messages
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.brief import brief
from multiserverrl.wire.coding import HEADER, Codec, Coding
from multiserverrl.wire.jsonvalues import from_json, to_json
from multiserverrl.wire.spaces import describe_space, restore_space
from multiserverrl.wire.trees import pack_tree, unpack_rows, unpack_tree
from multiserverrl.wire.websocket import BINARY, frame_head, next_message, unmasked
from scripted_server import ACCEPT, ScriptedAddress

MAX_BYTES = 1 << 20
CODINGS = [Coding(), Coding(compression=True), Coding(checksum=True), Coding(True, True)]
SPACES: list[Any] = [
    spaces.Discrete(3, start=-1),
    spaces.Box(-1, 1, (2, 3)),
    spaces.MultiDiscrete([2, 3], start=[-1, 5]),
    spaces.MultiBinary([2, 2]),
    spaces.Box(0, 1, (), bool),
    spaces.Dict(a=spaces.Tuple([spaces.Discrete(2, dtype=np.int8), spaces.Box(-9, np.inf)]), b=spaces.MultiBinary(3)),
    spaces.Text(5, min_length=1, charset="abc"),
    spaces.Dict(text=spaces.Text(3), number=spaces.Box(0, 9, (2,), np.uint8)),
    spaces.Sequence(spaces.Dict(a=spaces.Box(-1, 1, (2,)), n=spaces.Discrete(3)), stack=True),
    spaces.Sequence(spaces.Text(3)),
    spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
    spaces.OneOf([spaces.Discrete(2), spaces.Tuple([spaces.Text(2), spaces.Box(0, 1)])]),
]  # fmt: skip


class Target(NamedTuple):
    """A decoder, and bytes that it takes."""

    run: Callable[[bytes], None]
    seeds: list[bytes]


# -- frames ------------------------------------------------------------------------------------------


def _requests(content: bytes) -> None:
    with contextlib.suppress(MultiServerRLError):
        request, _ = frames.decode_request(content)
        if isinstance(request, messages.Reset):
            check_reset(request, 2, was_reset=True)
        for name in ("arguments", "options", "actions", "values"):
            repr(unpack_tree(getattr(request, name, b"") or b"\x80"))


def _answers(content: bytes) -> None:
    with contextlib.suppress(PeerError):
        answer, _ = frames.decode_answer(content)
        if isinstance(answer, messages.Opened):
            restore_space(answer.env.observation_space)
            restore_space(answer.env.action_space)
        for name in ("infos", "observations", "frames", "values"):
            repr(unpack_rows(getattr(answer, name, [])))


def _coding(content: bytes) -> None:
    """The first byte says what was agreed on, and whether the rest is made to fit its checksum, or is compressed."""
    if not content:
        return
    how, frame = content[0], content[1:]
    if how & 4:
        frame = b"M\x01\x02\0\0\0\0\0" + zstandard.ZstdCompressor(1).compress(frame)
    if how & 8 and len(frame) >= 4:
        frame = frame[:2] + bytes((frame[2] | 1,)) + frame[3:]
        frame += zlib.crc32(frame).to_bytes(4, "little")
    with contextlib.suppress(MultiServerRLError):
        frames.decode_request(Codec(CODINGS[how % 4], MAX_BYTES).decode(frame))


def _websocket(content: bytes) -> None:
    if not content:
        return
    payload, end = next_message(content)
    assert end <= len(content) or payload is None
    if payload is not None:
        assert len(payload) < end
    unmasked(content[:4].ljust(4), content)


# -- values ------------------------------------------------------------------------------------------


def _trees(content: bytes) -> None:
    with contextlib.suppress(PeerError):
        tree = unpack_tree(content)
        brief(tree)
        json.dumps(to_json(tree), allow_nan=False)
        with contextlib.suppress(MisuseError):  # nested deeper than is sent, perhaps
            pack_tree(tree)


def _actions(content: bytes) -> None:
    """The first byte names a space, the rest is what a step bears for two envs of it."""
    if not content:
        return
    codec = ActionCodec(SPACES[content[0] % len(SPACES)], 2)
    with contextlib.suppress(MisuseError, PeerError):
        if codec.layout is not None:
            codec.check(content[1:])
            codec.layout.rows(bytearray(content[1:]))
        else:
            pack_tree(codec.check_tree(unpack_tree(content[1:])))


def _json_actions(content: bytes) -> None:
    if not content:
        return
    space = SPACES[content[0] % len(SPACES)]
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = msgspec.json.decode(content[1:])
        with contextlib.suppress(MisuseError):
            ActionCodec(space, 1).check_tree([from_json(space, value)])


def _json_requests(content: bytes) -> None:
    """The first byte names a route."""
    if not content:
        return
    routes = ["open", *jsonrequests.OPERATIONS, "fly"]
    route = routes[content[0] % len(routes)]
    codec = ActionCodec(SPACES[content[0] // len(routes) % len(SPACES)], 1)
    lane: Any = types.SimpleNamespace(codec=codec, num_envs=1)
    with contextlib.suppress(MisuseError):
        if route == "open":
            frames.encode(jsonrequests.open_of(content[1:]))
        else:
            frames.encode(*jsonrequests.request_of(route, content[1:], [lane]))


def _spaces(content: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        description = msgspec.json.decode(content)
        with contextlib.suppress(PeerError):
            space = restore_space(description)
            describe_space(space)
            ActionCodec(space, 2)


# -- what a hostile server sends ---------------------------------------------------------------------


def _handshake(content: bytes) -> None:
    """Any bytes as the answer to the WebSocket's handshake; ACCEPT in them becomes what was to be said."""
    with contextlib.suppress(PeerError, OSError):
        Connection(ScriptedAddress.of(content, handshake=False), 1.0).receive()


def _connection(content: bytes) -> None:
    """Any bytes behind the handshake; the first says what was agreed on."""
    if not content:
        return
    address = ScriptedAddress.of(content[1:], headers={HEADER: str(CODINGS[content[0] % 4])})
    with contextlib.suppress(PeerError, OSError):
        offered = CODINGS[content[0] % 4]
        connection = CodedConnection(address, 1.0, address.connect(1.0), offered)
        while True:
            connection.receive()


def _link(content: bytes) -> None:
    """Any frames as the answers to open, and to a step of two envs of a space that the first byte names."""
    if not content:
        return
    space = SPACES[content[0] % len(SPACES)]
    _, opened, answer = OPENED, *content[1:].partition(b"\xffOPENED\xff")[::2]
    script = b"".join(frame_head(BINARY, len(one)) + one for one in (opened or OPENED, answer))
    with contextlib.suppress(MultiServerRLError):
        address = ScriptedAddress.of(script)
        request = messages.Open(messages.PROTOCOL_VERSION, "Env", 2, lanes=[2])
        link = Link(address, request, timeout_s=1.0, wanted=Wanted(compression=False))
        try:
            config = types.SimpleNamespace(on_fault="raise")
            remote: Any = types.SimpleNamespace(config=config, link=link, observation_space=space, action_space=space)
            restore_space(link.opened.env.observation_space)
            link.send(0, lambda seq: messages.Step(0, seq))
            LaneEnvs(remote, 0, 2).take()
        finally:
            link.leave()


def _fetched(content: bytes) -> None:
    """Any JSON that a server says of itself, or of its refusal."""
    if not content:
        return
    with contextlib.suppress(MultiServerRLError):
        checked_json(content[1:], 200 + content[0], ScriptedAddress.of(b""))


# -- bytes to begin with -----------------------------------------------------------------------------

_ENV = messages.EnvInfo("Env", describe_space(SPACES[5]), describe_space(SPACES[0]), ["ansi"], {"render_fps": 30})
OPENED = frames.encode(messages.Opened("id", "secret", 1, [2], _ENV, 120.0))
_TREE = {
    "a": [1, -1.5, None, True, (1, "x")], 3: np.arange(3), "b": {(1, 2): np.float32(1)}, "big": 2**70,
    "text": np.array(["ab", ""]), "graph": spaces.GraphInstance(np.zeros((1, 2)), None, None),
    "objects": np.array([None, {"x": b"y"}], dtype=object), "time": np.datetime64("2020-01-01"),
    "mask": np.array([True]),
}  # fmt: skip
_REQUESTS = [
    frames.encode(messages.Open(1, "Env", 2, lanes=[1, 1], owner="me", arguments=pack_tree({"size": 3}), host="ab")),
    frames.encode(messages.Resume(1, "id", "secret", 1)),
    frames.encode(messages.Reset(0, 1, [1, None], pack_tree({"a": 1}), b"\1\0", True)),
    frames.encode(messages.Step(0, 2, by_block=True), bytes(16)),
    frames.encode(messages.Step(0, 2, pack_tree(["ab", "c"]))),
    frames.encode(messages.Render(0, 3)),
    frames.encode(messages.Call(0, 3, "call", "steps", pack_tree(((1,), {"x": 2})))),
    frames.encode(messages.Close(0, 4)),
]
_BODY = bytes(StepLayout(SPACES[0], 2).size_bytes)
_BLOCK = messages.SharedBlock("/proc/1/fd/3", 4096, 64, [0, 64], 128, 136, 7)
_ANSWERS = [
    OPENED,
    frames.encode(messages.Opened("id", "secret", 1, [2], _ENV, 120.0, [_BLOCK])),
    frames.encode(messages.Resumed(1, [1])),
    frames.encode(messages.Stepped(0, 1, [pack_tree({0: _TREE, 1: {}})]), _BODY),
    frames.encode(messages.Stepped(0, 1, [], [pack_tree({0: "a", 1: "b"})], [messages.Finals([0], bytes(8))]), _BODY),
    frames.encode(messages.Stepped(0, 1, finals=[messages.Finals([], b"")]), _BODY),
    frames.encode(messages.Stepped(0, 1, block_body=0)),
    frames.encode(messages.Rendered(0, 1, [pack_tree({0: np.zeros((2, 2, 3), np.uint8)})])),
    frames.encode(messages.Called(0, 1, [pack_tree({0: 1})])),
    frames.encode(messages.Closed(0, 1)),
    frames.encode(messages.Refused(0, 1, "env_fault", "it raised", "Traceback", True)),
]


def _masked(payload: bytes, opcode: int = BINARY) -> bytes:
    head = bytearray(frame_head(opcode, len(payload)))
    head[1] |= 0x80
    return bytes(head) + b"1234" + unmasked(b"1234", payload)


def _members(space: Any) -> list[Any]:
    space.seed(1)
    return [space.sample(), space.sample()]


def _action_seed(index: int) -> bytes:
    codec, members = ActionCodec(SPACES[index], 2), _members(SPACES[index])
    if codec.layout is None:
        return bytes((index,)) + pack_tree(members)
    body = bytearray(codec.size_bytes)
    write = codec.layout.row_writer(body, "action")
    for row, value in enumerate(members):
        write(row, value)
    return bytes((index,)) + body


_SHAKEN = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
_REFUSED_HEAD = b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 38\r\n\r\n{"error":"unauthorized","message":"no"}'
_JSON_BODIES = [
    (0, {"env_id": "E", "num_envs": 2, "lanes": [1, 1], "wait_s": 1.5, "arguments": {"a": [1]}, "owner": "o"}),
    (1, {"seq": 1, "seed": 3, "options": {"a": None}, "mask": [True]}),
    (2, {"seq": 2, "action": 1}),
    (2, {"seq": 2, "actions": ["9007199254740993"]}),
    (3, {"seq": 3, "lane": 0}),
    (4, {"seq": 4, "name": "x", "kind": "call", "args": [1], "kwargs": {"y": "z"}, "values": [1]}),
]

TARGETS: dict[str, Target] = {
    "requests": Target(_requests, _REQUESTS),
    "answers": Target(_answers, _ANSWERS),
    "coding": Target(_coding, [bytes((how,)) + frame for how in range(12) for frame in _REQUESTS[:4]]),
    "websocket": Target(_websocket, [_masked(b""), _masked(bytes(200)), _masked(bytes(70_000))[:20], _masked(b"x", 9)]),
    "trees": Target(_trees, [pack_tree(_TREE), *(pack_tree(value) for value in _TREE.values())]),
    "actions": Target(_actions, [_action_seed(index) for index in range(len(SPACES))]),
    "json_actions": Target(
        _json_actions,
        [bytes((i,)) + json.dumps(to_json(_members(space)[0])).encode() for i, space in enumerate(SPACES)],
    ),
    "json_requests": Target(
        _json_requests, [bytes((route,)) + json.dumps(body).encode() for route, body in _JSON_BODIES]
    ),
    "spaces": Target(_spaces, [json.dumps(describe_space(space)).encode() for space in SPACES]),
    "handshake": Target(
        _handshake, [_SHAKEN + frame_head(BINARY, 2) + b"ab", _REFUSED_HEAD, b"HTTP/1.1 200 OK\r\n\r\n", b"\x15\x03"]
    ),
    "connection": Target(
        _connection,
        [
            bytes((how,)) + frame_head(BINARY, len(one)) + one
            for how in range(4)
            for one in (Codec(CODINGS[how], MAX_BYTES).encode(frame) for frame in _ANSWERS[2:4])
        ]
        + [b"\0" + frame_head(9, 1) + b"a" + frame_head(8, 2) + b"\x03\xe8", b"\0\x02\1a\x80\1b\x82\x7f" + b"\xff" * 9],
    ),
    "link": Target(
        _link,
        [bytes((index,)) + b"\xffOPENED\xff" + answer for index in range(len(SPACES)) for answer in _ANSWERS[2:]]
        + [b"\0" + opened + b"\xffOPENED\xff" + _ANSWERS[3] for opened in _ANSWERS[:2]],
    ),
    "fetched": Target(
        _fetched, [b'\0{"protocol":1,"envs":[]}', b'\xc8{"error":"full","message":"no","x":[[[]]]}', b"\xc8[1]", b"\0{"]
    ),
}  # fmt: skip
