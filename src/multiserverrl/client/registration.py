"""`gymnasium.make("multiserverrl:Virtual-v0", url=…)` and `make_vec`."""

from __future__ import annotations

import gymnasium

from multiserverrl.client.specs import ENTRY_POINT, ENV_ID, VECTOR_ENTRY_POINT

__all__ = ["register"]


def register() -> None:
    """Tell Gymnasium of Virtual-v0, once."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT)
