"""Random requests made of the server's own OpenAPI document: no crash, and every answer is one that it speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from multiserverrl.testing.serving import serving
from tests.server.support import HttpSession
from tests.server.support import request as plain_request

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'multiserverrl[fuzz]'")
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # what it warns of is not ours

ENVS = ("CartPole-v1", "multiserverrl.testing.envs:DictObs", "multiserverrl.testing.envs:TextObs")
EXAMPLES = 150  # a route and mode
LEFT_OUT = ("/v1/stream", "/openapi.json")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(*ENVS, count=3000, workers=1, max_envs_per_session=8, allow_attr="steps", idle_s=5.0) as server:
        yield server.url


class Asker:
    """Sends what schemathesis makes up, most of it to sessions that there are; keeps count of what came back."""

    def __init__(self, url: str, operation: Any, statuses: Counter[int]) -> None:
        self.url, self.operation, self.statuses = url, operation, statuses
        self.number = 0
        self._open()

    def _open(self) -> None:
        self.sessions = [HttpSession(self.url, env_id=env, autoreset_mode="next_step") for env in ENVS]
        for session in self.sessions:
            session.ask("reset")

    def ask(self, case: Any) -> None:
        self.number += 1
        session = self.sessions[self.number % len(self.sessions)]
        of_session = "{session}" in self.operation.path and self.number % 8
        if of_session:
            case.path_parameters = {**(case.path_parameters or {}), "session": session.path.rpartition("/")[2]}
            case.headers = {**(case.headers or {}), **session.secret}
            if isinstance(case.body, dict) and self.number % 3:
                case.body["seq"] = session.seq + 1
        self._judge(case, case.call(base_url=self.url))
        if of_session:
            self._open() if self.operation.method == "delete" else self._follow(session)

    def _follow(self, session: HttpSession) -> None:
        """The session's seq, which the random request may have used up."""
        ahead = session.ask("render", seq=1 << 60).json
        if ahead["error"] == "seq":
            session.seq = int(ahead["message"].partition("the last was ")[2].partition(",")[0])

    def _judge(self, case: Any, response: Any) -> None:
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_schema_conformance,
            status_code_conformance,
        )

        self.statuses[response.status_code] += 1
        told = response.text
        if response.status_code == 503:
            assert response.headers.get("Retry-After"), told
        else:
            assert response.status_code < 500, (case.method, case.path, case.body, told)
        assert "Traceback" not in told
        case.validate_response(
            response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
        )


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_answer_to_a_random_request_is_one_that_the_document_speaks_of(url: str, mode: str) -> None:
    statuses: Counter[int] = Counter()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path not in LEFT_OUT and (mode == "POSITIVE" or operation.method == "post"):
            _throw(operation, mode, Asker(url, operation, statuses).ask)
    assert statuses[200] > 100 if mode == "POSITIVE" else statuses[400] > 100, statuses
    assert plain_request(url, "GET", "/health").json["status"] == "ok"


def _throw(operation: Any, mode: str, ask: Any) -> None:
    few = 5 if operation.method == "get" else EXAMPLES

    @settings(
        max_examples=few, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def one(case: Any) -> None:
        ask(case)

    one()
