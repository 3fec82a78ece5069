"""A wire for IP packets between two network namespaces, with both ends in this process's hands (Linux, root).

Every packet passes through a thread of this process, which loses, delays, reorders, doubles and damages it: TCP meets
what a bad network does, and answers as it would there. The namespaces bear no name and no process of
their own: they end with this one, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from matrix import Unavailable

__all__ = ["CLIENT", "SERVER", "PacketWire", "Weather"]

CLIENT, SERVER = "10.78.0.1", "10.78.0.2"  # the namespaces' addresses, which nobody else can reach
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
_THIS = "/proc/thread-self/ns/net"
_MOST_PACKET_BYTES = 65535
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Weather:
    """What happens to packets, each way; shares are of all packets."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # on top of the delay, evenly spread: neighbours overtake each other
    lost: float = 0.0
    held_back: float = 0.0  # for half the delay and 10 ms more
    doubled: float = 0.0
    damaged: float = 0.0  # one bit flipped, anywhere in the packet


class PacketWire:
    """The wire, for the length of a `with` block; `weather` may be changed at any time."""

    def __init__(self, weather: Weather | None = None, seed: int = 0) -> None:
        self.weather = weather or Weather()
        self.counts: Counter[str] = Counter()  # of what was done to packets
        self._is_cut = False
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, int, bytes]] = []  # (due, number, device, packet)

    def __enter__(self) -> PacketWire:
        """Raises Unavailable where a machine has no such things, or lends them to nobody."""
        if shutil.which("ip") is None:
            raise Unavailable("it needs ip (Debian, Ubuntu: apt install iproute2)")
        with contextlib.ExitStack() as opened:
            self._rooms = {address: _room(opened) for address in (CLIENT, SERVER)}
            ends = [self._device(address, opened) for address in (CLIENT, SERVER)]
            self._other = {ends[0]: ends[1], ends[1]: ends[0]}
            self._wake, stop = os.pipe()
            opened.callback(os.close, self._wake)
            self._thread = threading.Thread(target=self._run, name="packet wire")
            self._thread.start()
            opened.callback(self._thread.join)
            opened.callback(os.close, stop)  # first of all: the thread ends
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextlib.contextmanager
    def inside(self, address: str) -> Iterator[None]:
        """This thread, and what it starts, is on that side of the wire."""
        here = os.open(_THIS, os.O_RDONLY)
        try:
            _enter(self._rooms[address])
            yield
        finally:
            _enter(here)
            os.close(here)

    def cut(self) -> None:
        """From now on no packet arrives, and nobody is told."""
        self._is_cut = True

    def heal(self) -> None:
        """Packets arrive again."""
        self._is_cut = False

    def _device(self, address: str, opened: contextlib.ExitStack) -> int:
        with self.inside(address):
            try:
                device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise Unavailable(f"no tunnel can be had here: {error}") from None
            opened.callback(os.close, device)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", b"wire", _IFF_TUN | _IFF_NO_PI))
            for command in (f"addr add {address}/24 dev wire", "link set wire mtu 1500 up", "link set lo up"):
                subprocess.run(["ip", *command.split()], check=True)
        return device

    def _run(self) -> None:
        poll = select.poll()
        for fd in (self._wake, *self._other):
            poll.register(fd, select.POLLIN)
        while True:
            wait_s = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else 60.0
            ready = [fd for fd, _ in poll.poll(1e3 * wait_s)]
            if self._wake in ready:
                return
            for device in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self._take(os.read(device, _MOST_PACKET_BYTES), self._other[device])
            self._pass_on_due()

    def _take(self, packet: bytes, to: int) -> None:
        """Decide what becomes of one packet."""
        weather, drawn = self.weather, self._random.random
        if packet[0] >> 4 != 4:  # what IPv6 says to itself
            return
        self.counts["packets"] += 1
        if self._is_cut or drawn() < weather.lost:
            self.counts["lost"] += 1
            return
        due = time.monotonic() + weather.delay_s + weather.jitter_s * drawn()
        if drawn() < weather.held_back:
            self.counts["held back"] += 1
            due += weather.delay_s / 2 + 0.01
        if drawn() < weather.damaged:
            self.counts["damaged"] += 1
            byte, bit = self._random.randrange(len(packet)), self._random.randrange(8)
            packet = packet[:byte] + bytes((packet[byte] ^ 1 << bit,)) + packet[byte + 1 :]
        copies = 1
        if drawn() < weather.doubled:
            self.counts["doubled"] += 1
            copies = 2
        for _ in range(copies):
            heapq.heappush(self._waiting, (due, self.counts.total(), to, packet))
            due += 0.005

    def _pass_on_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(self._waiting)
            if not self._is_cut:
                with contextlib.suppress(OSError):  # damaged so that it is no IP packet any more, or the queue is full
                    os.write(device, packet)


def _room(opened: contextlib.ExitStack) -> int:
    """A network namespace of its own, alive as long as the descriptor."""
    here = os.open(_THIS, os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            raise Unavailable(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
        room = os.open(_THIS, os.O_RDONLY)
        opened.callback(os.close, room)
        return room
    finally:
        _enter(here)
        os.close(here)


def _enter(room: int) -> None:
    if _libc.setns(room, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this thread cannot change its network namespace")
