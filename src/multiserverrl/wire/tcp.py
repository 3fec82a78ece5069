"""What Linux tells of a TCP connection (`getsockopt(TCP_INFO)`), as far as it tells a dead wire from a quiet one."""

from __future__ import annotations

import struct

__all__ = ["INFO_BYTES", "unheard_s"]

_FIELDS = struct.Struct("=8B13I")  # struct tcp_info's first; later kernels add behind them
_RETRANSMITS, _PROBES = 2, 3
_LAST_DATA_SENT_MS, _LAST_DATA_RECEIVED_MS, _LAST_ACK_RECEIVED_MS = 17, 19, 20
INFO_BYTES = _FIELDS.size


def unheard_s(info: bytes) -> float:
    """For how long nothing came from the other machine, while it owes an answer; 0 while it owes none.

    It owes one to what was sent twice since it was heard of, and to probes: keepalive's, and those that ask whether a
    peer that does not read has room again. Its processes may sleep meanwhile; its system answers.
    """
    fields = _FIELDS.unpack_from(info)
    heard_ms = min(fields[_LAST_DATA_RECEIVED_MS], fields[_LAST_ACK_RECEIVED_MS])
    is_owed = fields[_PROBES] or (fields[_RETRANSMITS] and fields[_LAST_DATA_SENT_MS] < heard_ms)
    return float(heard_ms) / 1e3 if is_owed else 0.0
