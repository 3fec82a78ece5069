"""Writes the made parts of docs/protocol.md: `python docs/generate_protocol.py`.

The tables of messages and of errors, and the bytes of one exchange, come from the code. `--check`
writes nothing and exits 1 when the page is not in step.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gymnasium import spaces

from multiserverrl import errors
from multiserverrl.errors import ActionError
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import (
    PROTOCOL_VERSION,
    Answer,
    Close,
    Closed,
    EnvInfo,
    Finals,
    Open,
    Opened,
    Refused,
    Request,
    Reset,
    Resume,
    Resumed,
    SharedBlock,
    Step,
    Stepped,
)
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import pack_tree

PAGE = Path(__file__).with_name("protocol.md")


def messages(kinds: Any) -> str:
    """One row a message: its name, and its fields in their order."""
    rows = ["| name | fields, in this order |", "|---|---|"]
    for kind in kinds:
        fields = ", ".join(f"`{name}`: {_type(hint)}" for name, hint in typing.get_type_hints(kind).items())
        rows.append(f"| `{kind.__struct_config__.tag or kind.__name__}` | {fields} |")
    return "\n".join(rows)


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text).replace("|", "or")


def error_codes() -> str:
    rows = ["| code | HTTP | what it says |", "|---|---|---|"]
    for kind in _kinds(errors.MisuseError, errors.PeerError):
        told = (kind.__doc__ or "").partition("\n")[0]
        rows.append(f"| `{kind.code}` | {kind.http_status} | {told} |")
    return "\n".join(rows)


def _kinds(*bases: type[errors.MultiServerRLError]) -> Iterator[type[errors.MultiServerRLError]]:
    for base in bases:
        yield base
        yield from (kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__)


SPACE, ACTIONS = spaces.Box(0, 1, (3,), np.float32), ActionCodec(spaces.Discrete(2), 1)
ENV = EnvInfo("Walk-v0", describe_space(SPACE), describe_space(ACTIONS.space), [], max_episode_steps=10)
SESSION, SECRET = "5f1e", "c0ffee"


def description() -> str:
    """What GET /v1/envs answers."""
    told = {"protocol": PROTOCOL_VERSION, "version": "0.1.0", "capacity": 1, "free": 1}
    told["envs"] = [msgspec.to_builtins(ENV)]
    return f"```json\n{msgspec.json.format(msgspec.json.encode(told), indent=2).decode()}\n```"


def stepped(seq: int, obs: list[float], reward: float = 0.0, steps: int = 0) -> bytes:
    """The answer to a reset, or to a step with an info."""
    layout = StepLayout(SPACE, 1)
    body = bytearray(layout.size_bytes)
    layout.row_writer(body, "obs")(0, np.array(obs, np.float32))
    layout.rewards(body)[0] = reward
    infos = [pack_tree({0: {"steps": np.int64(steps)}})] if steps else []
    return frames.encode(Stepped(0, seq, infos), body)


def exchange() -> Iterator[tuple[str, bytes]]:
    """What goes to and fro when one env is opened, stepped, asked wrongly, resumed and closed."""
    step, beyond = frames.encode(Step(0, 2), ACTIONS.pack_one(1)), np.int64(7).tobytes()
    answer = stepped(2, [0.25, 0.625, 1], 1.0, steps=1)
    yield "→ open", frames.encode(Open(PROTOCOL_VERSION, "Walk-v0", 1, "none"))
    yield "← opened", frames.encode(Opened(SESSION, SECRET, 1, [1], ENV, 120.0))
    yield "→ reset, seed 42", frames.encode(Reset(0, 1, [42]))
    yield "← stepped: obs [0, 0.25, 1]", stepped(1, [0, 0.25, 1])
    yield "→ step, action 1", step
    yield "← stepped: obs [0.25, 0.625, 1], reward 1.0, info steps 1", answer
    yield "→ step, action 7", frames.encode(Step(0, 3), beyond)
    told = "action is 7, which is not a member of Discrete(2)"
    yield "← refused: the seq 3 is free as before", frames.encode(Refused(0, 3, ActionError.code, told))
    yield "→ resume: over a new connection, as the other one broke", frames.encode(Resume(1, SESSION, SECRET, 1))
    yield "← resumed: seq 2 was the last to be answered", frames.encode(Resumed(1, [2]))
    yield "→ step: seq 2 once more, as its answer may have been lost", step
    yield "← stepped: the answer that was kept", answer
    yield "→ close", frames.encode(Close(0, 3))
    yield "← closed", frames.encode(Closed(0, 3))


def dump(content: bytes) -> str:
    """Sixteen bytes a line: where, in hexadecimal, as text."""
    lines = []
    for start in range(0, len(content), 16):
        part = content[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"  {start:04x}  {part.hex(' '):47}  {text}")
    return "\n".join(lines)


def exchange_text() -> str:
    return "```text\n" + "\n".join(f"{title}\n{dump(frame)}" for title, frame in exchange()) + "\n```"


PARTS = {
    "requests": lambda: messages(typing.get_args(Request)),
    "answers": lambda: messages((*typing.get_args(Answer), SharedBlock, Finals, EnvInfo)),
    "errors": error_codes,
    "description": description,
    "exchange": exchange_text,
}


def page(text: str) -> str:
    """The page with every made part made anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- made: {name} -->\n", "<!-- /made -->"
        head, found, rest = text.partition(begin)
        if not found:
            raise SystemExit(f"{PAGE.name} has no place for {name}: {begin.strip()}")
        text = head + begin + make() + "\n" + end + rest.partition(end)[2]
    return text


def main(arguments: list[str]) -> int:
    text = PAGE.read_text("utf-8")
    if "--check" in arguments:
        is_in_step = text == page(text)
        if not is_in_step:
            print(f"{PAGE.name} is not in step with the code: run python docs/generate_protocol.py")
        return 0 if is_in_step else 1
    PAGE.write_text(page(text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
