"""Shared blocks: create, map, unlink; where arrays lie in them. The only room that knows shared memory."""

from multiserverrl.memory.block import Block, BlockHandle
from multiserverrl.memory.foreign import host_id, open_foreign
from multiserverrl.memory.layout import Layout

__all__ = ["Block", "BlockHandle", "Layout", "host_id", "open_foreign"]
