"""A shard: the envs of one lane that one env worker steps, and where their rows lie.

An env that raises loses only itself: it is made anew, and what happened stands in its info under
`multiserverrl`. Nothing here knows sockets.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from multiserverrl.errors import EnvFault, SpaceError
from multiserverrl.memory import Block
from multiserverrl.server.commands import MakeShard, body_offset
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import carriable, pack_tree

__all__ = ["Shard"]

Env = gymnasium.Env[Any, Any]
_FAULT_KEY = "multiserverrl"


class Shard:
    """`count` envs at rows first … first+count of a lane; made from a `MakeShard` and a function that makes one env."""

    def __init__(self, spec: MakeShard, make: Callable[[], Env]) -> None:
        self.spec, self._make = spec, make
        self.envs: list[Env] = []
        try:
            for _ in range(spec.count):
                self.envs.append(self._made())
        except BaseException:
            self.close()
            raise
        first = self.envs[0]
        self.needs_reset = [True] * spec.count
        codec = ActionCodec(first.action_space, spec.num_envs)
        layout = StepLayout(first.observation_space, spec.num_envs)
        self._block = Block.open(spec.block)
        body = self._block.buffer[body_offset(codec) :]
        self._rewards, self._terminated, self._truncated = (
            layout.rewards(body),
            layout.terminated(body),
            layout.truncated(body),
        )
        self._layout, self._body = layout, body
        self._loose_obs: dict[int, Any] = {}  # of this step, for spaces without a fixed size
        self._last_loose: dict[int, Any] = {}
        self._write_obs = layout.row_writer(body, "obs") if layout.is_fixed else self._loose_obs.__setitem__
        self._actions = self._action_reader(codec)
        self._infos: dict[int, Any] = {}

    def _made(self) -> Env:
        env = self._make()
        described = describe_space(env.observation_space), describe_space(env.action_space)
        if described != (self.spec.env.observation_space, self.spec.env.action_space):
            env.close()
            raise SpaceError(f"{self.spec.env.env_id} made an env with other spaces than its first: {described}")
        return env

    def _action_reader(self, codec: ActionCodec) -> Callable[[], Iterable[Any]]:
        """A function that gives this shard's actions, one an env, off the block."""
        first, last = self.spec.first, self.spec.first + self.spec.count
        if codec.layout is None:
            return list
        arrays = codec.layout.arrays(self._block.buffer)
        if isinstance(codec.space, gymnasium.spaces.Discrete):
            mine = arrays[0][first:last]
            return mine.tolist
        batched, layout = batch_space(codec.space, self.spec.count), codec.layout

        def read() -> Iterable[Any]:
            batch = layout.batch(bytearray(self._block.buffer[: layout.end]))  # the env may keep its action
            return iterate(batched, _rows(batch, first, last))

        return read

    def step(self, actions: Iterable[Any] | None = None) -> tuple[bytes, bytes]:
        """Every env once; packed infos and packed observations without a fixed size."""
        mode = self.spec.autoreset_mode
        first, needs_reset, may_reset = self.spec.first, self.needs_reset, mode == "next_step"
        rewards, terminated, truncated, write_obs = self._rewards, self._terminated, self._truncated, self._write_obs
        for index, (env, action) in enumerate(zip(self.envs, self._actions() if actions is None else actions, strict=True)):
            row = first + index
            try:
                if may_reset and needs_reset[index]:
                    obs, info = env.reset()
                    reward, is_terminated, is_truncated = 0.0, False, False
                else:
                    obs, reward, is_terminated, is_truncated, info = env.step(action)  # type: ignore[assignment]
                if is_terminated or is_truncated:
                    needs_reset[index] = True
                    if mode == "same_step":
                        info = {"final_obs": copy.deepcopy(obs), "final_info": info}
                        obs, reset_info = env.reset()
                        info.update(reset_info)
                else:
                    needs_reset[index] = False
                write_obs(row, obs)
                rewards[row], terminated[row], truncated[row] = reward, is_terminated, is_truncated
                if info:
                    self._infos[row] = info
            except Exception as error:  # whatever the env raises is the client's to see
                self._fault(index, error)
        return self._packed()

    def reset(self, seeds: list[int | None] | None, options: Any, mask: bytes | None) -> tuple[bytes, bytes]:
        """Reset the envs that the mask names; EnvFault when one raises, with its traceback."""
        for index in range(self.spec.count):
            if mask is not None and not mask[index]:
                continue
            row = self.spec.first + index
            try:
                env = self.envs[index]
                obs, info = env.reset(seed=None if seeds is None else seeds[index], options=options)
                self._write_obs(row, obs)
            except Exception as error:
                self._rebuild(index)
                raise _env_fault(error, row) from error
            self.needs_reset[index] = False
            self._rewards[row], self._terminated[row], self._truncated[row] = 0.0, False, False
            if info:
                self._infos[row] = info
        return self._packed()

    def render(self) -> bytes:
        """Packed {row: frame}."""
        return pack_tree({self.spec.first + index: env.render() for index, env in enumerate(self.envs)})

    def call(self, kind: str, name: str, values: Any) -> bytes:
        """Packed {row: value} of an attribute got, set or called."""
        results = {}
        for index, env in enumerate(self.envs):
            row = self.spec.first + index
            if kind == "set":
                env.set_wrapper_attr(name, values[row])
                continue
            found = env.get_wrapper_attr(name)
            results[row] = found(*values[0], **values[1]) if kind == "call" and callable(found) else found
        return pack_tree(results)

    def close(self) -> None:
        """Close the envs; one that raises does not keep the others."""
        for env in self.envs:
            with contextlib.suppress(Exception):
                env.close()
        self.envs = []

    def _fault(self, index: int, error: Exception) -> None:
        """The env raised: its last observation, reward 0, truncated; made anew, and reset in same_step."""
        row = self.spec.first + index
        # the row of the last step is untouched: it is written only after everything went well
        last = copy.deepcopy(self._layout.row(self._body, row) if self._layout.is_fixed else self._last_loose.get(row))
        info: dict[str, Any] = {_FAULT_KEY: fault_info(error)}
        self._rebuild(index)
        self._rewards[row], self._terminated[row], self._truncated[row] = 0.0, False, True
        if self.spec.autoreset_mode == "same_step":
            info = {"final_obs": last, "final_info": {}, **info}
            obs, reset_info = self.envs[index].reset()
            info.update(reset_info)
            self._write_obs(row, obs)
        elif not self._layout.is_fixed:
            self._write_obs(row, last)
        self._infos[row] = info

    def _rebuild(self, index: int) -> None:
        with contextlib.suppress(Exception):
            self.envs[index].close()
        self.envs[index] = self._made()
        self.needs_reset[index] = True

    def _packed(self) -> tuple[bytes, bytes]:
        infos, loose = self._infos, self._loose_obs
        observations = b""
        if loose:
            observations = pack_tree(dict(loose))
            self._last_loose.update(loose)
            loose.clear()
        if not infos:
            return b"", observations
        self._infos = {}
        try:
            return pack_tree(infos), observations
        except SpaceError:  # some value of some info cannot be carried: name it, keep the rest
            return pack_tree({row: _kept(info) for row, info in infos.items()}), observations


def fault_info(error: BaseException) -> dict[str, str]:
    """What a caller is told of an env that raised."""
    return {
        "fault": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _env_fault(error: Exception, row: int) -> EnvFault:
    told = fault_info(error)
    return EnvFault(f"env {row} raised {told['fault']}", told["traceback"])


def _kept(info: dict[Any, Any]) -> dict[Any, Any]:
    kept, dropped = carriable(info)
    return {**kept, _FAULT_KEY: {**kept.get(_FAULT_KEY, {}), "not_carried": ", ".join(dropped)}} if dropped else kept


def _rows(batch: Any, first: int, last: int) -> Any:
    if isinstance(batch, dict):
        return {key: _rows(inner, first, last) for key, inner in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_rows(inner, first, last) for inner in batch)
    assert isinstance(batch, np.ndarray)
    return batch[first:last]
