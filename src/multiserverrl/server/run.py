"""The parent of an env server: binds the ports, starts a front for each, starts again what dies.

It runs no env code. The listening sockets are the parent's, so a front that dies is replaced behind
the same port: clients that connect meanwhile wait in the backlog.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace

import msgspec

from multiserverrl.errors import ConfigError, PeerError, error_for
from multiserverrl.observe.log import log, log_to_stderr
from multiserverrl.processes import Child, cause_of_exit, keep_standard_descriptors, start_child
from multiserverrl.server.announcing import announce
from multiserverrl.server.certificates import certificate_fingerprint
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.credentials import Token, find_token
from multiserverrl.server.front import FrontConfig, Ready
from multiserverrl.server.hosts import is_loopback
from multiserverrl.server.orphans import MARK_VARIABLE, end_marked, new_mark
from multiserverrl.wire.tokens import TOKEN_VARIABLE

__all__ = ["RunningServer", "listen", "serve", "start_server"]

_BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STABLE_AFTER_S = 60.0
_KEEPALIVE_PROBES = 4
_END_S, _NO_GRACE_S = 4.0, 1.0  # what a front takes to end behind --drain-s; and what it gets when that was in vain


@dataclass
class _Front:
    config: ServerConfig
    listener: socket.socket
    child: Child
    ready_fd: int | None
    started_at: float
    mark: str  # of all that descends from it
    restarts: int = 0


class Interrupted(Exception):
    """A signal came before the server was ready."""


class RunningServer:
    """The fronts of one `serve`, owned by the calling process. Call `poll` often, and `stop` at the end."""

    def __init__(
        self, config: ServerConfig, token: Token | None, fingerprint: str | None, listeners: list[socket.socket]
    ) -> None:
        self.token, self.fingerprint = token, fingerprint  # of the certificate, where there is one
        self._stopping = False
        self._fronts = []
        for listener in listeners:
            port = listener.getsockname()[1]
            self._fronts.append(self._start(replace(config, port=port), listener))
        host = listeners[0].getsockname()[0]
        shown = f"[{host}]" if ":" in host else host
        self.urls = [f"{config.scheme}://{shown}:{front.config.port}" for front in self._fronts]
        self.ports = [front.config.port for front in self._fronts]

    @property
    def url(self) -> str:
        """The first server's address."""
        return self.urls[0]

    def wait_ready(self, timeout_s: float, wake: int | None = None) -> None:
        """Block until every front serves; the error of one that cannot. Interrupted when `wake` becomes readable."""
        deadline = time.monotonic() + timeout_s
        for front in self._fronts:
            assert front.ready_fd is not None
            told = _read_line(front.ready_fd, deadline, wake)
            os.close(front.ready_fd)
            front.ready_fd = None
            if not told:
                code = front.child.wait(1.0)
                cause = "it took too long" if code is None else cause_of_exit(code)
                raise PeerError(f"the env server on port {front.config.port} did not start: {cause}")
            ready = msgspec.json.decode(told, type=Ready)
            if ready.code:
                raise error_for(ready.code, ready.message)

    def poll(self) -> None:
        """Start again every front that died."""
        for index, front in enumerate(self._fronts):
            code = front.child.exitcode()
            if code is None or self._stopping:
                continue
            lived_s = time.monotonic() - front.started_at
            restarts = 0 if lived_s > _STABLE_AFTER_S else front.restarts
            if lived_s < _BACK_OFF_S[min(restarts, len(_BACK_OFF_S) - 1)]:
                continue
            log("front_died", port=front.config.port, cause=cause_of_exit(code), restarts=restarts)
            if front.ready_fd is not None:
                os.close(front.ready_fd)
            end_marked([front.mark])
            self._fronts[index] = self._start(front.config, front.listener)
            self._fronts[index].restarts = restarts + 1

    def pids(self) -> list[int]:
        """The fronts' process ids."""
        return [front.child.pid for front in self._fronts]

    def send_signal(self, number: int) -> None:
        """Pass a signal on to every front."""
        for front in self._fronts:
            front.child.send_signal(number)

    def stop(self, grace_s: float = 10.0) -> None:
        """Drain and end every front, and give the ports back."""
        self._stopping = True
        self.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for front in self._fronts:
            if front.child.wait(max(0.0, deadline - time.monotonic())) is None:
                front.child.kill()
            front.listener.close()
            if front.ready_fd is not None:
                os.close(front.ready_fd)
                front.ready_fd = None
        end_marked([front.mark for front in self._fronts if front.child.exitcode() != 0])  # others saw to it themselves

    def _start(self, config: ServerConfig, listener: socket.socket) -> _Front:
        ready, tell = os.pipe()
        mark = new_mark()
        try:
            content = msgspec.msgpack.encode(FrontConfig(config, self.token.text if self.token else None))
            child = start_child(
                "multiserverrl.server.front:run_front", content,
                name=f"front on port {config.port}", fds=[listener.fileno(), tell],
                environment={MARK_VARIABLE: mark},
                without=[TOKEN_VARIABLE],  # it has it from us; env workers inherit what it has
            )  # fmt: skip
        finally:
            os.close(tell)
        return _Front(config, listener, child, ready, time.monotonic(), mark)


def start_server(config: ServerConfig, wake: int | None = None) -> RunningServer:
    """Start the servers as children of this process (from its main thread); returns when they serve.

    ConfigError for a port in use or a token that is needed; UnknownEnvError for an env that is not there.
    Interrupted, with nothing left behind, as soon as the descriptor `wake` becomes readable.
    """
    return _started(config, wake, shows_token=False)


def _started(config: ServerConfig, wake: int | None, *, shows_token: bool) -> RunningServer:
    keep_standard_descriptors()
    fingerprint = certificate_fingerprint(config)
    listeners = listen(config)
    try:
        token = find_token(config, is_shown=shows_token)
        _check_reach(config, token, fingerprint, listeners)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    server = RunningServer(config, token, fingerprint, listeners)
    try:
        server.wait_ready(config.start_deadline_s, wake)
    except BaseException:
        server.stop(2.0)
        raise
    return server


def serve(config: ServerConfig) -> int:
    """The `serve` command: start, say so, watch, and stop on SIGTERM or Ctrl-C. Returns the exit code."""
    log_to_stderr()
    wake, signals = _catch_signals()
    try:
        server = _started(config, wake, shows_token=sys.stdout.isatty())
    except Interrupted:
        log("stopping", signal=signal.Signals(signals[0]).name)
        return 0
    grace_s = _NO_GRACE_S
    try:
        announce(config, server.ports, server.token, server.fingerprint)
        while not signals:
            if select.select([wake], [], [], 0.2)[0]:
                os.read(wake, 4096)
            server.poll()
        log("stopping", signal=signal.Signals(signals[0]).name)
        _stop_with_patience(server, signals, config.drain_s)
    except BaseException:
        grace_s = config.drain_s + _END_S
        raise
    finally:
        server.stop(grace_s)
    return 0


def _check_reach(
    config: ServerConfig, token: Token | None, fingerprint: str | None, listeners: list[socket.socket]
) -> None:
    """By the addresses that are bound, whatever the host's name promised."""
    address = listeners[0].getsockname()[0]
    if is_loopback(address):
        return
    if token is None:
        raise ConfigError(
            f"--host {config.host} is {address} here, which can be reached from other machines: set {TOKEN_VARIABLE} "
            "or give --token-file, or listen on 127.0.0.1"
        )
    if fingerprint is None:
        log("not_encrypted", level=logging.WARNING, host=config.host, do="give --certfile and --keyfile")


def _stop_with_patience(server: RunningServer, signals: list[int], drain_s: float) -> None:
    """A second signal does not wait for steps in flight."""
    server.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + drain_s + _END_S
    while time.monotonic() < deadline and any(front.child.exitcode() is None for front in server._fronts):
        if len(signals) > 1:
            server.send_signal(signal.SIGTERM)
            return
        time.sleep(0.02)


def _catch_signals() -> tuple[int, list[int]]:
    """A descriptor that becomes readable on a signal, and the list of those that came; a front's death wakes, too."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: signals.append(caught))
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, lambda caught, _: None)
    return wake, signals


def listen(config: ServerConfig) -> list[socket.socket]:
    """A listening socket for each port; ConfigError when one is in use."""
    listeners: list[socket.socket] = []
    try:
        for offset in range(config.servers):
            port = config.port + offset if config.port else 0
            listeners.append(_listener(config.host, port, config.silence_s))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listener(host: str, port: int, silence_s: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"--host {host} is not an address of this machine: {error.strerror}") from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit these
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _keepalive(silence_s):
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use; choose another with --port (0 picks a free one)"
            ) from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _keepalive(silence_s: float) -> list[tuple[str, int]]:
    """An idle connection is asked after half of the time, and then a few times more, whether it stands."""
    idle_s, interval_s = max(1, int(silence_s / 2)), max(1, int(silence_s / 2 / _KEEPALIVE_PROBES))
    return [("TCP_KEEPIDLE", idle_s), ("TCP_KEEPINTVL", interval_s), ("TCP_KEEPCNT", _KEEPALIVE_PROBES)]


def _read_line(fd: int, deadline: float, wake: int | None = None) -> bytes:
    """One line from a pipe; what there is of it when the pipe ends or the time is over."""
    watched = [fd] if wake is None else [fd, wake]
    content = b""
    while not content.endswith(b"\n"):
        ready = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))[0]
        if wake in ready:
            raise Interrupted
        if not ready:
            return b""
        part = os.read(fd, 4096)
        if not part:
            break
        content += part
    return content
