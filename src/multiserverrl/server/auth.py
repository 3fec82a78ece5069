"""Who may speak to the server: the token, and the Host and Origin that a request may bear.

Allow-lists alone. A page of another site in somebody's browser can neither read from the server nor
open a WebSocket to it (DNS rebinding bears a foreign Host, cross-site requests a foreign Origin).
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from urllib.parse import urlsplit

from multiserverrl.errors import ConfigError, NotAllowedError, Unauthorized
from multiserverrl.server.config import ServerConfig, is_loopback

__all__ = ["TOKEN_VARIABLE", "Door", "read_token"]

TOKEN_VARIABLE = "MULTISERVERRL_TOKEN"


def read_token(config: ServerConfig) -> str | None:
    """The token from --token-file or the environment; ConfigError when one is needed and none is there."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if config.token_file is not None:
        try:
            token = Path(config.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"--token-file {config.token_file} cannot be read: {error.strerror}") from error
        if not token:
            raise ConfigError(f"--token-file {config.token_file} is empty")
    if not token and not is_loopback(config.host):
        raise ConfigError(
            f"--host {config.host} can be reached from other machines: set {TOKEN_VARIABLE} or give --token-file, "
            "and give clients the same token (or listen on localhost)"
        )
    return token or None


class Door:
    """Checks one request's headers before anything else looks at it."""

    def __init__(self, config: ServerConfig, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = {config.host.lower(), *(name.lower() for name in config.names("allow_host"))}
        self._any_host = not is_loopback(config.host) and not config.allow_host

    def check(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Unauthorized or NotAllowedError."""
        found = {name.lower(): value for name, value in headers}
        host = found.get(b"host", b"").decode("latin-1")
        if not self._is_allowed(host):
            raise NotAllowedError(f"this server does not answer to the Host {host[:80]!r} (serve … --allow-host)")
        origin = found.get(b"origin")
        if origin is not None and _part_of(origin.decode("latin-1"), "netloc") != host.lower():
            raise NotAllowedError("requests from pages of other sites are refused")
        if self._token is not None:
            kind, _, shown = found.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self._token):
                raise Unauthorized(
                    f"this server wants its token: set {TOKEN_VARIABLE} (curl: -H 'Authorization: Bearer …')"
                )

    def _is_allowed(self, host: str) -> bool:
        name = _part_of(f"//{host}", "hostname")
        return is_loopback(name) or name in self._hosts or (self._any_host and self._token is not None)


def _part_of(url: str, part: str) -> str:
    """A part of a URL in small letters; empty for what is no URL."""
    try:
        return (getattr(urlsplit(url), part) or "").lower()
    except ValueError:
        return ""
