"""What `serve` prints when it serves: what is where, how to train on it, and a token that was made for this start."""

from __future__ import annotations

import shlex
import socket
import sys

from multiserverrl.server.config import ServerConfig
from multiserverrl.server.credentials import Token
from multiserverrl.server.hosts import is_loopback, is_wildcard
from multiserverrl.wire.tokens import TOKEN_VARIABLE

__all__ = ["announce"]


def announce(config: ServerConfig, ports: list[int], token: Token | None, fingerprint: str | None) -> None:
    """Say it on stdout; the line to paste on the training machine bears no secret."""
    host = socket.gethostname() if is_wildcard(config.host) else config.host  # what others can call this machine
    print(f"serving {', '.join(config.env_ids)} on {_where(config, host, ports)}: {_size(config)}")
    parts = ["multiserverrl train", f"--host {host}", f"--port {ports[0]}"]
    if len(config.env_ids) > 1:
        parts.insert(1, config.env_ids[0])
    if config.servers > 1:
        parts.append(f"--servers {config.servers}")
    if fingerprint is not None:
        parts.append(f"--fingerprint {fingerprint}")
    print(f"train on it{f' (with {TOKEN_VARIABLE} set)' if token else ''}:  {' '.join(parts)}")
    if token is not None and token.file is not None:
        made = "was made and is" if token.is_made else "is"
        print(f"the token {made} in {token.file}:  export {TOKEN_VARIABLE}=$(cat {shlex.quote(str(token.file))})")
    elif token is not None and token.is_made:
        print(f"the token was made for this start and is shown this once:  export {TOKEN_VARIABLE}={token.text}")
    if fingerprint is None and not is_loopback(config.host):
        print(
            "NOT ENCRYPTED: whoever is on the way can read the token and everything else, and change it; "
            "give --certfile and --keyfile, or listen on localhost and let clients come by an SSH tunnel"
        )
    sys.stdout.flush()


def _where(config: ServerConfig, host: str, ports: list[int]) -> str:
    shown = f"[{host}]" if ":" in host else host
    urls = [f"{config.scheme}://{shown}:{port}" for port in ports]
    every = " (every address of this machine)" if is_wildcard(config.host) else ""
    return (urls[0] if len(urls) == 1 else f"{urls[0]} … {urls[-1]}") + every


def _size(config: ServerConfig) -> str:
    workers = f"{config.num_workers} env worker{'s' if config.num_workers > 1 else ''}"
    return f"{config.count} at once, {workers}{' for each server' if config.servers > 1 else ''}"
