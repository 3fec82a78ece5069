"""The HTTP protocol under the routes: uvicorn's, with an end to what a client may send and to how long it may take.

uvicorn's own takes heads and trailers of any size, waits for ever for the rest of a request, and keeps what it read
of any number of pipelined ones. What is past a limit (see `limits`) is refused as JSON, and the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from multiserverrl.errors import MultiServerRLError, WireError
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.limits import Phase, RequestMeter
from multiserverrl.server.websocket import StreamProtocol

__all__ = ["LimitedHttp", "refusal_bytes"]

_LINGER_S = 1.0  # for the client to read its refusal: a connection closed on unread bytes is reset
_RETRY_AFTER_S = 5


def refusal_bytes(error: MultiServerRLError) -> bytes:
    """A refusal as a whole HTTP answer after which the connection ends."""
    body = msgspec.json.encode({"error": error.code, "message": error.headline})
    lines = [f"HTTP/1.1 {error.http_status} {HTTPStatus(error.http_status).phrase}"]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "connection: close"]
    if error.http_status == 503:
        lines.append(f"retry-after: {_RETRY_AFTER_S}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class LimitedHttp(HttpToolsProtocol):
    """One connection; `leave` is called when it is over, also when it has become a stream meanwhile."""

    def __init__(self, limits: ServerConfig, leave: Callable[[], None], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits, self._leave = limits, leave
        self._meter = RequestMeter(limits)
        self._began = 0.0  # the meter's phase
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_over = False  # nothing that comes is looked at any more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timers()
        super().connection_lost(exc)
        self._leave()

    # -- what comes --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._meter.phase is Phase.BETWEEN and not self._is_over:
            self._meter.began()
            self._start_timer()
        size, start = self._meter.most_to_read, 0
        while start < len(data) and not self._is_over:
            part = data[start : start + size]
            start += size
            try:
                self.parser.feed_data(part)
                self._meter.read(len(part))
            except httptools.HttpParserUpgrade:
                self._upgrade()
            except httptools.HttpParserError as error:
                told = error.__context__
                self._refuse(told if isinstance(told, MultiServerRLError) else WireError("this is no HTTP request"))
            except MultiServerRLError as error:
                self._refuse(error)

    def _upgrade(self) -> None:
        self._is_over = True
        if not self._should_upgrade():
            if self.cycle is not None:
                self.cycle.keep_alive = False  # answered as if it had not asked for another protocol
            return
        self._end_timers()
        self.handle_websocket_upgrade()
        stream = self.transport.get_protocol()
        assert isinstance(stream, StreamProtocol)
        stream.adopt(self._limits.handshake_s, self._leave)

    def on_message_begin(self) -> None:
        self._meter.began()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._meter.head_part(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._meter.header(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):  # a proxy's: its host would count, and not the Host that the door looks at
            raise WireError("the target of a request begins with /")
        told = [value for name, value in self.headers if name == b"content-length"]
        self._meter.head_ended(int(told[0]) if told else None, len(self.pipeline))
        super().on_headers_complete()
        self._start_timer()

    def on_body(self, body: bytes) -> None:
        self._meter.body_part(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._meter.ended()
        self._end_timer()
        super().on_message_complete()

    # -- time --------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        self._end_timer()
        self._began = self.loop.time()
        self._timer = self.loop.call_at(self._began + self._meter.time_s(), self._look)

    def _look(self) -> None:
        """The time of a phase is over, unless more has come meanwhile, or it is we who do not read."""
        ends = self._began + self._meter.time_s()
        if self.flow.read_paused:
            ends = self.loop.time() + self._meter.time_s()
        if ends > self.loop.time():
            self._timer = self.loop.call_at(ends, self._look)
        else:
            self._refuse(self._meter.too_slow())

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_timers(self) -> None:
        self._end_timer()
        self._unset_keepalive_if_required()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        self._hang_up()

    # -- answers -----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not take its answer: it has --body-s for each part of it."""
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size() + 1)

    def _watch_writing(self, before_bytes: int) -> None:
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes >= before_bytes:
            self.transport.abort()
        else:
            self._write_timer = self.loop.call_later(self._limits.body_s, self._watch_writing, waiting_bytes)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, error: MultiServerRLError) -> None:
        """Answer with a refusal where it is this request's turn; otherwise end when the one before is answered."""
        self._is_over = True
        self._end_timer()
        cycle, has_body = self.cycle, self._meter.phase is Phase.BODY  # in its body, it is the cycle's request
        is_running = cycle is not None and not cycle.response_complete
        if is_running and (not has_body or cycle.response_started):
            cycle.keep_alive = False
        elif has_body and (self.pipeline or not is_running):
            self._hang_up()
        else:
            if is_running:  # the application learns that nobody waits for its answer
                cycle.disconnected = True
                cycle.message_event.set()
            self._say(error)

    def _say(self, error: MultiServerRLError) -> None:
        self.transport.write(refusal_bytes(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _hang_up(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_LINGER_S, self.transport.abort)
        self.transport.close()
