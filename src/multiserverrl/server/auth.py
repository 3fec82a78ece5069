"""Who may speak to the server: the Host and Origin that a request may bear, and the token that it must.

Allow-lists alone, for every method and for the WebSocket's handshake, before anything looks at the request. A page of
another site in somebody's browser can neither read from the server nor open a WebSocket to it: DNS rebinding bears
a foreign Host, a cross-site request a foreign Origin.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Mapping
from typing import Any

from multiserverrl.errors import NotAllowedError, Unauthorized
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.hosts import checked_hosts, checked_origins, host_name, is_loopback, is_wildcard
from multiserverrl.wire.tokens import TOKEN_VARIABLE

__all__ = ["SECURITY_HEADERS", "Door"]

SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]  # of every answer; pages bear a Content-Security-Policy, too

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # as an Origin names them


class Door:
    """Checks one request's headers before anything else looks at it."""

    def __init__(self, config: ServerConfig, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._origins = checked_origins(config.names("allow_origin"))
        named = {socket.gethostname()} if is_wildcard(config.host) else {config.host}
        allowed = checked_hosts(config.names("allow_host"))
        self._hosts = allowed | {host_name(name) or host_name(f"[{name}]") for name in named}
        self._any_host = "*" in allowed

    def check(self, scope: Mapping[str, Any]) -> None:
        """Unauthorized or NotAllowedError; `scope` is ASGI's, of a request or of a WebSocket."""
        found = _Headers(scope["headers"])
        host = found.only(b"host")
        if host is None:
            raise NotAllowedError("a request bears one Host header, and this one does not")
        if not self._is_allowed(host_name(host), scope.get("server")):
            name = host_name(host)
            hint = f" (serve … --allow-host {name})" if name else ""
            raise NotAllowedError(f"this server does not answer to the Host {host[:80]!r}{hint}")
        if found.has(b"origin"):
            self._check_origin(found.only(b"origin"), f"{_SCHEMES.get(scope['scheme'])}://{host}")
        if self._token is not None:
            _check_token(found.only(b"authorization"), self._token)

    def _is_allowed(self, name: str, server: tuple[str, int] | None) -> bool:
        """Beside what is listed, the address that the request came to: a rebound name is none."""
        if not name:
            return False
        own = "" if server is None else host_name(f"[{server[0]}]" if ":" in server[0] else server[0])
        return self._any_host or is_loopback(name) or name in self._hosts or name == own

    def _check_origin(self, origin: str | None, own: str) -> None:
        if origin is None or origin.lower() not in self._origins | {own.lower()}:
            raise NotAllowedError("requests from pages of other sites are refused (serve … --allow-origin)")


class _Headers:
    """A request's headers, of which some must not be there twice: which would count?"""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._found: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            self._found.setdefault(name.lower(), []).append(value)

    def has(self, name: bytes) -> bool:
        return name in self._found

    def only(self, name: bytes) -> str | None:
        """None where it is missing, or there more than once."""
        values = self._found.get(name, [])
        return values[0].decode("latin-1").strip() if len(values) == 1 else None


def _check_token(authorization: str | None, token: bytes) -> None:
    kind, _, shown = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not shown.strip():
        raise Unauthorized(f"this server wants its token: set {TOKEN_VARIABLE} (curl: -H 'Authorization: Bearer …')")
    if not hmac.compare_digest(shown.strip().encode("latin-1"), token):
        raise Unauthorized(f"this server has another token than the one that was shown: look at {TOKEN_VARIABLE}")
