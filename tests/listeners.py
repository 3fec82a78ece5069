"""What processes listen on, as the kernel tells it (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from multiserverrl.testing.serving import children_of

_LISTENS = "0A"
_ACCEPTS = 0x10000  # of a Unix socket: it listens


def descendants(pid: int) -> list[int]:
    """A process and all below it, as far as they live."""
    try:
        return [pid, *(found for child in children_of(pid) for found in descendants(child))]
    except OSError:  # it has ended
        return []


def listened_to(pids: Iterable[int]) -> set[str]:
    """Addresses that any of the processes listens on: TCP, bound UDP, Unix sockets with a name or without."""
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == _LISTENS or kind.startswith("udp")):
                address, _, port = fields[1].partition(":")
                found.add(f"{kind} {_readable(address)}:{int(port, 16)}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in inodes and int(fields[3], 16) & _ACCEPTS:
            found.add(f"unix {fields[7] if len(fields) > 7 else 'without a name'}")
    return found


def _sockets_of(pid: int) -> set[str]:
    found = set()
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            kind, _, inode = os.readlink(path).partition(":[")
            if kind == "socket":
                found.add(inode.rstrip("]"))
    except OSError:
        pass  # it, or its descriptor, is gone
    return found


def _readable(address: str) -> str:
    return ".".join(str(part) for part in reversed(bytes.fromhex(address))) if len(address) == 8 else address
