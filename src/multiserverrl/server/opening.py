"""What an `open` may ask for: each check raises an error that names what is wrong, before anything is made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection

from multiserverrl.errors import (
    ConfigError,
    NotAllowedError,
    ServerFull,
    UnknownEnvError,
    VersionMismatch,
    WireError,
)
from multiserverrl.server.config import ServerConfig
from multiserverrl.wire.messages import AUTORESET_MODES, PROTOCOL_VERSION, EnvInfo, Open
from multiserverrl.wire.trees import unpack_tree

__all__ = ["check_native", "check_version", "env_id_of", "lanes_of", "with_lists"]

_LEAST_OWNER_LENGTH = 16


def env_id_of(request: Open, served: Collection[str]) -> str:
    """The id that is asked for, or the only one there is; UnknownEnvError with near ones for another."""
    if request.env_id is None:
        if len(served) == 1:
            return next(iter(served))
        raise UnknownEnvError(f"this server serves {', '.join(served)}: say which")
    if request.env_id not in served:
        close = difflib.get_close_matches(request.env_id, list(served), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UnknownEnvError(f"{request.env_id} is not served here{hint} (served: {', '.join(served)})")
    return request.env_id


def lanes_of(request: Open, config: ServerConfig) -> list[int]:
    """The lanes' sizes; ConfigError or NotAllowedError for what cannot be."""
    if not 1 <= request.num_envs <= config.max_envs_per_session:
        raise ConfigError(f"num_envs must be between 1 and {config.max_envs_per_session}, not {request.num_envs}")
    if request.num_envs > config.count:
        raise ServerFull(
            f"{request.num_envs} environments were asked for; this server has {config.count} in all (--count)"
        )
    if not 0 <= request.wait_s < math.inf:
        raise ConfigError(f"wait_s must be a number of seconds, at least 0, not {request.wait_s}")
    if request.owner is not None and len(request.owner) < _LEAST_OWNER_LENGTH:
        raise ConfigError(
            f"owner must have at least {_LEAST_OWNER_LENGTH} characters, for who guesses it can end this session; "
            "make one by secrets.token_hex(16), and keep it as you would a password"
        )
    lanes = request.lanes or [request.num_envs]
    if min(lanes) < 1 or sum(lanes) != request.num_envs:
        raise ConfigError(f"the lanes {lanes} must be of at least 1 env and together have {request.num_envs}")
    if request.autoreset_mode not in ("none", *AUTORESET_MODES) or (
        request.autoreset_mode == "none" and request.num_envs > 1
    ):
        raise ConfigError(f"autoreset_mode must be one of {', '.join(AUTORESET_MODES)}, not {request.autoreset_mode!r}")
    if request.arguments:
        arguments = unpack_tree(request.arguments)
        if not isinstance(arguments, dict):
            raise WireError("the env's arguments must be a dict")
        refused = [str(name) for name in arguments if name not in config.names("allow_arg")]
        if refused:
            raise NotAllowedError(f"the operator does not let clients set {', '.join(refused)} (serve … --allow-arg)")
    return list(lanes)


def check_native(env: EnvInfo, request: Open, lanes: list[int]) -> None:
    """A native vector env has one lane, and no autoreset mode but its own."""
    if not env.autoreset_modes:
        return
    if request.autoreset_mode not in env.autoreset_modes:
        asked = "single env (VirtualEnv)" if request.autoreset_mode == "none" else repr(request.autoreset_mode)
        raise ConfigError(
            f"{env.env_id} is a native vector env with the autoreset_mode {' or '.join(env.autoreset_modes)}; "
            f"it cannot be had as {asked}"
        )
    if len(lanes) > 1:
        raise ConfigError(f"{env.env_id} is a native vector env, stepped whole: it has one lane, not {len(lanes)}")


def with_lists(render_modes: list[str]) -> list[str]:
    """The modes of single envs, which are also collected in lists; a window is no frame."""
    lists = [f"{mode}_list" for mode in render_modes if mode != "human" and not mode.endswith("_list")]
    return list(dict.fromkeys(render_modes + lists))


def check_version(version: int) -> None:
    """VersionMismatch for a client of another."""
    if version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the client speaks protocol version {version}, this server {PROTOCOL_VERSION}; "
            "install the same release of multiserverrl on both"
        )
