"""Names of hosts and origins, as requests bear them and as an operator lists them; pure.

What does not look like a name or an address is no name: nothing is guessed, and nothing is cut off.
"""

from __future__ import annotations

import ipaddress
import re

from multiserverrl.errors import ConfigError

__all__ = ["checked_hosts", "checked_origins", "host_name", "is_loopback", "is_wildcard"]

_NAME = r"\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?"
_HOST = re.compile(rf"({_NAME})(?::[0-9]{{1,5}})?")
_ORIGIN = re.compile(rf"https?://(?:{_NAME})(?::[0-9]{{1,5}})?")


def host_name(host: str) -> str:
    """The name in a Host header, in small letters and without the port, addresses in one spelling; "" for none."""
    found = _HOST.fullmatch(host.lower())
    return _in_one_spelling(found[1]) if found else ""


def checked_hosts(names: frozenset[str]) -> frozenset[str]:
    """The names that --allow-host lists; ConfigError for what no Host header could bear."""
    for name in names:
        bare = name.lower().strip("[]")
        if name != "*" and (not host_name(name) or host_name(name) != _in_one_spelling(bare)):
            raise ConfigError(f"--allow-host takes names such as sim.example, without scheme or port, not {name!r}")
    return frozenset("*" if name == "*" else host_name(name) for name in names)


def checked_origins(origins: frozenset[str]) -> frozenset[str]:
    """The origins that --allow-origin lists; ConfigError for what no Origin header could bear."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin.lower()):
            raise ConfigError(f"--allow-origin takes origins such as https://sim.example:8443, not {origin!r}")
    return frozenset(origin.lower() for origin in origins)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    address = _address(host.strip("[]"))
    return address is not None and address.is_loopback


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    address = _address(host.strip("[]"))
    return not host or (address is not None and address.is_unspecified)


def _in_one_spelling(name: str) -> str:
    address = _address(name.strip("[]"))
    return name if address is None else str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that is written as an IPv6 one is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
