"""Births and deaths: the processes of a run, started, started again, and ended.

Each is started again alone when it dies, with back-off and a limit; the others wait for it or go on. One that only
stands still (SIGSTOP) is waited for, and told of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from multiserverrl.errors import CheckpointError, DivergedError, MisuseError, MultiServerRLError, RunError, error_for
from multiserverrl.launch.channels import Channels
from multiserverrl.launch.roles import Brief, Role, RunPlan, cast_of
from multiserverrl.launch.watch import DIED, FINISHED, STARTING, STOPPED
from multiserverrl.observe.log import log
from multiserverrl.processes import Child, cause_of_exit, start_child
from multiserverrl.train.opening import LOST

__all__ = ["Cast"]

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
STABLE_AFTER_S = 10.0  # deaths before one has been ready for so long are in a row
READY_DEADLINE_S = 180.0  # envs may be slow to start
# Another birth mends none of these: the first three say so, and envs that stay lost had all the patience there is.
FINAL = (MisuseError, CheckpointError, DivergedError, *LOST)


@dataclass
class _Player:
    role: Role
    child: Child | None = None  # None: it died and waits for its next birth, or has finished
    restarts: int = 0
    died_at_s: float = 0.0
    born_again_at_s: float | None = None
    ready_at_s: float | None = None
    is_stopped: bool = False
    absent: str = STARTING  # "" while it is in its place
    since_s: float = 0.0  # since when that is so

    def become(self, absent: str, now_s: float) -> None:
        """From now on it is in its place (""), or why it is not."""
        self.absent, self.since_s = absent, now_s


class Cast:
    """All processes of a run; `tell` is given lines for people. Whoever makes it calls `end`, whatever happens."""

    def __init__(self, plan: RunPlan, channels: Channels, tell: Callable[[str], None]) -> None:
        self._plan, self._channels, self._tell = plan, channels, tell
        self._control = channels.control(0)
        self._players = [_Player(role) for role in cast_of(plan)]
        self._rows = [player.role.row for player in self._players]
        self._began_s = time.monotonic()
        self.started_at_s: float | None = None  # when the gate opened

    @property
    def has_started(self) -> bool:
        """Whether all were ready, and the gate is open."""
        return self.started_at_s is not None

    def presence(self) -> list[tuple[Role, str, float]]:
        """Of each process why it is not in its place ("": it is), and since when."""
        return [(player.role, player.absent, player.since_s) for player in self._players]

    def start(self) -> None:
        """Start all; the gate opens in `tend`, when all are ready."""
        for player in self._players:
            self._give_birth(player)

    def tend(self) -> None:
        """Open the gate once all are ready; start again what died.

        Raises what ended a process that must not be started again, or was too often.
        """
        now_s = time.monotonic()
        for player in self._players:
            if player.child is not None and (code := player.child.exitcode()) is not None:
                self._mourn(player, code, now_s)
            elif player.child is not None:
                self._look_at(player, player.child, now_s)
            elif player.born_again_at_s is not None and now_s >= player.born_again_at_s:
                self._give_birth(player)
        if not self.has_started:
            self._open_gate(now_s)

    def end(self) -> None:
        """Say stop, give each the time that it needs, kill what is left. Nothing runs afterwards."""
        try:
            self._control.stop()
            for player in self._players:
                if player.child is not None:
                    player.child.wake()  # one that stands still would not hear it
            said_s = time.monotonic()
            for player in self._players:
                if player.child is not None:
                    left_s = said_s + player.role.stop_grace_s - time.monotonic()
                    if player.child.wait(max(left_s, 0.0)) is None:
                        log(
                            "process_killed",
                            level=logging.WARNING,
                            process=player.role.name,
                            grace_s=player.role.stop_grace_s,
                        )
        finally:
            self.kill()

    def kill(self) -> None:
        """End all at once."""
        for player in self._players:
            if player.child is not None:
                player.child.kill()
                player.child = None
            player.born_again_at_s = None

    def _open_gate(self, now_s: float) -> None:
        if self._control.are_ready(self._rows):
            self.started_at_s = now_s
            self._control.start()
        elif now_s > self._began_s + READY_DEADLINE_S:
            late = [player.role.name for player in self._players if not self._control.are_ready([player.role.row])]
            raise RunError(f"not ready after {READY_DEADLINE_S:.0f} s: {', '.join(late)}")

    def _give_birth(self, player: _Player) -> None:
        role = player.role
        self._control.forget(role.row)
        brief = Brief(self._plan, role.name, role.index, role.row, self._channels.handle)
        player.born_again_at_s = player.ready_at_s = None
        player.become(STARTING, time.monotonic())
        player.child = start_child(
            role.entry, msgspec.json.encode(brief), name=role.name, fds=self._channels.handle.fds
        )

    def _look_at(self, player: _Player, child: Child, now_s: float) -> None:
        name = player.role.name
        if player.ready_at_s is None and self._control.are_ready([player.role.row]):
            player.ready_at_s = now_s
            player.become("", now_s)
            if player.died_at_s:
                log("process_ready_again", process=name, after_s=round(now_s - player.died_at_s, 3))
        if player.is_stopped != child.is_stopped():
            player.is_stopped = not player.is_stopped
            player.become(STOPPED if player.is_stopped else "" if player.ready_at_s is not None else STARTING, now_s)
            log("process_stopped" if player.is_stopped else "process_continued", level=logging.WARNING, process=name)
            still = f"stands still (it was sent a SIGSTOP?) and is waited for: kill -CONT {child.pid} lets it go on"
            self._tell(f"the {name} {still if player.is_stopped else 'goes on'}")

    def _mourn(self, player: _Player, code: int, now_s: float) -> None:
        role = player.role
        player.child, player.is_stopped, player.died_at_s = None, False, now_s
        player.become(DIED if code else FINISHED, now_s)
        if code == 0:  # it finished, or the run is stopping
            return
        cause = cause_of_exit(code)
        error = _last_error(self._control.last_words(role.row), role.name, cause)
        if isinstance(error, FINAL):
            raise error
        if player.ready_at_s is not None and now_s - player.ready_at_s > STABLE_AFTER_S:
            player.restarts = 0
        if player.restarts >= role.most_restarts:
            raise RunError(f"the {role.name} died {player.restarts + 1} times in a row; the last time: {error}")
        wait_s = min(FIRST_WAIT_S * 2**player.restarts, LONGEST_WAIT_S)
        player.restarts += 1
        player.born_again_at_s = now_s + wait_s
        log(
            "process_restarted",
            level=logging.WARNING,
            process=role.name,
            cause=cause,
            restarts=player.restarts,
            why=str(error),
        )
        self._tell(f"{error}: it is started again")


def _last_error(words: tuple[str, str] | None, name: str, cause: str) -> MultiServerRLError:
    if words is None:
        return RunError(f"the {name} died by {cause}")
    code, message = words
    return error_for(code, message) if code else RunError(f"the {name} failed: {message}")
