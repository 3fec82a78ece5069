"""Serve Gymnasium environments over HTTP, and train on them as if they were local.

Importing this package imports neither torch nor ray; it tells Gymnasium of `Virtual-v0` and of the
envs in `envs`, and finds its own names when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from multiserverrl import envs
from multiserverrl.client.registration import register

if TYPE_CHECKING:
    from multiserverrl.client.env import VirtualEnv
    from multiserverrl.client.vector import VirtualVectorEnv
    from multiserverrl.errors import EnvFault, MultiServerRLError, ServerFull, SessionLost

__all__ = [
    "EnvFault",
    "MultiServerRLError",
    "ServerFull",
    "SessionLost",
    "VirtualEnv",
    "VirtualVectorEnv",
    "__version__",
]

__version__ = "0.1.0"

_HOME = {
    "VirtualEnv": "multiserverrl.client.env",
    "VirtualVectorEnv": "multiserverrl.client.vector",
    "EnvFault": "multiserverrl.errors",
    "MultiServerRLError": "multiserverrl.errors",
    "ServerFull": "multiserverrl.errors",
    "SessionLost": "multiserverrl.errors",
}


register()
envs.register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
