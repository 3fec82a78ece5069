"""Actions that are none, and bytes that are no messages."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
import zstandard
from gymnasium import spaces

from matrix import Effort, FaultRow, Seen
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.transport import Address, Connection
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ActionError, MisuseError, MultiServerRLError, WireError
from multiserverrl.testing.serving import serving
from multiserverrl.testing.takers import ACTION_SPACES, Taker
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.coding import Codec, Coding
from multiserverrl.wire.jsonvalues import from_json
from multiserverrl.wire.messages import PROTOCOL_VERSION, Close, Open, Reset, Step, Stepped
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_tree
from wrong_actions import WRONG, framed, plain

TAKER = "multiserverrl.testing.takers:Taker"
NUM_ENVS = 2


class Refusal(NamedTuple):
    """What was said to a request; `code` is empty when it was not refused."""

    code: str
    message: str
    is_final: bool = False


class Told(NamedTuple):
    """What a step gave, of all envs."""

    obs: Any  # (N, 2)
    rewards: list[float]


class FrameWay:
    """A session spoken in frames that nobody has looked at."""

    num_envs, letter = NUM_ENVS, "f"

    def __init__(self, url: str, space: str) -> None:
        self.connection = Connection(Address.parse(url), 30)
        self.connection.set_timeout(30)
        self.space, self.seq = space, 1
        arguments = pack_tree({"space": space})
        self._ask(frames.encode(Open(PROTOCOL_VERSION, TAKER, NUM_ENVS, arguments=arguments)))
        self._ask(frames.encode(Reset(0, 1, list(range(NUM_ENVS)))))

    def _ask(self, frame: bytes) -> tuple[Any, memoryview]:
        self.connection.send(frame)
        return frames.decode_answer(self.connection.receive())

    def wrong(self, rows: list[Any]) -> Refusal:
        return self.wrong_bytes(*framed(self.space, rows))

    def wrong_bytes(self, body: bytes, tree: bytes = b"") -> Refusal:
        answer, _ = self._ask(frames.encode(Step(0, self.seq + 1, tree), body))
        if isinstance(answer, Stepped):
            self.seq += 1
            return Refusal("", "")
        return Refusal(answer.code, answer.message, answer.is_final)

    def right(self, rows: list[Any]) -> Told:
        body, tree = framed(self.space, rows)
        answer, told = self._ask(frames.encode(Step(0, self.seq + 1, tree), body))
        assert isinstance(answer, Stepped), answer
        self.seq += 1
        obs, rewards, *_ = StepLayout(Taker().observation_space, NUM_ENVS).unpack(told)
        return Told(obs, rewards.tolist())

    def close(self) -> None:
        self._ask(frames.encode(Close(0, self.seq + 1)))
        self.connection.close()


class JsonWay:
    """A session spoken in JSON."""

    num_envs, letter = NUM_ENVS, "j"

    def __init__(self, url: str, space: str) -> None:
        parts = urlsplit(url)
        self.http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self.headers: dict[str, str] = {}
        opening = {"env_id": TAKER, "num_envs": NUM_ENVS, "arguments": {"space": space}}
        told = self._ask("POST", "/v1/sessions", opening)[1]
        self.path, self.headers = f"/v1/sessions/{told['session']}", {"Session-Secret": told["secret"]}
        self.seq = 1
        self._ask("POST", f"{self.path}/reset", {"seq": 1, "seed": list(range(NUM_ENVS))})

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.http.request(method, path, json.dumps(body), self.headers)
        response = self.http.getresponse()
        return response.status, json.loads(response.read())

    def wrong(self, rows: list[Any]) -> Refusal:
        return self.wrong_body({"seq": self.seq + 1, "actions": plain(rows)})

    def wrong_body(self, body: Any) -> Refusal:
        status, told = self._ask("POST", f"{self.path}/step", body)
        if status == 200:
            self.seq += 1
            return Refusal("", "")
        return Refusal(told["error"] if 400 <= status < 500 else f"HTTP {status}", told["message"])

    def right(self, rows: list[Any]) -> Told:
        status, told = self._ask("POST", f"{self.path}/step", {"seq": self.seq + 1, "actions": plain(rows)})
        assert status == 200, told
        self.seq += 1
        return Told(np.array(told["obs"]), told["reward"])

    def close(self) -> None:
        self._ask("DELETE", self.path, None)
        self.http.close()


class ClientWay:
    """Our own client, of one env."""

    num_envs, letter = 1, "c"

    def __init__(self, url: str, space: str) -> None:
        self.env = VirtualEnv(url, TAKER, arguments={"space": space})
        self.env.reset(seed=0)

    def wrong(self, rows: list[Any]) -> Refusal:
        try:
            self.env.step(rows[0])
        except MultiServerRLError as error:
            return Refusal(error.code, str(error))
        return Refusal("", "")

    def right(self, rows: list[Any]) -> Told:
        obs, reward, *_ = self.env.step(rows[0])
        return Told(obs[None], [float(reward)])

    def close(self) -> None:
        self.env.close()


class Walk:
    """One session and its local twin: a wrong action is refused, then the right one with the same seq is one step."""

    def __init__(self, way: Any, space: str) -> None:
        self.way, self.space = way, ACTION_SPACES[space]
        self.space.seed(1)
        self.twins = [Taker(space) for _ in range(way.num_envs)]
        for seed, twin in enumerate(self.twins):
            twin.reset(seed=seed)
        self.refused = self.stepped = self.used_up = 0
        self.faults: list[str] = []

    def members(self) -> list[Any]:
        return [self.space.sample() for _ in self.twins]

    def see(self, what: str, refusal: Refusal, named: str, codes: tuple[str, ...] = ("action",)) -> None:
        """Judge a refusal, then step."""
        self.refused += 1
        self.used_up += refusal.is_final
        if refusal.code not in codes or refusal.is_final or named not in refusal.message:
            self.faults.append(f"{what}: {refusal}")
        rows = self.members()
        told = self.way.right(rows)
        wanted = [twin.step(row) for twin, row in zip(self.twins, rows, strict=True)]
        self.stepped += int(told.obs[0][0] - wanted[0][0][0])
        same = all(np.array_equal(obs, want[0]) for obs, want in zip(told.obs, wanted, strict=True))
        if not same or told.rewards != [float(want[1]) for want in wanted]:
            self.faults.append(f"{what}: the step after it was another than the local one")


def refuse_all(walk: Walk, space: str) -> None:
    """Each wrong action of the table, at each env in turn."""
    for wrong in WRONG[space]:
        if walk.way.letter not in wrong.ways:
            continue
        for row in range(walk.way.num_envs):
            rows = walk.members()
            rows[row] = wrong.value
            is_shape = walk.way.letter == "f" and "shape" in wrong.named
            named = "were expected" if is_shape else wrong.named
            what = f"{type(walk.way).__name__} {space} {str(wrong.value)[:60]}"
            refusal = walk.way.wrong(rows)
            if walk.way.num_envs > 1 and not is_shape and not refusal.message.startswith(f"env {row}: "):
                walk.faults.append(f"{what}: it does not say env {row}")
            walk.see(what, refusal, named)


def refuse_counts(walk: Walk, space: str) -> None:
    """Actions of too few and too many envs, of another length, and requests that are not whole."""
    way, codec = walk.way, ActionCodec(ACTION_SPACES[space], NUM_ENVS)
    for count in (0, 1, NUM_ENVS + 1):
        rows = [walk.space.sample() for _ in range(count)]
        if isinstance(way, FrameWay | JsonWay):
            walk.see(f"{space} for {count} envs", way.wrong(rows), "expected" if way.letter == "f" else "list of 2")
    if isinstance(way, FrameWay) and codec.layout is not None:
        body, _ = framed(space, walk.members())
        for wrong in (b"", body[:-1], body + b"\0"):
            walk.see(f"{space} in {len(wrong)} bytes", way.wrong_bytes(wrong), "bytes; ")
        walk.see(f"{space} as a tree", way.wrong_bytes(b"", pack_tree(walk.members())), "0 bytes; ")
    elif isinstance(way, FrameWay):
        walk.see(f"{space} in a body", way.wrong_bytes(b"abc", pack_tree(walk.members())), "in the header")
        for tree in (b"\xc1", b"\x91", pack_tree({}), pack_tree("ab")):
            walk.see(f"{space} of tree {tree!r}", way.wrong_bytes(b"", tree), "", ("action", "wire"))
    if isinstance(way, JsonWay):
        right = plain(walk.members())
        for body in (
            {}, {"actions": right}, {"seq": way.seq + 1}, {"seq": True, "actions": right}, [right],
            {"seq": str(way.seq + 1), "actions": right}, {"seq": way.seq + 1, "actions": right, "action": 1},
            {"seq": way.seq + 1, "actions": right, "more": 1}, {"seq": way.seq + 1, "actions": right, "lane": 9},
            {"seq": 2**70, "actions": right}, {"seq": way.seq + 1, "action": right}, {"seq": way.seq + 1, "actions": 7},
        ):  # fmt: skip
            walk.see(f"{space} JSON {str(body)[:80]}", way.wrong_body(body), "", ("misuse", "action", "space", "seq"))


def refuse_random(walk: Walk, space: str, rng: random.Random, times: int) -> None:
    """Random bytes and random JSON; what happens to be a member is left out."""
    codec = ActionCodec(ACTION_SPACES[space], walk.way.num_envs)
    for _ in range(times):
        if isinstance(walk.way, FrameWay):
            body, tree = _random_bytes(codec, rng)
            if not _is_taken(codec, body, tree):
                walk.see(f"{space} random {body or tree!r}", walk.way.wrong_bytes(body, tree), "", ("action", "wire"))
            continue
        rows = walk.members()
        rows[rng.randrange(len(rows))] = value = _random_json(rng, 3)
        if isinstance(walk.way, JsonWay) and not _is_json_taken(codec, value):
            walk.see(f"{space} random {value!r}", walk.way.wrong(rows), "")


def _random_bytes(codec: ActionCodec, rng: random.Random) -> tuple[bytes, bytes]:
    if codec.layout is not None:
        return rng.randbytes(max(0, codec.size_bytes + rng.choice((0, 0, 0, 0, 1, -1, 8)))), b""
    tree = bytearray(pack_tree([codec.space.sample() for _ in range(codec.num)]))
    for _ in range(rng.randint(1, 3)):
        tree[rng.randrange(len(tree))] = rng.randrange(256)
    return b"", bytes(tree)


def _is_taken(codec: ActionCodec, body: bytes, tree: bytes) -> bool:
    try:
        if codec.layout is not None:
            codec.check(body)
        else:
            codec.check_tree(unpack_tree(tree))
    except (ActionError, WireError):
        return False
    return True


def _random_json(rng: random.Random, depth: int) -> Any:
    pick = rng.randrange(8 if depth else 6)
    if pick == 6:
        return [_random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if pick == 7:
        keys = ("arm", "grip", "word", "many", "choice", "nodes", "edges", "edge_links", "x")
        return {rng.choice(keys): _random_json(rng, depth - 1) for _ in range(rng.randrange(4))}
    numbers = (rng.randint(-3, 4), 2 ** rng.randrange(1, 90), rng.uniform(-2, 2))
    return (rng.choice(numbers), rng.choice((True, False)), None, rng.choice(("", "abc", "1", "NaN")), -1, 300)[pick]


def _is_json_taken(codec: ActionCodec, value: Any) -> bool:
    try:
        ActionCodec(codec.space, 1).check_tree([from_json(codec.space, value)])
    except MisuseError:
        return False
    return True


@contextlib.contextmanager
def _ways() -> Iterator[list[tuple[str, str, Any]]]:
    settings: dict[str, Any] = {"count": 16, "allow_arg": "space"}
    with serving(TAKER, workers=1, **settings) as lent, serving(TAKER, workers=2, **settings) as front:
        yield [
            ("frames, lent connection", lent.url, FrameWay), ("frames, front", front.url, FrameWay),
            ("JSON", front.url, JsonWay), ("JSON, one worker", lent.url, JsonWay), ("client", lent.url, ClientWay),
        ]  # fmt: skip


def wrong_actions(effort: Effort) -> Seen:
    """Every wrong action of every space, each way there is."""
    rng, walks, faults = random.Random(effort.seed), list[Walk](), list[str]()
    with _ways() as ways:
        for _, url, way_of in ways:
            for space in ACTION_SPACES:
                way = way_of(url, space)
                walk = Walk(way, space)
                refuse_all(walk, space)
                refuse_counts(walk, space)
                refuse_random(walk, space, rng, effort.times(10, 300))
                way.close()
                walks.append(walk)
                faults += walk.faults
        faults += _vector_faults(ways[0][1])
    refused, stepped, used_up = (
        sum(getattr(walk, name) for walk in walks) for name in ("refused", "stepped", "used_up")
    )
    what = f"envs stepped by a wrong action = {stepped}, seqs used up = {used_up}, other faults = {len(faults)}"
    if faults:
        what = f"{what}; the first: {faults[0][:300]}"
    return Seen(
        f"{refused} wrong actions on {len(ACTION_SPACES)} spaces, {len(ways)} ways", what, not (stepped or faults)
    )


def _vector_faults(url: str) -> list[str]:
    """Our own vector client, in one lane and in several."""
    faults = []
    for lanes in (1, 2):
        envs = VirtualVectorEnv(url, TAKER, 4, lanes=lanes, arguments={"space": "box"})
        envs.reset(seed=0)
        nan = np.zeros((4, 2), np.float32)
        nan[3, 1] = np.nan
        for wrong, named in ((nan, "env 3: action[1] is NaN"), (np.zeros((3, 2)), "3"), (np.zeros((4, 3)), "shape")):
            try:
                envs.step(wrong)
                faults.append(f"{lanes} lanes: {named} was taken")
            except ActionError as error:
                if named not in str(error):
                    faults.append(f"{lanes} lanes: {error}")
        if envs.step(np.zeros((4, 2), np.float32))[0][:, 0].tolist() != [1.0] * 4:
            faults.append(f"{lanes} lanes: a wrong action was stepped")
        envs.close()
    return faults


# -- lies about sizes --------------------------------------------------------------------------------


def _array(dtype: str, shape: Any, content: bytes) -> bytes:
    record = msgspec.msgpack.encode([dtype, shape, content])
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(1, record))


def _lies() -> dict[str, Any]:
    """What says it is large; (what is to refuse it, the bytes or description)."""
    many = (1 << 20) + 10
    bomb = b"M\x01\x02\0\0\0\0\0" + zstandard.ZstdCompressor(1).compress(bytes(1 << 28))
    trees = {
        "shape": _array("<f8", [2**31, 2**31], b""), "items": _array("<U999999999", [9], b""),
        "list": b"\xdd\xff\xff\xff\xff", "map": b"\xdf\xff\xff\xff\xff", "text": b"\xdb\xff\xff\xff\xff",
        "empty lists": b"\xdd" + many.to_bytes(4, "big") + b"\x90" * many,
        "empty maps": b"\xdd" + many.to_bytes(4, "big") + b"\x80" * many, "deep": b"\x91" * many,
    }  # fmt: skip
    described = {
        "Box": {"type": "Box", "dtype": "float64", "shape": [2**20, 2**20], "low": 0, "high": 1},
        "MultiBinary": {"type": "MultiBinary", "n": [2**30, 2**30]},
        "MultiDiscrete": {"type": "MultiDiscrete", "dtype": "int64", "shape": [2**50], "nvec": [1], "start": [0]},
    }
    codec = Codec(Coding(compression=True), 1 << 20)
    return {
        **{f"a tree: {name}": (unpack_tree, content) for name, content in trees.items()},
        **{f"a space: {name}": (restore_space, told) for name, told in described.items()},
        "a decompression bomb": (codec.decode, bomb),
        "one that lies of its size": (codec.decode, bomb[:14] + (3000).to_bytes(4, "little") + bomb[18:]),
        "a header longer than its frame": (frames.decode_request, b"M\x01\0\0\xff\xff\xff\x7f"),
        "actions of no length": (ActionCodec(spaces.Box(0, 1, (1 << 12,)), 1).check, b""),
    }


def lies(effort: Effort) -> Seen:
    """What grows when each decoder is lied to; a lie itself is at most 1 MiB."""
    worst, faults = 0, []
    for name, (decode, lie) in _lies().items():
        tracemalloc.start()
        try:
            decode(lie)
            faults.append(f"{name} was believed")
        except (ActionError, WireError):
            pass
        finally:
            worst = max(worst, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    what = f"memory growth at most {worst / 1024:.0f} KiB, believed {len(faults)} {'; '.join(faults)}"
    return Seen(f"{len(_lies())} lies to the decoders", what, worst < 1 << 20 and not faults)


ROWS: list[FaultRow] = [
    FaultRow(
        "14b",
        "lying lengths and shapes, decompression bombs, values packed to explode, at the decoders",
        "refused before allocation",
        lies,
    ),
    FaultRow(
        "15",
        "NaN, non-members, wrong dtype, shape, number or structure of actions",
        "refused naming the env and the part; env untouched; seq not used up",
        wrong_actions,
    ),
]
