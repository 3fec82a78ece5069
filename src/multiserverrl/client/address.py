"""Where an env server is, and how a socket to it is had: by TCP, and under https by TLS."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from multiserverrl.client.patience import keep_asking
from multiserverrl.client.trust import SYSTEM_TRUST, Trust, token_to_show
from multiserverrl.errors import ConfigError, ServerUnreachable, UntrustedServer
from multiserverrl.wire.tokens import TOKEN_VARIABLE

__all__ = ["Address"]

_LOOKS_LIKE = "it looks like http://localhost:1800"
_TRY_S = 2.0  # to connect; then it is tried anew, as the system repeats a lost SYN ever more seldom


@dataclass(frozen=True)
class Address:
    """Where an env server is, the token it wants, and under https how it is known."""

    scheme: str
    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    trust: Trust = SYSTEM_TRUST

    @classmethod
    def parse(cls, url: str, token: str | None = None, trust: Trust = SYSTEM_TRUST) -> Address:
        """`http://host:port` or https; the token defaults to MULTISERVERRL_TOKEN. ConfigError for another URL."""
        if not isinstance(url, str):
            raise ConfigError(f"the address of an env server is a text like http://localhost:1800, not {url!r}")
        if any(sign in url for sign in "@?#"):  # not shown: it may hold a secret
            raise ConfigError(
                f"the address of an env server is scheme, host and port alone, such as http://localhost:1800; "
                f"a token goes into {TOKEN_VARIABLE}"
            )
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:  # brackets without an IPv6 address, a port that is none
            raise ConfigError(f"{url!r} is not the address of an env server ({error}); {_LOOKS_LIKE}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(f"{url!r} is not the address of an env server; {_LOOKS_LIKE}")
        if trust and parts.scheme != "https":
            raise ConfigError(f"{url!r}: ca_file and fingerprint are for https://, plain HTTP knows no certificates")
        port = port or (443 if parts.scheme == "https" else 1800)
        return cls(parts.scheme, parts.hostname, port, token_to_show(token), trust)

    @property
    def netloc(self) -> str:
        """`host:port`, as the Host header bears it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def tls_hint(self) -> str:
        """What may be the matter with one that answers nothing that makes sense."""
        return "; if it speaks TLS, its address begins with https://" if self.scheme == "http" else ""

    def headers(self) -> dict[str, str]:
        """The headers that every request bears."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def connect(self, timeout_s: float) -> socket.socket:
        """A connected socket, TCP_NODELAY, TLS where the scheme says so.

        ServerUnreachable when nobody answers, UntrustedServer when who answers is not believed.
        """
        context = self.trust.context() if self.scheme == "https" else None
        try:
            connected = _reach(self.host, self.port, timeout_s)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected if context is None else self.trust.wrap(connected, context, self.host, str(self))
        except UntrustedServer:
            raise
        except OSError as error:
            raise ServerUnreachable(
                f"nobody answers at {self} ({error.strerror or error}); start a server there: "
                f"multiserverrl serve ENV_ID --host {self.host} --port {self.port}"
            ) from error


def _reach(host: str, port: int, timeout_s: float) -> socket.socket:
    until = time.monotonic() + timeout_s
    while True:
        left_s = until - time.monotonic()
        try:
            connected = socket.create_connection((host, port), min(_TRY_S, max(left_s, 0.001)))
        except TimeoutError:
            if left_s <= _TRY_S:
                raise
        else:
            connected.settimeout(timeout_s)
            keep_asking(connected)
            return connected
