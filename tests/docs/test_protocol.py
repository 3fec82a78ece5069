"""docs/protocol.md says what the code does, to the byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multiserverrl.client.transport import STREAM_PATH, Address, fetch_json
from multiserverrl.server.app import FRAME_TYPE
from multiserverrl.server.jsonrequests import OPERATIONS
from multiserverrl.server.stream import CLOSED_BAD, CLOSED_FENCED
from multiserverrl.testing.conformance.raw import RawSocket
from multiserverrl.testing.fake import FakeServer
from multiserverrl.testing.fake.connection import upgraded
from multiserverrl.wire import frames
from multiserverrl.wire.frames import decode_answer
from multiserverrl.wire.messages import AUTORESET_MODES, PROTOCOL_VERSION

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text("utf-8")


def test_the_page_is_in_step_with_the_code() -> None:
    command = [sys.executable, str(DOCS / "generate_protocol.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def dumped() -> list[tuple[str, bytes]]:
    """(title, bytes) of each frame as a reader of the page sees it."""
    text = PAGE.partition("<!-- made: exchange -->")[2]
    found = re.findall(r"^([→←] .*)\n((?:  [0-9a-f]{4}  .*\n)+)", text, re.MULTILINE)
    return [(title, b"".join(bytes.fromhex(line[8:55]) for line in lines.splitlines())) for title, lines in found]


@pytest.mark.parametrize(("title", "content"), dumped(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_the_bytes_on_the_page_are_frames_that_decode(title: str, content: bytes) -> None:
    decode: Any = frames.decode_request if title.startswith("→") else frames.decode_answer
    message, body = decode(content)
    assert type(message).__name__.lower() == re.split(r"[\s,:]+", title)[1]
    assert frames.encode(message, body) == content


def test_the_whole_exchange_is_there() -> None:
    names = [re.split(r"[\s,:]+", title)[1] for title, _ in dumped()]
    there = ["open", "opened", "reset", "stepped", "step", "stepped", "step", "refused"]
    assert names == [*there, "resume", "resumed", "step", "stepped", "close", "closed"]


def test_a_server_made_from_the_page_answers_as_the_page_does() -> None:
    exchange = dumped()
    with FakeServer(names=("5f1e", "c0ffee")) as server:
        socket = RawSocket(Address.parse(server.url), 10.0)
        for (title, request), (_, answer) in zip(exchange[::2], exchange[1::2], strict=True):
            if title.startswith("→ resume"):
                socket.cut()
                socket = RawSocket(Address.parse(server.url), 10.0)
            socket.send(request)
            told, body = decode_answer(socket.receive())  # it may leave out fields at the end
            assert (told, bytes(body)) == (decode_answer(answer)[0], bytes(decode_answer(answer)[1])), title
        socket.cut()


def test_a_server_made_from_the_page_tells_of_the_env_as_the_page_does() -> None:
    (told,) = re.findall(r"<!-- made: description -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    with FakeServer() as server:
        assert fetch_json(Address.parse(server.url), "/v1/envs", 10.0) == {**json.loads(told), "version": "fake"}


def test_the_handshake_on_the_page_is_the_one_of_rfc_6455() -> None:
    (key,) = re.findall(r"Sec-WebSocket-Key: (\S+)", PAGE)
    (accept,) = re.findall(r"Sec-WebSocket-Accept: (\S+)", PAGE)
    assert f"Sec-WebSocket-Accept: {accept}\r\n".encode() in upgraded(key)


def test_every_code_that_the_page_uses_is_in_its_table_of_codes() -> None:
    known = set(re.findall(r"^\| `(\w+)` \| \d+ \|", PAGE, re.MULTILINE))
    rows = PAGE.partition("| when | what | code |")[2].partition("\n\n")[0]
    used = set(re.findall(r"\| `(\w+)` \|$", rows, re.MULTILINE))
    assert len(used) > 10
    assert used <= known


def test_every_close_code_is_on_the_page() -> None:
    for code in (CLOSED_FENCED, CLOSED_BAD, 1003, 1009):
        assert f" {code} " in PAGE


@pytest.mark.parametrize("name", [STREAM_PATH, FRAME_TYPE, *AUTORESET_MODES, *(f"/{name}" for name in OPERATIONS)])
def test_the_page_names_what_the_code_names(name: str) -> None:
    assert name in PAGE


def test_the_page_is_of_this_version() -> None:
    assert PAGE.startswith(f"# The protocol, version {PROTOCOL_VERSION}\n")


def test_every_body_field_of_the_routes_is_on_the_page() -> None:
    for name, kind in OPERATIONS.items():
        (row,) = re.findall(rf"^\| `POST /v1/sessions/ID/{name}.*$", PAGE, re.MULTILINE)
        assert [field for field in kind.__struct_fields__ if field not in row] == []
