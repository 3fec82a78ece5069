"""`gymnasium.make("multiserverrl:Virtual-v0", url=…)` and `make_vec`."""

from __future__ import annotations

import gymnasium

__all__ = ["register"]


def register() -> None:
    """Tell Gymnasium of Virtual-v0, once."""
    if "Virtual-v0" not in gymnasium.registry:
        gymnasium.register(
            "Virtual-v0",
            entry_point="multiserverrl.client.env:VirtualEnv",
            vector_entry_point="multiserverrl.client.vector:VirtualVectorEnv",
        )
