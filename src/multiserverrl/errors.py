"""Every error of this package, and nothing else.

    MultiServerRLError
    ├── MisuseError               we used it wrongly; nothing was stepped
    │   ├── ConfigError           a setting is wrong; the message names it (also a ValueError)
    │   ├── SpaceError            a space or a value that cannot be carried (also a ValueError)
    │   ├── ActionError           an action refused at the server's door (also a ValueError)
    │   ├── SeqError              a request number that the session did not expect
    │   ├── UnknownEnvError       the server does not serve that environment
    │   └── NotAllowedError       the operator did not allow this
    ├── PeerError                 the other side, or the wire between, broke it
    │   ├── ServerUnreachable     nobody answers at the address (also a ConnectionError)
    │   │   └── ServerStopping    it is being stopped; try again in a few seconds
    │   ├── UntrustedServer       its certificate is not believed (also a ConnectionError)
    │   ├── WireError             bytes that are not a message of ours
    │   ├── VersionMismatch       the two sides speak different protocol versions
    │   ├── Unauthorized          the token or the session's secret is wrong
    │   ├── ServerFull            no free environment; says until when
    │   ├── SessionLost           the server no longer knows the session: its episodes are gone
    │   ├── SessionTaken          a newer connection took the session over
    │   └── EnvFault              the environment raised, or its env worker died
    └── RunError                  a training run cannot go on
        ├── CheckpointError       a checkpoint is missing, broken, or of another run
        └── DivergedError         loss or weights are not finite: learning has broken them

Errors that travel have a `code`; `error_for` finds the class for a code that came over the wire.
"""

from __future__ import annotations

__all__ = [
    "ActionError",
    "CheckpointError",
    "ConfigError",
    "DivergedError",
    "EnvFault",
    "MisuseError",
    "MultiServerRLError",
    "NotAllowedError",
    "PeerError",
    "RunError",
    "SeqError",
    "ServerFull",
    "ServerStopping",
    "ServerUnreachable",
    "SessionLost",
    "SessionTaken",
    "SpaceError",
    "Unauthorized",
    "UnknownEnvError",
    "UntrustedServer",
    "VersionMismatch",
    "WireError",
    "error_for",
]


class MultiServerRLError(Exception):
    """The base of every error of this package; `code` names it on the wire."""

    code = "error"
    http_status = 500

    @property
    def headline(self) -> str:
        """The message alone, for a person at the command line; `str` may have a traceback behind it."""
        return str(self.args[0]) if self.args else type(self).__name__


class MisuseError(MultiServerRLError):
    """We used it wrongly; no environment was stepped."""

    code = "misuse"
    http_status = 400


class ConfigError(MisuseError, ValueError):
    """A setting is wrong; the message names it."""

    code = "config"


class SpaceError(MisuseError, ValueError):
    """A space, or a value of one, that cannot be carried."""

    code = "space"
    http_status = 422


class ActionError(MisuseError, ValueError):
    """An action that its space does not contain: refused before anything was stepped."""

    code = "action"
    http_status = 422


class SeqError(MisuseError):
    """A request number that the session did not expect, or one used again for another request."""

    code = "seq"
    http_status = 409


class UnknownEnvError(MisuseError):
    """The server does not serve that environment; the message has close matches."""

    code = "unknown_env"
    http_status = 404


class NotAllowedError(MisuseError):
    """The server's operator did not allow this."""

    code = "not_allowed"
    http_status = 403


class PeerError(MultiServerRLError):
    """The other side, or the wire between, broke it."""

    code = "peer"


class ServerUnreachable(PeerError, ConnectionError):
    """Nobody answers at the address."""

    code = "unreachable"
    http_status = 503


class ServerStopping(ServerUnreachable):
    """The server is being stopped, and opens no session any more; there may be another soon."""

    code = "stopping"


class UntrustedServer(PeerError, ConnectionError):
    """The server's certificate is not believed, or it does not speak TLS where it must; nothing was said to it."""

    code = "untrusted"
    http_status = 503


class WireError(PeerError):
    """Bytes that are not a message of this protocol."""

    code = "wire"
    http_status = 400


class VersionMismatch(PeerError):
    """The two sides speak different versions of the protocol."""

    code = "version"
    http_status = 400


class Unauthorized(PeerError):
    """The server's token, or the session's secret, is missing or wrong."""

    code = "unauthorized"
    http_status = 401


class ServerFull(PeerError):
    """No environment is free; the message says who holds them, and until when.

    `retry_after_s` is when to try again, where the server knows it; not sent with a message.
    """

    code = "full"
    http_status = 503

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionLost(PeerError):
    """The server no longer knows the session: the running episodes are gone, call `reset()`."""

    code = "session_lost"
    http_status = 410


class SessionTaken(PeerError):
    """A newer connection, with the same secret, took the session over."""

    code = "session_taken"
    http_status = 409


class EnvFault(PeerError):
    """The environment raised, or its env worker died; `reset()` works afterwards.

    `remote_traceback` is the traceback at the server, or an empty string when there is none.
    """

    code = "env_fault"

    def __init__(self, message: str, remote_traceback: str = "") -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\nat the server:\n{self.remote_traceback}" if self.remote_traceback else text


class RunError(MultiServerRLError):
    """A training run cannot go on."""

    code = "run"


class CheckpointError(RunError):
    """A checkpoint is missing, broken, or belongs to another run."""

    code = "checkpoint"


class DivergedError(RunError):
    """The loss or the weights are not finite: learning has broken them, and would break them again."""

    code = "diverged"


def _subclasses(base: type[MultiServerRLError]) -> list[type[MultiServerRLError]]:
    return [base, *(found for child in base.__subclasses__() for found in _subclasses(child))]


def error_for(code: str, message: str, remote_traceback: str = "") -> MultiServerRLError:
    """The error that `code` names on the wire; an unknown code becomes a PeerError that shows it."""
    if code == EnvFault.code:
        return EnvFault(message, remote_traceback)
    for kind in _subclasses(MultiServerRLError):
        if kind.code == code:
            return kind(message)
    return PeerError(f"{message} (error code {code!r}, unknown to this version)")
