"""Where an environment comes from: a registered Gymnasium id, `module:Env-v0`, `path/to/file.py:EnvClass`, or
`envpool:Task-v0`.

Runs in env workers alone: it imports what the operator named, never what a client names.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RenderCollection

from multiserverrl.errors import ConfigError, UnknownEnvError
from multiserverrl.server.envpool import find_pool, is_pool

__all__ = ["EnvMaker", "find_env", "find_vector_env", "make_env"]

EnvMaker = Callable[..., "gymnasium.Env[Any, Any]"]
VectorMaker = Callable[..., "VectorEnv[Any, Any, Any]"]

_OLD_GYM = (
    "{name} is an environment of the old `gym`; wrap it for Gymnasium with shimmy "
    "(pip install 'shimmy[gym-v26]'; shimmy.GymV26CompatibilityV0, or GymV21CompatibilityV0 for older ones) "
    "and serve the wrapped one"
)


def find_env(env_id: str, folder: Path = Path()) -> EnvMaker:
    """A function that makes the environment; UnknownEnvError with close matches, or ConfigError.

    A relative path to a file begins at `folder`.
    """
    before, separator, name = env_id.rpartition(":")
    if separator and before.endswith(".py"):
        return _checked_class(getattr(_load_file(before, folder), name, None), env_id, before, name)
    if separator:
        module = _import(before, env_id)
        if name not in gymnasium.registry and hasattr(module, name):
            return _checked_class(getattr(module, name), env_id, before, name)
    if name not in gymnasium.registry:
        _refuse(env_id, name)

    spec = copy.deepcopy(gymnasium.spec(name))
    spec.order_enforce = False  # the lane sees to it that an env is reset first: a call less in every step

    def make(**arguments: Any) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(spec, disable_env_checker=True, **arguments)

    return make


def find_vector_env(env_id: str, *, is_asked: bool, folder: Path = Path()) -> VectorMaker | None:
    """A function that makes a native vector env of `num_envs` envs; None where the env id makes single envs.

    Native is what has no other way to be made, and what is asked to be; ConfigError when it has no such way.
    """
    before, separator, name = env_id.rpartition(":")
    if before == "envpool":
        return find_pool(name)
    if separator:
        module = _load_file(before, folder) if before.endswith(".py") else _import(before, env_id)
        found: Any = getattr(module, name, None)
        if callable(found) and name not in gymnasium.registry:
            is_native = is_asked or (isinstance(found, type) and issubclass(found, VectorEnv))
            maker: VectorMaker | None = found if is_native else None
            return maker
    if name not in gymnasium.registry:
        return None
    spec = gymnasium.spec(name)
    if spec.vector_entry_point is None and is_asked:
        raise ConfigError(f"{env_id} has no vector_entry_point: serve it without --vector")
    if spec.vector_entry_point is None or not (is_asked or spec.entry_point is None):
        return None

    def make(num_envs: int, **arguments: Any) -> VectorEnv[Any, Any, Any]:
        return gymnasium.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **arguments)

    return make


def make_env(maker: EnvMaker, render_mode: str | None, arguments: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make it; a render mode is passed on only when one is asked for.

    Lists of frames (`rgb_array_list`) are collected for an env that only gives single ones, as gymnasium.make does.
    """
    single = None if render_mode is None else render_mode.removesuffix("_list")
    env = maker(**arguments) if single is None else maker(render_mode=single, **arguments)
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(_OLD_GYM.format(name=type(env).__qualname__))
    if is_pool(env):
        raise ConfigError(f"a {type(env).__name__} is many envs: serve with --vector what makes it of num_envs")
    if render_mode == single:
        return env
    if render_mode not in env.metadata.get("render_modes", ()):
        return RenderCollection(env)
    env.close()
    return maker(render_mode=render_mode, **arguments)


def _import(module: str, env_id: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnknownEnvError(
            f"{env_id}: module {module!r} cannot be imported ({error}); start the server where it can be"
        ) from error


def _load_file(path: str, folder: Path) -> Any:
    file = folder / path
    if not file.is_file():
        raise UnknownEnvError(f"there is no file {path}")
    name = f"multiserverrl_served_{file.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(file.resolve()):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.resolve().parent))  # what lies beside the file can be imported by it
    spec.loader.exec_module(module)
    return module


def _checked_class(found: Any, env_id: str, where: str, name: str) -> EnvMaker:
    if found is None:
        raise UnknownEnvError(f"{env_id}: {where} has no class {name}")
    if isinstance(found, type) and not issubclass(found, gymnasium.Env):
        if any(base.__module__.partition(".")[0] == "gym" for base in found.__mro__):
            raise ConfigError(_OLD_GYM.format(name=name))
        raise ConfigError(f"{env_id}: {name} is not a gymnasium.Env")
    if not callable(found):
        raise ConfigError(f"{env_id}: {name} is not a class, nor a function that makes an environment")
    maker: EnvMaker = found
    return maker


def _refuse(env_id: str, name: str) -> None:
    old = sys.modules.get("gym")
    if old is not None and name in getattr(getattr(old, "envs", None), "registry", {}):
        raise ConfigError(_OLD_GYM.format(name=env_id))
    close = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.6)
    module = f"ale_py:{name}" if name.startswith("ALE/") else "module:Env-v0"
    hint = f"give its module ({module}) or file (file.py:EnvClass)"
    if name != env_id:
        hint = f"{env_id.rpartition(':')[0]} registers none so named: make it in a file (file.py:function)"
    if close:
        hint = f"did you mean {', '.join(close)}?"
    raise UnknownEnvError(f"no environment {env_id} is registered with Gymnasium; {hint}")
