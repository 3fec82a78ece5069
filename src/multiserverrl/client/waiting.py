"""Waiting for the first answer of several sessions."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable

from multiserverrl.client.envs import RemoteEnvs
from multiserverrl.client.patience import LOOK_S, SILENT_S

__all__ = ["some_ready"]


def some_ready(remotes: Iterable[RemoteEnvs]) -> list[RemoteEnvs]:
    """Those whose connections have something to say, or that have no connection; blocks until there is one."""
    remotes = list(remotes)
    with selectors.DefaultSelector() as selector:
        for remote in remotes:
            fd = remote.link.fileno()
            if fd is None:
                return [remote]
            selector.register(fd, selectors.EVENT_READ, remote)
        began = time.monotonic()
        while True:
            if ready := [key.data for key, _ in selector.select(LOOK_S)]:
                return ready
            waited_s = time.monotonic() - began
            if _broken(remotes, waited_s, SILENT_S):
                return _broken(remotes, waited_s, LOOK_S)  # whose network is gone, too, but was heard of a moment later


def _broken(remotes: list[RemoteEnvs], waited_s: float, silent_s: float) -> list[RemoteEnvs]:
    """Those that have no connection any more, now that all were looked at."""
    for remote in remotes:
        remote.link.look_out(waited_s, silent_s)
    return [remote for remote in remotes if remote.link.fileno() is None]
