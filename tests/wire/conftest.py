"""How hypothesis looks: the same way each time, so that a commit passes or it does not.

`pytest tests/wire --hypothesis-profile=wide` looks further, each time elsewhere.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a busy machine is no fault of the code

settings.register_profile("calm", derandomize=True, stateful_step_count=40, **CALM)
settings.register_profile("wide", max_examples=2000, stateful_step_count=80, **CALM)
settings.load_profile("calm")
