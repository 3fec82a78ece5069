"""A connection whose frames are compressed or bear checksums, where client and server agree on it."""

from __future__ import annotations

from dataclasses import dataclass

from multiserverrl.client.transport import (
    MAX_MESSAGE_BYTES,
    Address,
    Connection,
    ConnectionEnded,
    Socket,
    is_same_host,
)
from multiserverrl.errors import ConfigError, MultiServerRLError, SessionLost, SessionTaken
from multiserverrl.wire.coding import CLOSED_DAMAGED, HEADER, Codec, Coding, CodingError

__all__ = ["CodedConnection", "Wanted", "connect"]


@dataclass(frozen=True)
class Wanted:
    """What a virtual env asks of its connections; ConfigError for what cannot be.

    `compression`: "zstd" (or True) wherever the server grants it, False never, None where the server is on
    another host. `checksum`: on every frame; a server that has none is refused.
    """

    compression: bool | str | None = None
    checksum: bool = False

    def __post_init__(self) -> None:
        if self.compression not in (None, True, False, "zstd"):
            raise ConfigError(f"compression must be 'zstd', True, False or None, not {self.compression!r}")

    def on(self, *, is_same_host: bool) -> Coding:
        """What to ask for on a connection."""
        compression = not is_same_host if self.compression is None else bool(self.compression)
        return Coding(compression, self.checksum)

    def doubts(self, error: MultiServerRLError) -> bool:
        """Whether flipped bits may have said so when it was connected again: a handshake bears no checksum."""
        return self.checksum and not isinstance(error, (SessionLost, SessionTaken))


def connect(address: Address, timeout_s: float, wanted: Wanted) -> Connection:
    """A connection that asks for what is wanted; a plain one, at no cost, where that is nothing."""
    connected = address.connect(timeout_s)
    offer = wanted.on(is_same_host=is_same_host(connected))
    if not offer:
        return Connection(address, timeout_s, connected)
    return CodedConnection(address, timeout_s, connected, offer)


class CodedConnection(Connection):
    """Takes and gives plain frames. A damaged one is a broken connection: ConnectionEnded, so it is asked for again."""

    def __init__(self, address: Address, timeout_s: float, connected: Socket, offer: Coding) -> None:
        super().__init__(address, timeout_s, connected, {HEADER: str(offer)})
        self.coding = offer & Coding.parse(self.headers.get(HEADER.lower(), ""))
        self._codec = Codec(self.coding, MAX_MESSAGE_BYTES)
        if offer.checksum and not self.coding.checksum:
            self.drop()
            raise ConfigError(f"checksum=True: {address} puts none on its messages; update it, or use https")

    def send(self, message: bytes) -> None:
        super().send(self._codec.encode(message))

    def receive(self) -> memoryview:
        message = super().receive()
        try:
            return self._codec.decode(message)
        except CodingError as error:
            if error.close_code == CLOSED_DAMAGED:
                raise ConnectionEnded(str(error)) from error
            raise
