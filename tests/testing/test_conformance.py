"""Every claim about servers holds for ours and for the fake; each broken fake is found by the claim that names it."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from multiserverrl.testing.check import look_at
from multiserverrl.testing.conformance import SERVER_CLAIMS, Subject
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.fake import FakeServer, Walk
from multiserverrl.testing.serving import serving
from multiserverrl.testing.threaded import serving_from_thread
from tests.testing.broken import BROKEN, Dice, broken

FAULTS = {claim.title for claim in SERVER_CLAIMS if claim.group == "faults of the env"}
ENVS = "multiserverrl.testing.envs"
TOKEN = "a-token-of-this-test"
CLAIMS = [claim for claim in SERVER_CLAIMS if not claim.is_figure]
NO_TOKEN = "without the token nothing is told and nothing opened"
NO_NAN = "NaN in an action is refused"
NOT_NATIVE = "an autoreset mode that a native vector env lacks is refused"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("CartPole-v1", f"{ENVS}:DictObs", f"{ENVS}:TextObs", f"{ENVS}:Scripted", count=3) as server:
        yield server.url


def outcomes(subject: Subject) -> dict[str, set[str]]:
    """{outcome: what of each claim}; of one that does not hold with what was seen."""
    found: dict[str, set[str]] = {"pass": set(), "FAIL": set(), "skip": set()}
    for claim in CLAIMS:
        finding = look_at(claim, subject)
        found[finding.outcome].add(claim.title + (f": {finding.seen}" if finding.outcome == "FAIL" else ""))
    return found


@pytest.mark.parametrize(
    ("env_id", "skipped"),
    [
        ("CartPole-v1", {NO_NAN}),
        (f"{ENVS}:DictObs", set()),
        (f"{ENVS}:TextObs", {NO_NAN}),
        (f"{ENVS}:Scripted", {NO_NAN}),
    ],
)
def test_our_own_server_holds_every_claim(url: str, env_id: str, skipped: set[str]) -> None:
    found = outcomes(Subject(url, env_id))
    assert found["FAIL"] == set()
    assert found["skip"] == {NO_TOKEN, NOT_NATIVE, *skipped, *(FAULTS if not env_id.endswith("Scripted") else set())}


def test_our_own_server_holds_every_claim_with_one_env_worker_that_answers_by_itself() -> None:
    with serving(f"{ENVS}:Scripted", count=2, workers=1) as server:
        found = outcomes(Subject(server.url))
    assert found["FAIL"] == set()
    assert found["skip"] == {NO_TOKEN, NOT_NATIVE, NO_NAN}


def test_our_own_server_holds_every_claim_with_a_native_vector_env() -> None:
    with serving_from_thread(lambda num_envs: SyncVectorEnv([Scripted] * num_envs), vector=True) as url:
        found = outcomes(Subject(url))
    assert found["FAIL"] == set()
    assert NOT_NATIVE in found["pass"]
    assert found["skip"] >= FAULTS
    assert len(found["pass"]) > 20


class Narrow(gymnasium.Env[Any, Any]):
    """Its arrays are of a dtype that could be cast to its space's, and is not it."""

    observation_space = spaces.Dict({"say": spaces.Text(4), "at": spaces.Sequence(spaces.Box(0, 1, (2,), np.float32))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return {"say": "hm", "at": (np.zeros(2, np.float16),)}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 0.0, False, False, {}


def test_arrays_of_another_dtype_are_found_where_no_layout_gives_it() -> None:
    (claim,) = (claim for claim in CLAIMS if claim.title.startswith("observations are members"))
    with serving_from_thread(Narrow) as url:
        finding = look_at(claim, Subject(url))
    assert finding.outcome == "FAIL"
    assert "['at'][0] is of float16, its space of float32" in finding.seen


def test_our_own_server_guards_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISERVERRL_TOKEN", TOKEN)
    with serving("CartPole-v1", count=1, workers=1) as server:
        claim = next(claim for claim in CLAIMS if claim.title == NO_TOKEN)
        assert look_at(claim, Subject(server.url, token=TOKEN)).outcome == "pass"


def test_the_fake_holds_every_claim_that_it_can() -> None:
    with FakeServer(token=TOKEN) as server:
        found = outcomes(Subject(server.url, token=TOKEN))
    assert found["FAIL"] == set()
    lanes, http = "lanes are numbered apart, each with a seq of its own", "requests by HTTP are carried out once, too"
    assert {title.split(", and refused")[0] for title in found["skip"]} == {lanes, http, NO_NAN, NOT_NATIVE, *FAULTS}


@pytest.mark.parametrize(("part", "title"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_the_claim_finds_the_server_that_breaks_it(part: Any, title: str) -> None:
    (claim,) = (claim for claim in CLAIMS if claim.title.startswith(title))
    with broken(part, TOKEN) as server:
        finding = look_at(claim, Subject(server.url, token=TOKEN, timeout_s=1.0))
    assert finding.outcome == "FAIL", finding.seen
    assert "Traceback" not in finding.seen


def test_every_claim_that_can_be_judged_on_a_fake_has_one_that_breaks_it() -> None:
    """The others take several envs, HTTP routes, a native vector env, an action space of floats, an env that fails."""
    caught = {claim.title for _, title in BROKEN for claim in CLAIMS if claim.title.startswith(title)}
    assert {claim.title for claim in CLAIMS} - caught == {
        "lanes are numbered apart, each with a seq of its own",
        NO_NAN,
        "requests by HTTP are carried out once, too, and refused alike",
        NOT_NATIVE,
        *FAULTS,
    }


class Chance(FakeServer):
    """A fake that says what its env is."""

    make_env: type[Walk] = Dice

    def described(self) -> dict[str, Any]:
        return {**super().described(), "nondeterministic": True}


def test_an_env_that_says_it_is_not_deterministic_is_not_blamed_for_it() -> None:
    with Chance() as server:
        found = outcomes(Subject(server.url))
    assert {failed.partition(":")[0] for failed in found["FAIL"]} <= {"Gymnasium's own env checker passes on it"}
    assert "two sessions with the same seed and actions are equal to the bit" in found["skip"]
