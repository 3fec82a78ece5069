"""What the client shows to its server, and under TLS whom it takes for its server.

Nothing of ours is sent, no token and no request, before the server has shown who it is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
import ssl
from dataclasses import dataclass

from multiserverrl.errors import ConfigError, UntrustedServer
from multiserverrl.wire.tokens import TOKEN_VARIABLE, checked_token

__all__ = ["SYSTEM_TRUST", "Trust", "token_to_show"]

_FINGERPRINT = re.compile(r"(?:sha256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)

# X509_V_ERR_…: what to do about the usual ones
_OWN_CA = "where it is your own, give its CA (ca_file=, --ca-file) or its SHA-256 (fingerprint=, --fingerprint)"
_ADVICE = {
    9: "it is not valid yet: are both clocks right?",
    10: "it has expired: renew it, and start the server again",
    18: f"it is signed by itself: {_OWN_CA}",
    19: f"no CA that this machine knows has signed it: {_OWN_CA}",
    20: f"no CA that this machine knows has signed it: {_OWN_CA}",
    21: f"no CA that this machine knows has signed it: {_OWN_CA}",
    62: "it is for another host name: use a name that it has, or make one that has this name",
    64: "it is for another address: use a name or address that it has, or make one that has this address",
}
_UNSIGNED = (18, 19, 20, 21)


def token_to_show(given: str | None) -> str | None:
    """The token that was given, or else the environment's; ConfigError for one that no header can bear."""
    found = given or os.environ.get(TOKEN_VARIABLE, "").strip()
    return checked_token(found, "the token (token=)" if given else TOKEN_VARIABLE) if found else None


@dataclass(frozen=True)
class Trust:
    """Of servers under https: signed by a CA of this system, by those of `ca_file` alone, or one certificate alone.

    `fingerprint` is the SHA-256 of the server's certificate in hex, as `serve` prints it; such a certificate is
    believed whatever its name, its date and who signed it, unless there is a `ca_file`, too.
    """

    ca_file: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.fingerprint is not None and not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ConfigError(
                f"fingerprint must be the SHA-256 of a certificate, 64 hex digits, not {self.fingerprint[:80]!r}"
            )

    def __bool__(self) -> bool:
        """Whether it asks for more than the system does."""
        return self.ca_file is not None or self.fingerprint is not None

    def wrap(self, connected: socket.socket, context: ssl.SSLContext, host: str, address: str) -> ssl.SSLSocket:
        """The connection under TLS. UntrustedServer for one that is not believed, other OSErrors as they are.

        Whatever is raised, the connection is closed.
        """
        try:
            wrapped = context.wrap_socket(connected, server_hostname=host)
            self._check_fingerprint(wrapped, address)
        except ssl.SSLCertVerificationError as error:
            told = error.verify_message.rstrip(".")
            advice = _ADVICE.get(error.verify_code, _OWN_CA)
            if self.ca_file is not None and error.verify_code in _UNSIGNED:
                advice = f"no certificate in {self.ca_file} (ca_file=, --ca-file) has signed it: is it the right file?"
            raise UntrustedServer(f"the certificate of {address} is not trusted ({told}): {advice}") from error
        except ssl.SSLEOFError:  # it hung up, which it may do for many a reason
            raise
        except ssl.SSLError as error:
            raise UntrustedServer(
                f"{address} does not speak TLS as this side does ({error.reason or error}): if it speaks plain HTTP, "
                "start it with --certfile and --keyfile, or say http:// where the way to it is safe"
            ) from error
        except BaseException:
            connected.close()
            raise
        return wrapped

    def context(self) -> ssl.SSLContext:
        """What `wrap` wants; ConfigError for a `ca_file` that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as error:
            raise ConfigError(f"ca_file {self.ca_file} holds no PEM certificates") from error
        except OSError as error:
            raise ConfigError(f"ca_file {self.ca_file} cannot be read: {error.strerror}") from error
        if self.fingerprint is not None and self.ca_file is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is compared below
        return context

    def _check_fingerprint(self, wrapped: ssl.SSLSocket, address: str) -> None:
        if self.fingerprint is None:
            return
        wrapped_certificate = wrapped.getpeercert(binary_form=True)
        found = hashlib.sha256(wrapped_certificate or b"").hexdigest()
        wanted = self.fingerprint.lower().removeprefix("sha256:").replace(":", "")
        if not hmac.compare_digest(found, wanted):
            wrapped.close()
            raise UntrustedServer(
                f"{address} shows another certificate than the one with the fingerprint that was given; its own is "
                f"{found}: if it was renewed, take that, once its operator has told you the same"
            )


SYSTEM_TRUST = Trust()  # under https: who is signed by a CA of this system
