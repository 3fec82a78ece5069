"""A whole env server, written from docs/protocol.md alone: it imports nothing else of this package.

One env, one session at a time, blocking sockets, a thread for each connection. It is the proof that the page suffices,
and a start for a server in another language. A test that wants a broken server overrides one method.
"""

from multiserverrl.testing.fake.frames import Refusal
from multiserverrl.testing.fake.server import FakeServer
from multiserverrl.testing.fake.session import FakeSession, Walk

__all__ = ["FakeServer", "FakeSession", "Refusal", "Walk"]
