"""Certificates for tests, made as they run: a CA of their own, and what it signs."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import trustme


class Signed(NamedTuple):
    """A certificate with its key, as files, and as `serve` takes them."""

    certfile: str
    keyfile: str

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(self.certfile).read_text())).hexdigest()

    def settings(self) -> dict[str, str]:
        return {"certfile": self.certfile, "keyfile": self.keyfile}


class Authority:
    """A CA that no system knows; `ca_file` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ca, self._count = folder, trustme.CA(key_type=trustme.KeyType.ECDSA), 0
        self.ca_file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def sign(self, *names: str, **more: Any) -> Signed:
        """For these host names and addresses; `more` is trustme's, such as not_after."""
        self._count += 1
        made = self._ca.issue_cert(*(names or ("localhost", "127.0.0.1")), key_type=trustme.KeyType.ECDSA, **more)
        signed = Signed(*(str(self._folder / f"{self._count}-{part}.pem") for part in ("cert", "key")))
        made.cert_chain_pems[0].write_to_path(signed.certfile)
        made.private_key_pem.write_to_path(signed.keyfile)
        Path(signed.keyfile).chmod(0o600)
        return signed
