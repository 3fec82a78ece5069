"""The server's settings: one frozen dataclass, from which the flags, their help and docs/settings.md come."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from multiserverrl.errors import ConfigError
from multiserverrl.server.hosts import checked_hosts, checked_origins
from multiserverrl.settings import flag_name, setting, settings_of

__all__ = ["ServerConfig", "WrapperConfig"]

_COUNTS = ("count", "servers", "workers")
_LEAST_HEAD_BYTES = 1024  # our own clients' heads have a few hundred


@dataclass(frozen=True)
class WrapperConfig:
    """A wrapper that goes around every env: "module:Class", and what its constructor gets beside the env."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(self.name.partition(":")):
            raise ConfigError(f"--wrapper is given as module:Class, not {self.name!r}")


@dataclass(frozen=True)
class ServerConfig:
    """What `serve` needs to know; a wrong value raises ConfigError that names the flag."""

    env_ids: tuple[str, ...] = ()
    wrappers: tuple[WrapperConfig, ...] = ()  # the first is the closest to the env
    env_arguments: dict[str, Any] = field(default_factory=dict)  # for every env's constructor
    host: str = setting("localhost", "address to listen on; beyond loopback a token is needed")
    port: int = setting(1800, "TCP port to listen on; 0 picks a free one")
    count: int = setting(2, "environments that can be open at once [the origin: real env workers]")
    workers: int | None = setting(
        None, "env worker processes that the environments are spread over (default the smaller of count and CPUs)"
    )
    servers: int = setting(
        1, "servers to start in separate processes, on ports PORT, PORT+1, …, each with --count environments"
    )
    vector: bool = setting(
        False, "serve native vector envs: the ids' vector_entry_point, or what makes one from num_envs"
    )
    token_file: str | None = setting(
        None, "file that holds the token clients must show (or set MULTISERVERRL_TOKEN); made where it does not exist"
    )
    certfile: str | None = setting(None, "serve https with the certificates in this PEM file, the server's own first")
    keyfile: str | None = setting(None, "PEM file of the certificate's private key (default: it is in --certfile)")
    allow_host: str = setting("", "further Host names that requests may bear, separated by commas; *: any")
    allow_origin: str = setting("", "further origins whose pages may use this server, separated by commas")
    allow_arg: str = setting("", "constructor arguments that clients may set, separated by commas")
    allow_attr: str = setting("", "attributes that clients may get, set or call, separated by commas")
    time_to_live_s: float = setting(120.0, "how long a session outlives its connection", unit="seconds")
    silence_s: float = setting(
        120.0, "how long a client's machine may answer nothing before its connection counts as gone", unit="seconds"
    )
    idle_s: float = setting(3600.0, "how long a session that was opened by plain HTTP may idle", unit="seconds")
    step_deadline_s: float = setting(30.0, "longest step or reset; past it the env worker is killed", unit="seconds")
    start_deadline_s: float = setting(120.0, "longest start of an env worker or of its envs", unit="seconds")
    drain_s: float = setting(5.0, "how long a stopping server waits for steps in flight", unit="seconds")
    awake_us: int = setting(
        150, "how long an env worker stays awake for a quick client's next request; 0: never", unit="microseconds"
    )
    max_message_bytes: int = setting(64 * 2**20, "largest message or body", unit="bytes")
    shared_memory: bool = setting(True, "let clients on this host read observations from shared memory")
    compression: bool = setting(True, "let clients ask for compressed messages (zstd)")
    max_envs_per_session: int = setting(4096, "most environments of one session")
    max_sessions: int | None = setting(None, "most sessions at once (default as many as --count)")
    max_sessions_per_client: int = setting(1024, "most sessions at once that one address has opened")
    max_connections: int = setting(10_000, "most connections at once; fewer where the system allows fewer descriptors")
    max_connections_per_client: int = setting(5_000, "most connections at once from one address")
    max_head_bytes: int = setting(16 * 2**10, "largest head of a request: its first line and its headers", unit="bytes")
    max_headers: int = setting(100, "most headers of a request")
    handshake_s: float = setting(
        10.0, "longest from connecting to a whole head, and to a stream's first message", unit="seconds"
    )
    body_s: float = setting(
        60.0, "longest for a request's body to come, and for an answer to stand still; 64 KiB/s is always fast enough",
        unit="seconds",
    )  # fmt: skip
    keep_alive_s: float = setting(75.0, "how long a connection may idle between two HTTP requests", unit="seconds")

    def __post_init__(self) -> None:
        for name, kind, *_ in settings_of(ServerConfig):
            value = getattr(self, name)
            if (name in _COUNTS or name.startswith("max_")) and value is not None and value < 1:
                raise ConfigError(f"{flag_name(name)} must be at least 1, not {value}")
            if kind is float and not value > 0:
                raise ConfigError(f"{flag_name(name)} must be more than 0 seconds, not {value}")
        if self.max_head_bytes < _LEAST_HEAD_BYTES:
            raise ConfigError(f"--max-head-bytes must be at least {_LEAST_HEAD_BYTES}, not {self.max_head_bytes}")
        if self.awake_us < 0:
            raise ConfigError(f"--awake-us must be at least 0, not {self.awake_us}")
        if not 0 <= self.port <= 65535 or self.port + self.servers - 1 > 65535:
            raise ConfigError(f"--port must be between 0 and {65536 - self.servers}, not {self.port}")
        if self.keyfile is not None and self.certfile is None:
            raise ConfigError("--keyfile is the key of a certificate: give that by --certfile")
        checked_hosts(self.names("allow_host"))
        checked_origins(self.names("allow_origin"))
        if not self.env_ids:
            raise ConfigError("name at least one environment to serve, for example CartPole-v1")
        if len(set(self.env_ids)) != len(self.env_ids):
            raise ConfigError(f"each environment is named once; these are {', '.join(self.env_ids)}")

    @property
    def num_workers(self) -> int:
        """Env worker processes of one server."""
        return min(self.workers or os.cpu_count() or 1, self.count)

    @property
    def scheme(self) -> str:
        """What its addresses begin with."""
        return "http" if self.certfile is None else "https"

    def names(self, setting_name: str) -> frozenset[str]:
        """The names in a comma-separated setting."""
        text: str = getattr(self, setting_name)
        return frozenset(name.strip() for name in text.split(",") if name.strip())
