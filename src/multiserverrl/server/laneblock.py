"""What lies in a lane's shared block, for the front and the env workers that map it.

    actions | body 0 | body 1 | words

The front uses body 0 alone. A worker that answers a client by itself writes its answers' bodies in turn,
so that the last one is whole whenever the worker ends; the words say which, and of what request. A client
on this host may read all of it (`shown`).
"""

from __future__ import annotations

from typing import Any

from multiserverrl.memory import Block
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import SharedBlock

__all__ = ["ANSWERED", "AREA", "BUSY_SINCE", "WAS_RESET", "LaneBlock"]

ANSWERED, AREA, BUSY_SINCE = range(3)  # words: the last seq answered; its body, 0 or 1; monotonic ns, 0 while idle
_NONCE = 3  # a word that tells this block from any other
WAS_RESET = 4  # whether the envs may be stepped, as of the last reset
_NUM_WORDS = 8
_LINE_BYTES = 64  # parts that different processes write lie on cache lines of their own


class LaneBlock:
    """Views on a lane's block; `block_bytes` says how large it must be."""

    def __init__(self, block: Block, codec: ActionCodec, layout: StepLayout) -> None:
        self._block = block
        self.layout = layout
        begin, size = _whole_lines(codec.size_bytes), _whole_lines(layout.size_bytes)
        self.buffer = block.buffer
        self.actions = block.buffer[: codec.size_bytes]
        self.bodies = [block.buffer[first : first + layout.size_bytes] for first in (begin, begin + size)]
        self._begins = [begin, begin + size, begin + 2 * size]
        self._word_bytes = block.buffer[begin + 2 * size : begin + 2 * size + 8 * _NUM_WORDS]
        self.words: Any = self._word_bytes.cast("q")

    @staticmethod
    def block_bytes(codec: ActionCodec, layout: StepLayout) -> int:
        """The size of a block for these."""
        return _whole_lines(codec.size_bytes) + 2 * _whole_lines(layout.size_bytes) + 8 * _NUM_WORDS

    def shown(self, nonce: int) -> SharedBlock | None:
        """What a client on this host needs to read it; None where another process cannot open it by a path."""
        handle, (*bodies, words) = self._block.handle, self._begins
        if handle.kind != "memfd":
            return None
        self.words[_NONCE] = nonce
        size = self.layout.size_bytes
        return SharedBlock(
            handle.name, handle.size_bytes, size, bodies, words + 8 * ANSWERED, words + 8 * _NONCE, nonce
        )

    def settle(self) -> None:
        """Bring the last whole body to body 0, where the front looks."""
        if self.words[AREA]:
            self.bodies[0][:] = self.bodies[1]
            self.words[AREA] = 0
        self.words[BUSY_SINCE] = 0

    def close(self) -> None:
        """Give the views and the block up."""
        for view in (self.words, self._word_bytes, self.actions, *self.bodies):
            view.release()
        self._block.close()


def _whole_lines(size_bytes: int) -> int:
    return -(-size_bytes // _LINE_BYTES) * _LINE_BYTES
