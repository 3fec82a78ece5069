"""JSON that a server says of itself, over plain HTTP: a bounded piece of it, within a bounded time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from typing import Any

import msgspec

from multiserverrl.client.address import Address
from multiserverrl.errors import ServerUnreachable, WireError, error_for

__all__ = ["checked_json", "fetch_json"]

_MOST_BYTES = 1 << 24
_CHUNK_BYTES = 1 << 16


def fetch_json(address: Address, path: str, timeout_s: float) -> Any:
    """The JSON of a GET; the server's refusal is raised as its error, silence as ServerUnreachable.

    `timeout_s` bounds all of it, also where the server sends a byte now and then.
    """
    connected = address.connect(timeout_s)
    request = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    request.sock = connected
    too_late = threading.Timer(timeout_s, _shut, (connected,))
    too_late.start()
    try:
        request.request("GET", path, headers={**address.headers(), "Host": address.netloc, "Connection": "close"})
        response = request.getresponse()
        content, status = _content(response), response.status
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnreachable(
            f"{address} does not answer as an env server does ({error!r}){address.tls_hint}"
        ) from error
    finally:
        too_late.cancel()
        request.close()
    if len(content) > _MOST_BYTES:
        raise WireError(f"{address} answered more than {_MOST_BYTES} bytes: is it an env server?")
    return checked_json(content, status, address)


def _content(response: http.client.HTTPResponse) -> bytes:
    """The body, or as much of it as is too much; room is made as it comes."""
    content = bytearray()
    while len(content) <= _MOST_BYTES and (part := response.read(_CHUNK_BYTES)):
        content += part
    return bytes(content)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)  # past TLS, which may wait for the other side


def checked_json(content: bytes, status: int, address: Address) -> Any:
    """The JSON of an answer; a refusal is raised as the error that it names, WireError for what is no JSON."""
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{address} answered {status} with something that is not JSON: is it an env server?") from error
    if status >= 400:
        told = decoded if isinstance(decoded, dict) else {}
        code, message = told.get("error"), told.get("message")
        raise error_for(
            code if isinstance(code, str) else "peer",
            message if isinstance(message, str) else f"{address} answered {status}",
        )
    return decoded
