"""What a server says of itself, without a session."""

from __future__ import annotations

import msgspec

from multiserverrl.client.transport import Address, fetch_json
from multiserverrl.client.trust import SYSTEM_TRUST, Trust
from multiserverrl.errors import VersionMismatch, WireError
from multiserverrl.wire.messages import PROTOCOL_VERSION, EnvInfo

__all__ = ["ServerDescription", "describe"]


class ServerDescription(msgspec.Struct):
    """What is served, and how much of it is free."""

    protocol: int
    version: str
    capacity: int
    free: int
    envs: list[EnvInfo]

    @property
    def env_ids(self) -> list[str]:
        """The ids that are served."""
        return [env.env_id for env in self.envs]


def describe(
    url: str, *, token: str | None = None, timeout_s: float = 10.0, trust: Trust = SYSTEM_TRUST
) -> ServerDescription:
    """Ask the server at `url`. ServerUnreachable, Unauthorized, VersionMismatch or WireError when that fails."""
    address = Address.parse(url, token, trust)
    told = fetch_json(address, "/v1/envs", timeout_s)
    protocol = told.get("protocol") if isinstance(told, dict) else None
    if protocol != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"{address} speaks protocol version {protocol}, this client {PROTOCOL_VERSION}; "
            "install the same release of multiserverrl on both"
        )
    try:
        return msgspec.convert(told, ServerDescription)
    except msgspec.ValidationError as error:
        raise WireError(f"{address} describes itself in an unknown way: {error}") from error
