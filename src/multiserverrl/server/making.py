"""How an env worker makes an env: find its maker, make it, put the operator's wrappers around it, describe it.

Runs in env workers alone: it imports what the operator named, never what a client names.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import msgspec

from multiserverrl.errors import ConfigError, EnvFault, MultiServerRLError
from multiserverrl.server.commands import MakeShard, Probe
from multiserverrl.server.config import WrapperConfig
from multiserverrl.server.sources import EnvMaker, find_env, make_env
from multiserverrl.wire.jsonvalues import to_json
from multiserverrl.wire.messages import EnvInfo
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import unpack_tree

__all__ = ["Source"]

Env = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class Source:
    """Where a worker's envs come from: `find` gives an env id's maker, `wrappers` go around what it makes."""

    wrappers: tuple[WrapperConfig, ...] = ()
    find: Callable[[str], EnvMaker] = find_env

    def maker(self, command: MakeShard | Probe) -> Callable[[], Env]:
        """A function that makes one env of the command's; EnvFault says where the env's own code failed."""
        env_id = command.env_id if isinstance(command, Probe) else command.env.env_id
        arguments = unpack_tree(command.arguments) if command.arguments else {}

        def make() -> Env:
            try:
                env = make_env(self.find(env_id), command.render_mode, arguments)
            except MultiServerRLError:
                raise
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}, line {place.lineno}, in {place.name}"
                raise EnvFault(
                    f"{env_id} cannot be made: {type(error).__name__}: {error} ({where})",
                    "".join(traceback.format_exception(error)),
                ) from error
            return self._wrapped(env, env_id)

        return make

    def probe(self, command: Probe) -> EnvInfo:
        """Make one env and describe it; SpaceError when it has a space that cannot be carried."""
        env = self.maker(command)()
        try:
            spec = env.spec
            metadata = {str(key): to_json(value) for key, value in (env.metadata or {}).items()}
            return EnvInfo(
                env_id=command.env_id,
                observation_space=describe_space(env.observation_space, "the observation space"),
                action_space=describe_space(env.action_space, "the action space"),
                render_modes=[str(mode) for mode in metadata.get("render_modes") or []],
                metadata=msgspec.json.decode(msgspec.json.encode(metadata)),
                reward_threshold=None if spec is None else spec.reward_threshold,
                max_episode_steps=None if spec is None else spec.max_episode_steps,
                nondeterministic=False if spec is None else bool(spec.nondeterministic),
            )
        finally:
            env.close()

    def _wrapped(self, env: Env, env_id: str) -> Env:
        """The wrappers around it, the first the closest; ConfigError, and the env closed, when one cannot be."""
        for wrapper in self.wrappers:
            try:
                wrapped = _wrapper_class(wrapper.name)(env, **wrapper.arguments)
                if not isinstance(wrapped, gymnasium.Env):
                    raise TypeError(f"it gave a {type(wrapped).__qualname__}, which is no gymnasium.Env")
            except Exception as error:
                env.close()
                raise ConfigError(
                    f"--wrapper {wrapper.name} cannot be put around {env_id}: {type(error).__name__}: {error}"
                ) from error
            env = wrapped
        return env


def _wrapper_class(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
