"""The contract of an env server: claims about any that speaks docs/protocol.md, as `multiserverrl check` makes them.

Each claim takes a `Subject`, returns what was seen, and raises AssertionError, an error of this package or OSError when
it does not hold, `Skip` when it cannot be judged. Those about the env itself are `multiserverrl.testing.contract`'s.
"""

from multiserverrl.testing.conformance.claim import Claim, Skip
from multiserverrl.testing.conformance.servers import SERVER_CLAIMS
from multiserverrl.testing.conformance.subject import Subject

__all__ = ["SERVER_CLAIMS", "Claim", "Skip", "Subject"]
