"""How a session is ended that can be asked of no more over its own connection."""

from __future__ import annotations

from multiserverrl.client.transport import Address

__all__ = ["end_session"]


def end_session(address: Address, session: str, secret: str, timeout_s: float) -> None:
    """Ask by plain HTTP for a session's end, without waiting for the answer; OSError when that cannot be asked."""
    headers = {**address.headers(), "Host": address.netloc, "Session-Secret": secret, "Connection": "close"}
    lines = [f"DELETE /v1/sessions/{session} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    connected = address.connect(timeout_s)
    try:
        connected.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    finally:
        connected.close()
