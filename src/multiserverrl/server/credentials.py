"""The token of a server: found, or made when it can be handed to the operator alone.

It comes from a file or the environment, never from an argument: those are everybody's to see. It is told to the front
by its pipe, and to no process that runs env code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from multiserverrl.errors import ConfigError
from multiserverrl.observe.log import log
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.hosts import is_loopback
from multiserverrl.wire.tokens import TOKEN_VARIABLE, checked_token

__all__ = ["Token", "check_secret_file", "find_token"]

_MADE_BYTES = 24
_LONGEST_BYTES = 4096
_SHORT_LENGTH = 16  # beyond loopback: whoever tries 10,000 a second should not be through in a year


@dataclass(frozen=True)
class Token:
    """`text` is the secret; it was made by us, or found in the file or the environment."""

    text: str = field(repr=False)
    is_made: bool = False
    file: Path | None = None


def find_token(config: ServerConfig, *, is_shown: bool = False) -> Token | None:
    """The token that clients must show; None: none is needed, on loopback.

    From --token-file, which is made with a new token where it does not exist, else from the environment. With neither,
    beyond loopback, a new one if the caller shows it to the operator (`is_shown`), else ConfigError.
    """
    token = _found(config)
    if token is None and not is_loopback(config.host):
        if not is_shown:
            raise ConfigError(
                f"--host {config.host} can be reached from other machines, so clients must show a token: set "
                f"{TOKEN_VARIABLE}, or give --token-file (made, with a new token in it, where it does not exist), "
                "and give clients the same token; or listen on localhost"
            )
        token = Token(_made(), is_made=True)
    if token is not None and len(token.text) < _SHORT_LENGTH and not is_loopback(config.host):
        log("token_short", level=logging.WARNING, characters=len(token.text), do="take a longer one, it can be guessed")
    if token is None and "*" in config.names("allow_host"):
        raise ConfigError(
            f"--allow-host '*' needs a token: set {TOKEN_VARIABLE} or give --token-file; without one, the pages of "
            "any site that somebody on this machine looks at could use this server"
        )
    return token


def _found(config: ServerConfig) -> Token | None:
    in_environment = os.environ.get(TOKEN_VARIABLE, "").strip()
    if config.token_file is not None:
        path = Path(config.token_file)
        if in_environment or path.exists():
            return Token(_read(path), file=path)
        return Token(_written(path), is_made=True, file=path)
    return Token(checked_token(in_environment, TOKEN_VARIABLE)) if in_environment else None


def _made() -> str:
    return secrets.token_urlsafe(_MADE_BYTES)


def _read(path: Path) -> str:
    check_secret_file("--token-file", path)
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_BYTES + 1).decode().strip()
    except OSError as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--token-file {path} holds no token: it is not text") from error
    if not text:
        raise ConfigError(f"--token-file {path} is empty")
    if len(text) > _LONGEST_BYTES:
        raise ConfigError(f"--token-file {path} holds no token: it has more than {_LONGEST_BYTES} bytes")
    return checked_token(text, f"--token-file {path}")


def _written(path: Path) -> str:
    """A new token, in a new file that is its owner's alone from the start."""
    token = _made()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(token + "\n")
    except OSError as error:
        raise ConfigError(f"--token-file {path} cannot be made: {error.strerror}") from error
    return token


def check_secret_file(flag: str, path: Path) -> None:
    """ConfigError for a file that others can write; a warning for one that others can read.

    No refusal there: secrets that a container gets are readable by everybody in it.
    """
    mode = 0
    with contextlib.suppress(OSError):  # whoever opens it says why it cannot
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode) or os.name != "posix":
        return
    if mode & 0o022:
        raise ConfigError(f"{flag} {path} can be written by other users: chmod 600 {path}, and put a new secret in it")
    if mode & 0o044:
        log("secret_readable_by_others", level=logging.WARNING, flag=flag, path=str(path), do=f"chmod 600 {path}")
