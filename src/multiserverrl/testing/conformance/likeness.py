"""Claims about the env behind the wire: deterministic, within its spaces, reset as Gymnasium resets.

Most of them are `multiserverrl.testing.contract`'s own, with virtual envs on both sides: two sessions must agree to the
bit, and a vector env whose autoreset the server carries out with Gymnasium's SyncVectorEnv around single envs of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.envs import autoreset_of
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing import contract
from multiserverrl.testing.conformance.claim import Claims, Look, Skip
from multiserverrl.testing.conformance.opening import refused_opening
from multiserverrl.testing.conformance.subject import SEED, Move, Subject
from multiserverrl.wire.arrays import BatchLayout
from multiserverrl.wire.messages import AUTORESET_MODES, PROTOCOL_VERSION, Open

__all__ = ["CLAIMS"]

_determinism, _spaces, _autoreset = Claims("determinism"), Claims("spaces"), Claims("autoreset")
_LONGEST_STEPS, _LONGEST_S = 1500, 5.0  # until an episode has to have ended
_WAIT_S = 5.0


def _single(subject: Subject) -> Callable[[], VirtualEnv]:
    def make() -> VirtualEnv:
        return VirtualEnv(
            subject.url, subject.env.env_id, token=subject.token, timeout_s=subject.timeout_s, wait_s=_WAIT_S,
            ca_file=subject.trust.ca_file, fingerprint=subject.trust.fingerprint,
        )  # fmt: skip

    return make


def _vector(subject: Subject, num_envs: int, mode: str) -> Callable[[], VirtualVectorEnv]:
    def make() -> VirtualVectorEnv:
        return VirtualVectorEnv(
            subject.url, subject.env.env_id, num_envs, autoreset_mode=mode,
            token=subject.token, timeout_s=subject.timeout_s, wait_s=_WAIT_S,
            ca_file=subject.trust.ca_file, fingerprint=subject.trust.fingerprint,
        )  # fmt: skip

    return make


def _deterministic(subject: Subject) -> None:
    if subject.env.nondeterministic:
        raise Skip("the env says of itself that it is not deterministic")


@_determinism(
    "two sessions with the same seed and actions are equal to the bit",
    "hand the seed of reset on to the env; an env whose seed means nothing should say `nondeterministic`",
)
def two_sessions_agree(subject: Subject) -> str:
    _deterministic(subject)
    if subject.is_native:
        make = _vector(subject, 1, subject.mode)
        contract.vector_moves_as_its_local_twin(make, make)
    else:
        contract.env_moves_as_its_local_twin(_single(subject), _single(subject))
    return "60 steps each: spaces, observations, rewards, ends and infos"


@_determinism("a seed begins the same episode again in the same session", "reset with a seed must forget all before it")
def a_seed_repeats(subject: Subject) -> str:
    _deterministic(subject)
    subject.single()
    contract.env_repeats_itself_for_a_seed(_single(subject), _single(subject))
    return "15 steps, twice"


@_spaces(
    "observations are members of the observation space, with its dtypes",
    "describe the space that the env really has, or wrap the env so that it keeps to it",
)
def observations_are_members(subject: Subject) -> str:
    seen = 0
    with subject.session() as session:
        told, space = session.play(Move(True, SEED)), subject.observation_space
        for _ in range(60):
            layout = session.layout
            if layout.is_fixed:
                body = memoryview(bytearray(session.last_answer))[-layout.size_bytes :]
                obs = layout.row(body, 0)
            else:
                obs = told["obs"].get(0)
            assert obs in space, f"observation {seen} is {str(obs)[:200]}, no member of {str(space)[:200]}"
            _check_dtypes(space, obs, f"observation {seen}")
            _check_finals(subject, told["finals"])
            seen += 1
            ended = told["terminated"][0] or told["truncated"][0]
            told = session.play(Move(True) if ended else subject.sampled())
    return f"{seen} observations"


def _check_dtypes(space: Any, value: Any, name: str) -> None:
    """Of every array in a member; Gymnasium's `contains` also takes what could be cast."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.items():
            _check_dtypes(inner, value[key], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            _check_dtypes(inner, value[index], f"{name}[{index}]")
    elif isinstance(space, spaces.Sequence) and not space.stack:
        for index, item in enumerate(value):
            _check_dtypes(space.feature_space, item, f"{name}[{index}]")
    elif isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        assert value.dtype == space.dtype, f"{name} is of {value.dtype}, its space of {space.dtype}"


def _check_finals(subject: Subject, finals: list[Any]) -> None:
    for rows, content in finals:
        layout = BatchLayout(subject.observation_space, len(rows))
        assert len(content) == layout.end, f"final observations of {len(rows)} env(s) are {len(content)} bytes"
        for final in layout.rows(bytearray(content)):
            assert final in subject.observation_space, f"a final observation is {str(final)[:200]}, no member"


@_spaces("rewards, ends and infos are of Gymnasium's types", "see gymnasium.Env.step")
def gives_what_it_says(subject: Subject) -> str:
    subject.single()
    contract.env_gives_what_its_spaces_say(_single(subject), _single(subject))
    return "of VirtualEnv"


@_spaces("Gymnasium's own env checker passes on it", "see gymnasium.utils.env_checker.check_env")
def passes_the_checker(subject: Subject) -> str:
    subject.single()
    contract.env_passes_gymnasiums_checker(_single(subject), _single(subject))
    return "check_env on VirtualEnv"


def _as_gymnasium(mode: str) -> Look:
    def look(subject: Subject) -> str:
        subject.single()
        _deterministic(subject)
        num_envs = max(1, min(3, subject.description.free))
        make, member = _single(subject), autoreset_of(mode)[1]
        num_steps = 2 * _steps_to_an_end(subject) + 5

        def local() -> VectorEnv[Any, Any, Any]:
            return SyncVectorEnv([make] * num_envs, autoreset_mode=member)

        told = []
        for made in (_vector(subject, num_envs, mode), local):
            envs = made()
            try:
                told.append(contract.vector_trajectory(envs, num_steps))
            finally:
                envs.close()
        contract.assert_same(told[0], told[1], "what reset and steps gave")
        ends = sum(int((step[2] | step[3]).sum()) for step in told[0] if len(step) == 5)
        if not ends:
            raise Skip(f"no episode of {num_envs} env(s) ended within {num_steps} steps")
        return f"{num_envs} env(s), {num_steps} steps, {ends} ends: as SyncVectorEnv around single envs"

    return look


def _steps_to_an_end(subject: Subject) -> int:
    """How long a random episode is; Skip for one that does not end soon."""
    env, began = _single(subject)(), time.monotonic()
    try:
        env.action_space.seed(SEED)
        env.reset(seed=SEED)
        for step in range(1, _LONGEST_STEPS + 1):
            _, _, is_terminated, is_truncated, _ = env.step(env.action_space.sample())
            if is_terminated or is_truncated:
                return step
            if time.monotonic() - began > _LONGEST_S:
                break
    finally:
        env.close()
    raise Skip(f"no episode ended within {step} steps, so no autoreset was seen")


for _mode in AUTORESET_MODES:
    _autoreset(
        f"{_mode} is Gymnasium's, infos and final observations included",
        "carry the mode out as docs/protocol.md, Autoreset, says; Gymnasium's SyncVectorEnv is the reference",
    )(_as_gymnasium(_mode))


@_autoreset(
    "a step in mode disabled is refused while an ended env was not reset",
    "refuse it with the code misuse, is_final false: the reset bears the same seq",
)
def disabled_wants_a_reset(subject: Subject) -> str:
    subject.single()
    num_steps = _steps_to_an_end(subject)
    with subject.session(autoreset_mode="disabled") as session:
        subject.action_space.seed(SEED)
        session.play(Move(True, SEED))
        for _ in range(num_steps):
            told = session.play(subject.sampled())
            if told["terminated"][0] or told["truncated"][0]:
                session.refused(session.next_frame(subject.sampled()), "misuse", "a step of an ended env")
                session.play(Move(True))
                return "refused with misuse; the reset bore its seq"
    raise Skip("no episode ended")


@_autoreset(
    "an autoreset mode that a native vector env lacks is refused",
    "refuse open with the code config, naming the modes that it has",
)
def native_modes(subject: Subject) -> str:
    if not subject.is_native:
        raise Skip("not a native vector env: the server carries out every mode")
    socket = subject.connect()
    try:
        for mode in sorted({"none", *AUTORESET_MODES} - set(subject.env.autoreset_modes)):
            refused_opening(socket, Open(PROTOCOL_VERSION, subject.env.env_id, 1, mode), ("config",), mode)
    finally:
        socket.cut()
    return f"it has {', '.join(subject.env.autoreset_modes)}"


CLAIMS = [*_determinism.found, *_spaces.found, *_autoreset.found]
