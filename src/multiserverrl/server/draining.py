"""The end of a server: what runs is answered, what comes hears that it ends, and then it ends.

From the signal on no session is opened and no step begun; running requests have --drain-s. Whoever is connected then
is told by a close code; whose step takes longer is cut off together with its env worker, and told when it comes back.
"""

from __future__ import annotations

import asyncio

import uvicorn

from multiserverrl.observe.log import log
from multiserverrl.server.sessions import Sessions

__all__ = ["Drain"]

_LOOK_S = 0.01
_GRACE_S, _NO_GRACE_S = 2.0, 0.2  # for envs to be closed
_AFTERMATH_S = 1.0  # in which clients that were cut come back, and hear why


class Drain:
    """Ends a server: `stop` once, and running steps are waited for; `stop` again, and nothing is."""

    def __init__(self, server: uvicorn.Server, sessions: Sessions, drain_s: float) -> None:
        self._server, self._sessions, self._drain_s = server, sessions, drain_s
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Call it in the server's event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._sessions.begin_stop()
            self._task = loop.create_task(self._drain())
        elif not self._server.force_exit:
            self._server.force_exit = True
            self._task.cancel()
            self._task = loop.create_task(self._end(_NO_GRACE_S))

    async def _drain(self) -> None:
        is_idle = True
        try:
            await asyncio.wait_for(self._until_idle(), self._drain_s)
        except TimeoutError:
            is_idle = False
        log("front_stopping", sessions=len(self._sessions.live), are_steps_cut=not is_idle)
        await self._end(_GRACE_S, 0.0 if is_idle else _AFTERMATH_S)

    async def _until_idle(self) -> None:
        await self._sessions.recall_all()
        while self._sessions.is_busy():
            await asyncio.sleep(_LOOK_S)

    async def _end(self, grace_s: float, aftermath_s: float = 0.0) -> None:
        self._sessions.end()
        await asyncio.gather(self._sessions.pool.close(grace_s), asyncio.sleep(aftermath_s))
        self._server.should_exit = True
