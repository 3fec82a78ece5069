"""What a session may be opened with, as far as it depends on no other session."""

from __future__ import annotations

from multiserverrl.errors import ConfigError, VersionMismatch
from multiserverrl.wire.messages import PROTOCOL_VERSION, EnvInfo, Open

__all__ = ["check_native", "check_version", "with_lists"]


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
    if version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the client speaks protocol version {version}, this server {PROTOCOL_VERSION}; "
            "install the same release of multiserverrl on both"
        )
