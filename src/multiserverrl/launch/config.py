"""Where a training run's envs come from and where it keeps its files; how to learn is `train.config`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from multiserverrl.client.trust import Trust
from multiserverrl.errors import ConfigError
from multiserverrl.observe.loggers import logger_names
from multiserverrl.settings import setting

__all__ = ["DEFAULT_COUNT", "DEFAULT_ENV_ID", "DEFAULT_PORT", "LaunchConfig"]

DEFAULT_ENV_ID = "CartPole-v1"
DEFAULT_PORT = 1800
DEFAULT_COUNT = 64  # of an embedded server


@dataclass(frozen=True)
class LaunchConfig:
    """With neither host nor port, an embedded server serves the env on a free loopback port."""

    env_id: str | None = None
    host: str | None = setting(
        None, "use the env server at this host (default localhost where --port is given)", group="env servers"
    )
    port: int | None = setting(None, f"its port (default {DEFAULT_PORT} where --host is given)")
    servers: int = setting(1, "env servers to use, on ports PORT, PORT+1, …")
    tls: bool = setting(False, "speak https to them; their certificates are verified (implied by the next two)")
    ca_file: str | None = setting(None, "PEM file of the CAs that may have signed their certificates", metavar="FILE")
    fingerprint: str | None = setting(None, "SHA-256 of their certificate, as serve prints it; no other is believed")
    count: int | None = setting(
        None,
        f"virtual environments of the run (default {DEFAULT_COUNT} with a server of its own, elsewhere all that are "
        "free); evaluation takes others that are free beside them, or, where there are none, an eighth of these",
    )
    run_dir: str | None = setting(
        None, "directory of this run (default runs/ENV-TIME-SEED)", metavar="DIR", group="run directory and logs"
    )
    resume: str | None = setting(None, "go on with the run in this directory", metavar="RUN_DIR")
    log: str = setting("tensorboard", "where numbers go beside the run directory: tensorboard,wandb,trackio, or none")
    recipe: bool = setting(
        True, "begin from the settings that are known to work for the algorithm and ENV_ID", group="what to train"
    )
    is_local: bool = False  # envs in the explorers themselves, without any server: for tests

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")
        if self.servers < 1:
            raise ConfigError(f"--servers must be at least 1, not {self.servers}")
        if self.host is not None and not _is_host(self.host):  # not shown: it may hold a secret
            raise ConfigError(
                "--host is a name or an address alone, such as sim or 10.0.0.7; https is --tls, a port --port"
            )
        if self.port is not None and not 1 <= self.port <= 65536 - self.servers:
            raise ConfigError(f"--port must be between 1 and {65536 - self.servers}, not {self.port}")
        if self.servers > 1 and self.is_embedded:
            raise ConfigError("--servers counts env servers that run already: name them by --host or --port")
        if (self.tls or self.trust) and self.is_embedded:
            raise ConfigError(
                "--tls, --ca-file and --fingerprint are of env servers that run already: name one by --host"
            )
        if self.run_dir is not None and self.resume is not None:
            raise ConfigError("--run-dir is for a new run, --resume goes on in its own directory; give one of them")

        logger_names(self.log)

    @property
    def loggers(self) -> tuple[str, ...]:
        """ "tensorboard,wandb" → its parts; none for "none"."""
        return logger_names(self.log)

    @property
    def is_embedded(self) -> bool:
        """Whether the run starts an env server of its own."""
        return not self.is_local and self.host is None and self.port is None

    @property
    def trust(self) -> Trust:
        """Whom to believe where TLS is spoken."""
        return Trust(self.ca_file, self.fingerprint)

    @property
    def urls(self) -> list[str]:
        """The addresses of the env servers that run already."""
        host = self.host or "localhost"
        name = f"[{host}]" if ":" in host and not host.startswith("[") else host
        first = self.port or DEFAULT_PORT
        scheme = "https" if self.tls or self.trust else "http"
        return [f"{scheme}://{name}:{first + offset}" for offset in range(self.servers)]


def _is_host(text: str) -> bool:
    """Whether it can be a host's name or address, without scheme, port or path; IPv6 with brackets or without."""
    if not text or not text.isprintable() or any(sign in text for sign in " /@?#"):
        return False
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return _is_ipv6(bare) or not any(sign in text for sign in ":[]")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
