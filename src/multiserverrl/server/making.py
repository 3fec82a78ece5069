"""How an env worker makes an env: find its maker, make it, put the operator's wrappers around it, describe it.

Runs in env workers alone: it imports what the operator named, never what a client names.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import msgspec
from gymnasium.vector import AutoresetMode, VectorEnv

from multiserverrl.errors import ConfigError, EnvFault, MultiServerRLError, SpaceError
from multiserverrl.server.commands import MakeShard, Probe
from multiserverrl.server.config import WrapperConfig
from multiserverrl.server.envpool import EnvPoolVectorEnv, is_pool
from multiserverrl.server.faults import ENV_ERRORS, fault_info
from multiserverrl.server.sources import EnvMaker, find_env, find_vector_env, make_env
from multiserverrl.wire.arrays import is_fixed
from multiserverrl.wire.jsonvalues import to_json
from multiserverrl.wire.messages import AUTORESET_MODES, EnvInfo
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import unpack_tree

__all__ = ["Source"]

Env = gymnasium.Env[Any, Any]
Vector = VectorEnv[Any, Any, Any]
AnyEnv = TypeVar("AnyEnv", bound="Env | Vector")
_MODES = dict(
    zip((AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED), AUTORESET_MODES, strict=True)
)


@dataclass(frozen=True)
class Source:
    """Where a worker's envs come from: `wrappers` go around what an env id's maker makes of `env_arguments`.

    A client's arguments win over `env_arguments`. `vector`: native vector envs are wanted. `given` makes every env,
    in place of the maker that an id stands for.
    """

    wrappers: tuple[WrapperConfig, ...] = ()
    vector: bool = False
    env_arguments: dict[str, Any] = field(default_factory=dict)
    given: EnvMaker | None = None
    folder: Path = Path()  # where relative paths to files begin; an env may change the current one

    def maker(self, command: MakeShard | Probe) -> Callable[[], Env]:
        """A function that makes one env of the command's; EnvFault says where the env's own code failed."""
        env_id, arguments = self._asked(command)

        def make() -> Env:
            env = _made(
                env_id, lambda: make_env(self.given or find_env(env_id, self.folder), command.render_mode, arguments)
            )
            return self._wrapped(env, env_id, gymnasium.Env)

        return make

    def vector_maker(self, command: MakeShard | Probe) -> Callable[[int], Vector]:
        """A function that makes a native vector env of so many envs."""
        maker = self._find_vector(self._asked(command)[0])
        assert maker is not None  # as it was when it was described
        return self._vector_maker(command, maker)

    def probe(self, command: Probe) -> EnvInfo:
        """Make one env and describe it; SpaceError when it has a space that cannot be carried."""
        maker = _made(command.env_id, lambda: self._find_vector(command.env_id))
        if maker is None:
            env = self.maker(command)()
            try:
                return _described(command.env_id, env, env.observation_space, env.action_space, [])
            finally:
                env.close()
        envs = self._vector_maker(command, maker)(1)
        try:
            modes = [_autoreset_mode(command.env_id, envs)]
            spaces = envs.single_observation_space, envs.single_action_space
            if not all(map(is_fixed, spaces)):
                raise SpaceError(f"{command.env_id} is a native vector env of spaces without a fixed size: {spaces}")
            return _described(command.env_id, envs, *spaces, modes)
        finally:
            envs.close()

    def _asked(self, command: MakeShard | Probe) -> tuple[str, dict[str, Any]]:
        env_id = command.env_id if isinstance(command, Probe) else command.env.env_id
        return env_id, {**self.env_arguments, **(unpack_tree(command.arguments) if command.arguments else {})}

    def _find_vector(self, env_id: str) -> Callable[..., Vector] | None:
        if self.given is not None:
            given: Any = self.given
            return given if self.vector else None
        return find_vector_env(env_id, is_asked=self.vector, folder=self.folder)

    def _vector_maker(self, command: MakeShard | Probe, maker: Callable[..., Vector]) -> Callable[[int], Vector]:
        env_id, arguments = self._asked(command)
        shown = {} if command.render_mode is None else {"render_mode": command.render_mode}

        def make(num_envs: int) -> Vector:
            made = _made(env_id, lambda: maker(num_envs=num_envs, **shown, **arguments))
            envs = EnvPoolVectorEnv(made) if is_pool(made) else made
            if not isinstance(envs, VectorEnv):
                raise ConfigError(f"--vector: {env_id} made a {type(envs).__qualname__}, which is no VectorEnv")
            return self._wrapped(envs, env_id, VectorEnv)

        return make

    def _wrapped(self, env: AnyEnv, env_id: str, kind: type[Any]) -> AnyEnv:
        """The wrappers around it, the first the closest; ConfigError, and the env closed, when one cannot be."""
        for wrapper in self.wrappers:
            try:
                wrapped = _wrapper_class(wrapper.name)(env, **wrapper.arguments)
                if not isinstance(wrapped, kind):
                    raise TypeError(f"it gave a {type(wrapped).__qualname__}, which is no {kind.__name__}")
            except Exception as error:
                env.close()
                raise ConfigError(
                    f"--wrapper {wrapper.name} cannot be put around {env_id}: {type(error).__name__}: {error}"
                ) from error
            env = wrapped
        return env


Made = TypeVar("Made")


def _made(env_id: str, make: Callable[[], Made]) -> Made:
    """What `make` makes; EnvFault says where the env's own code failed."""
    try:
        return make()
    except MultiServerRLError:
        raise
    except ENV_ERRORS as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}, in {place.name}"
        told = fault_info(error)
        raise EnvFault(f"{env_id} cannot be made: {told['fault']} ({where})", told["traceback"]) from error


def _described(env_id: str, env: Env | Vector, observation_space: Any, action_space: Any, modes: list[str]) -> EnvInfo:
    spec = env.spec
    told = {str(key): value for key, value in (env.metadata or {}).items() if key != "autoreset_mode"}
    metadata = {key: to_json(value) for key, value in told.items()}
    return EnvInfo(
        env_id=env_id,
        observation_space=describe_space(observation_space, "the observation space"),
        action_space=describe_space(action_space, "the action space"),
        render_modes=[str(mode) for mode in metadata.get("render_modes") or []],
        metadata=msgspec.json.decode(msgspec.json.encode(metadata)),
        reward_threshold=None if spec is None else spec.reward_threshold,
        max_episode_steps=None if spec is None else spec.max_episode_steps,
        nondeterministic=False if spec is None else bool(spec.nondeterministic),
        autoreset_modes=modes,
    )


def _autoreset_mode(env_id: str, envs: Vector) -> str:
    mode = (envs.metadata or {}).get("autoreset_mode")
    if mode not in _MODES:
        raise ConfigError(
            f"{env_id} does not say how it resets its envs: metadata['autoreset_mode'] is {mode!r}, "
            "and must be a gymnasium.vector.AutoresetMode"
        )
    return _MODES[mode]


def _wrapper_class(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
