"""The certificate of a server that speaks TLS, looked at before anything is started."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import NoReturn

from multiserverrl.errors import ConfigError
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.credentials import check_secret_file

__all__ = ["certificate_fingerprint"]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class _Encrypted(Exception):
    """The private key wants a password."""


def certificate_fingerprint(config: ServerConfig) -> str | None:
    """SHA-256 of the server's own certificate, by which clients may know it; None where it speaks no TLS.

    ConfigError for files that cannot be read, or are no certificate with its key.
    """
    if config.certfile is None:
        return None
    named = "--certfile" if config.keyfile is None else "--keyfile"
    check_secret_file(named, Path(config.keyfile or config.certfile))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        text = Path(config.certfile).read_text("ascii", errors="replace")
        Path(config.keyfile or config.certfile).read_bytes()  # its error says which of the two
        context.load_cert_chain(config.certfile, config.keyfile, password=_refuse)
    except _Encrypted:
        raise ConfigError(
            f"{named} {config.keyfile or config.certfile} is encrypted, and nobody is here to type its password: "
            "openssl pkey -in KEY -out KEY-IN-PLAIN (and chmod 600)"
        ) from None
    except ssl.SSLError as error:
        why = "the key is not that certificate's" if "MISMATCH" in str(error) else "they are no PEM certificate and key"
        raise ConfigError(
            f"--certfile {config.certfile} and its key ({config.keyfile or 'in the same file'}) cannot be used: {why}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{error.filename} (--certfile, --keyfile) cannot be read: {error.strerror}") from error
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(_CERTIFICATE.findall(text)[0])).hexdigest()


def _refuse() -> NoReturn:
    raise _Encrypted
