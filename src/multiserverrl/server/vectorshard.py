"""A native vector env as a shard: one env of its own that steps all rows of a lane at once.

It carries out the one autoreset mode that it has, and its infos travel whole, as it gives them. When
it raises, all of its episodes are gone: it is made anew, and what happened stands in every row's info.
Nothing here knows sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import VectorEnv

from multiserverrl.errors import EnvFault, MisuseError, SpaceError
from multiserverrl.memory import Block
from multiserverrl.server.commands import Done, MakeShard
from multiserverrl.server.faults import ENV_ERRORS, FAULT_KEY, fault_info
from multiserverrl.server.laneblock import LaneBlock
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout, fit, flatten
from multiserverrl.wire.messages import WHOLE_LANE
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import carriable, pack_tree

__all__ = ["VectorShard"]

Vector = VectorEnv[Any, Any, Any]


class VectorShard:
    """All envs of one lane; made from a `MakeShard` and a function that makes a vector env of so many."""

    def __init__(self, spec: MakeShard, make: Callable[[int], Vector]) -> None:
        self.spec, self._make = spec, make
        self._env: Vector | None = None
        block = Block.open(spec.block)  # first: where the lane is gone already, no env is made
        env = self._ready()
        self._needs_reset = True
        self.codec = ActionCodec(env.single_action_space, spec.num_envs)
        assert self.codec.layout is not None  # others are refused when the env is described
        self._action_layout = self.codec.layout
        self._layout = layout = StepLayout(env.single_observation_space, spec.num_envs)
        self._leaves = [leaf._replace(shape=(spec.num_envs, *leaf.shape)) for leaf in layout.leaves]
        self.block = LaneBlock(block, self.codec, layout)
        self._areas = [
            (layout.arrays(body), (layout.rewards(body), layout.terminated(body), layout.truncated(body)))
            for body in self.block.bodies
        ]
        self.is_behind = False  # never: it writes all of a step at once
        self._area = 0
        self._body = self.block.bodies[0]  # the last one that is whole
        self._observations, self._numbers = self._areas[0]  # of the one that is written next

    def write_to(self, area: int, *, keeps: bool = False) -> None:
        """Write the next answer to body 0 or 1; the last one stays whole. `keeps`: begin with its rows."""
        self._body = self.block.bodies[self._area]
        self._area = area
        self._observations, self._numbers = self._areas[area]
        if keeps:
            self.block.bodies[area][:] = self._body

    def step(self, actions: object = None, *, may_lag: bool = False) -> Done:
        """All envs once, on the actions in the block; after a fault in `next_step`, the reset that follows it."""
        try:
            if self._needs_reset:
                if self.spec.autoreset_mode == "disabled":
                    raise ResetNeeded("the env was made anew after a fault: reset() it first")
                observations, infos = self._ready().reset()
                self._write(observations, 0.0, False, False)
                self._needs_reset = False
            else:
                batch = self._action_layout.batch(bytearray(self.block.actions))
                observations, rewards, terminated, truncated, infos = self._ready().step(batch)
                self._write(observations, rewards, terminated, truncated)
        except ENV_ERRORS as error:  # whatever the env raises is the client's to see
            return self._fault(error)
        return _done(infos)

    def catch_up(self) -> None:
        """Nothing is left behind."""

    def reset(self, seeds: list[int | None] | None, options: Any, mask: bytes | None) -> Done:
        """Reset the envs that the mask names; EnvFault when the env raises, which is then made anew."""
        rows = slice(None) if mask is None or all(mask) else np.frombuffer(mask, np.bool_)
        if isinstance(rows, np.ndarray):
            if self._needs_reset:
                raise MisuseError("the env was made anew after a fault: reset() all of its envs")
            options = {**(options or {}), "reset_mask": rows.copy()}
        try:
            observations, infos = self._ready().reset(seed=_seed(seeds), options=options)
            rewards, terminated, truncated = (numbers.copy() for numbers in self._numbers)
            rewards[rows], terminated[rows], truncated[rows] = 0.0, False, False
            self._write(observations, rewards, terminated, truncated)
        except ENV_ERRORS as error:
            self._give_up()
            told = fault_info(error)
            raise EnvFault(f"the vector env raised {told['fault']}", told["traceback"]) from error
        self._needs_reset = False
        return _done(infos)

    def render(self) -> bytes:
        """Packed {row: frame}; an env that was made anew, and not reset yet, begins an episode to be shown."""
        env = self._ready()
        if self._needs_reset:
            env.reset()
        frames: Any = env.render()
        return pack_tree(dict(enumerate(frames or ())))

    def call(self, kind: str, name: str, values: Any) -> bytes:
        """Packed {row: value} of an attribute got, set or called; a value that is not one a row is the same for all."""
        wrapped: Any = self._ready()
        env = wrapped.unwrapped
        if kind == "set":
            if not hasattr(env, "set_attr"):
                raise MisuseError(f"{type(env).__name__} has no set_attr")
            env.set_attr(name, values)
            return pack_tree({})
        if hasattr(env, "call"):
            found = env.call(name, *values[0], **values[1]) if kind == "call" else env.get_attr(name)
        else:
            found = getattr(wrapped if hasattr(wrapped, name) else env, name)
            found = found(*values[0], **values[1]) if kind == "call" and callable(found) else found
        if not isinstance(found, (tuple, list, np.ndarray)) or len(found) != self.spec.num_envs:
            found = [found] * self.spec.num_envs
        return pack_tree(dict(enumerate(found)))

    def close(self) -> None:
        """Close the env."""
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(*ENV_ERRORS):
                env.close()

    def _ready(self) -> Vector:
        """The env; made, where there is none."""
        if self._env is None:
            env, told = self._make(self.spec.num_envs), self.spec.env
            described = describe_space(env.single_observation_space), describe_space(env.single_action_space)
            if env.num_envs != self.spec.num_envs or described != (told.observation_space, told.action_space):
                env.close()
                raise SpaceError(
                    f"{told.env_id} made {env.num_envs} envs of {described} where {self.spec.num_envs} "
                    "of the spaces of its first were asked for"
                )
            self._env = env
        return self._env

    def _write(self, observations: Any, *numbers: Any) -> None:
        """One step into the block; SpaceError, ValueError or TypeError, with the observations as they were."""
        is_one = len(self._leaves) == 1 and not self._leaves[0].path
        values = [observations] if is_one else flatten(self._layout.space, observations, "obs")
        parts = [
            value
            if type(value) is np.ndarray and value.dtype == leaf.dtype and value.shape == leaf.shape
            else fit(leaf, value, "obs")
            for leaf, value in zip(self._leaves, values, strict=True)
        ]
        for view, column in zip(self._numbers, numbers, strict=True):
            view[...] = column
        for view, part in zip(self._observations, parts, strict=True):
            view[...] = part

    def _fault(self, error: BaseException) -> Done:
        """Every env ends: its last observation, reward 0, truncated; made anew, and reset in same_step."""
        last = self._layout.rows(bytearray(self._body))
        self.block.bodies[self._area][:] = self._body
        infos: dict[int, dict[str, Any]] = {row: {FAULT_KEY: fault_info(error)} for row in range(self.spec.num_envs)}
        self._give_up()
        if self.spec.autoreset_mode == "same_step":
            infos = {row: {"final_obs": last[row], "final_info": {}, **info} for row, info in infos.items()}
            with contextlib.suppress(*ENV_ERRORS):  # tried again, and told of, in the next step
                self._write(self._ready().reset()[0], 0.0, False, True)
                self._needs_reset = False
        rewards, terminated, truncated = self._numbers
        rewards[:], terminated[:], truncated[:] = 0.0, False, True
        return Done(pack_tree(infos))

    def _give_up(self) -> None:
        self.close()
        self._needs_reset = True


def _seed(seeds: list[int | None] | None) -> Any:
    """One number where the envs' seeds follow it (Gymnasium's meaning of one number), else the list."""
    if seeds is None or all(seed is None for seed in seeds):
        return None
    first = seeds[0]
    return first if first is not None and seeds == list(range(first, first + len(seeds))) else seeds


def _done(infos: dict[str, Any]) -> Done:
    if not infos:
        return Done()
    try:
        return Done(pack_tree({WHOLE_LANE: infos}))
    except SpaceError:
        kept, dropped = carriable(infos)
        return Done(pack_tree({WHOLE_LANE: {**kept, FAULT_KEY: {"not_carried": ", ".join(dropped)}}}))
