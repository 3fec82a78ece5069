"""A shard: the envs of one lane that one env worker steps, and where their rows lie.

An env that raises loses only itself: it is made anew, and what happened stands in its info under
`multiserverrl`. Nothing here knows sockets.
"""

from __future__ import annotations

import contextlib
import copy
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector.utils import batch_space, iterate

from multiserverrl.errors import SpaceError
from multiserverrl.memory import Block
from multiserverrl.server.areas import Area
from multiserverrl.server.commands import Done, MakeShard
from multiserverrl.server.faults import ENV_ERRORS, FAULT_KEY, Absent, env_fault, fault_info, kept_of
from multiserverrl.server.laneblock import LaneBlock
from multiserverrl.server.steppers import Stepper, Steppers
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import BatchLayout, StepLayout
from multiserverrl.wire.messages import Finals
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import pack_tree

__all__ = ["Shard"]

Env = gymnasium.Env[Any, Any]


class Shard:
    """`count` envs at rows first … first+count of a lane; made from a `MakeShard` and a function that makes one env."""

    def __init__(self, spec: MakeShard, make: Callable[[], Env]) -> None:
        self.spec, self._make = spec, make
        self.envs: list[Env] = []
        block = Block.open(spec.block)  # first: where the lane is gone already, no env is made
        try:
            for _ in range(spec.count):
                self.envs.append(self._made())
        except BaseException:
            self.close()
            raise
        self._steppers = Steppers(self.envs)
        first = self.envs[0]
        self.needs_reset = [True] * spec.count
        self._unseen = set(range(spec.count))  # made, and never reset
        self.codec = ActionCodec(first.action_space, spec.num_envs)
        self._layout = StepLayout(first.observation_space, spec.num_envs)
        self.block = LaneBlock(block, self.codec, self._layout)
        self._loose_obs: dict[int, Any] = {}  # of this step, for spaces without a fixed size
        self._last_loose: dict[int, Any] = {}
        self._areas = [Area(self._layout, body, spec, self._loose_obs) for body in self.block.bodies]
        self._area = self._last = self._areas[0]
        self._actions = self._action_reader(self.codec)
        self._infos: dict[int, Any] = {}
        self._finals: list[tuple[int, Any]] = []
        self._check_final = self._final_checker()
        self._final_layouts: dict[int, BatchLayout] = {}
        self.is_behind = False  # this step's observations are still to be written
        self._observations: list[Any] = [None] * spec.count  # of this step, as are the next three
        self._rewards_now: list[Any] = [0.0] * spec.count
        self._terms: list[Any] = [False] * spec.count
        self._truncs: list[Any] = [False] * spec.count
        self._resets_next, self._resets_at_once = spec.autoreset_mode == "next_step", spec.autoreset_mode == "same_step"
        self._resetters: list[Stepper] = [partial(self._autoreset, index) for index in range(spec.count)]

    def write_to(self, area: int, *, keeps: bool = False) -> None:
        """Write the next answer to body 0 or 1; the last one stays whole. `keeps`: begin with its rows."""
        self._last, self._area = self._area, self._areas[area]
        if keeps and self._area is not self._last:
            self._area.body[:] = self._last.body
        self._area.has_ends = self._area.has_ends or keeps

    def _made(self) -> Env:
        env = self._make()
        described = describe_space(env.observation_space), describe_space(env.action_space)
        if described != (self.spec.env.observation_space, self.spec.env.action_space):
            env.close()
            raise SpaceError(f"{self.spec.env.env_id} made an env with other spaces than its first: {described}")
        return env

    def _action_reader(self, codec: ActionCodec) -> Callable[[], Sequence[Any]]:
        """A function that gives this shard's actions, one an env, off the block."""
        first, last = self.spec.first, self.spec.first + self.spec.count
        if codec.layout is None:
            return list
        arrays = codec.layout.arrays(self.block.buffer)
        if isinstance(codec.space, gymnasium.spaces.Discrete) and arrays[0].dtype == np.int64:  # as Python's int is
            mine = arrays[0][first:last]
            return mine.tolist
        batched, layout = batch_space(codec.space, self.spec.count), codec.layout
        is_single = self.spec.autoreset_mode == "none"

        def read() -> Sequence[Any]:
            own = bytearray(self.block.actions)  # the env may keep its action
            return layout.rows(own) if is_single else list(iterate(batched, _rows(layout.batch(own), first, last)))

        return read

    def step(self, actions: Sequence[Any] | None = None, *, may_lag: bool = False) -> Done:
        """Every env once; packed infos and packed observations without a fixed size.

        The rows are written after the last env has stepped, all at once (cheaper than
        one by one); until then the block holds the step before, which is what a fault falls back on.
        `may_lag`: observations may be left to `catch_up`, if nothing can go wrong with them any more (`is_behind`).
        """
        actions = self._actions() if actions is None else actions
        self._forget_unsent()
        steps = self._steppers.next_step()
        if self._resets_next and True in self.needs_reset:
            steps = list(steps)
            for index in [index for index, needed in enumerate(self.needs_reset) if needed]:
                steps[index] = self._resetters[index]
        told: list[Any] = []
        try:  # around the loop, not in it: one env's fault is the rare case
            for step, action in zip(steps, actions, strict=True):
                told.append(step(action))
            observations, rewards, terms, truncs, infos = _columns(told)
            is_plain = True not in terms and True not in truncs and not any(infos)
        except ENV_ERRORS as error:  # whatever an env raises is the client's to see
            self._take_each(told, error, steps, actions)
        else:
            self._observations, self._rewards_now, self._terms, self._truncs = observations, rewards, terms, truncs
            if not is_plain:
                for index, info in enumerate(infos):
                    if info or terms[index] or truncs[index]:
                        self._take(index, told[index])
        self._write_rows(may_lag)
        return self._packed()

    def catch_up(self) -> None:
        """Write the observations that the last step left."""
        if self.is_behind:
            self.is_behind = False
            self._area.stack(self._observations)

    def _take_each(self, told: list[Any], failure: BaseException, steps: list[Stepper], actions: Sequence[Any]) -> None:
        """The same, one by one: some env raised when `told` had come so far, or what one told is no step."""
        for index in range(self.spec.count):
            try:
                if index == len(told):
                    raise failure
                self._take(index, told[index] if index < len(told) else steps[index](actions[index]))
            except ENV_ERRORS as error:
                self._fault(index, error)

    def _take(self, index: int, told: Any) -> None:
        """What one env told of its step, and what follows the end of its episode."""
        try:
            obs, reward, is_terminated, is_truncated, info = told
            self._rewards_now[index], self._terms[index], self._truncs[index] = reward, is_terminated, is_truncated
            if is_terminated or is_truncated:
                self.needs_reset[index] = True
                if self._resets_at_once:
                    obs, info = self._ended(index, obs, info)
            self._observations[index] = obs
            if info:
                self._infos[self.spec.first + index] = info
        except ENV_ERRORS as error:
            self._fault(index, error)

    def _autoreset(self, index: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The step that is a reset; its action goes nowhere."""
        obs, info = self.envs[index].reset()
        self._began(index)
        self.needs_reset[index] = False
        return obs, 0.0, False, False, info

    def _ended(self, index: int, obs: Any, info: dict[Any, Any]) -> tuple[Any, dict[Any, Any]]:
        """Same-step autoreset: keep the final observation and info, reset; the next episode's first ones."""
        told: dict[Any, Any] = {"final_info": info} if info else {}
        final = obs.copy() if type(obs) is np.ndarray else copy.deepcopy(obs)  # the env may write over it
        self._check_final(0, final)
        obs, reset_info = self.envs[index].reset()
        self._steppers.began(index)
        if self._layout.is_fixed:
            self._finals.append((self.spec.first + index, final))
        else:
            told = {"final_obs": final, "final_info": info}
        return obs, {**told, **reset_info}

    def _final_checker(self) -> Callable[[int, Any], None]:
        """Writes a final observation nowhere: SpaceError for one that its space says otherwise of."""
        if not self._layout.is_fixed:
            return lambda row, final: None
        one = BatchLayout(self._layout.space, 1)
        return one.row_writer(bytearray(one.end), "final_obs")

    def _packed_finals(self) -> Finals | None:
        finals, self._finals = self._finals, []
        if not finals:
            return None
        count = len(finals)
        if count not in self._final_layouts:
            self._final_layouts[count] = BatchLayout(self._layout.space, count)
        content = bytearray(self._final_layouts[count].end)
        write = self._final_layouts[count].row_writer(content, "final_obs")
        for index, (_, final) in enumerate(finals):
            write(index, final)
        return Finals([row for row, _ in finals], bytes(content))

    def _forget_unsent(self) -> None:
        """What an operation that failed left behind must not go out with the next."""
        if self._infos or self._finals or self._loose_obs:
            self._infos, self._finals = {}, []
            self._loose_obs.clear()

    def _write_rows(self, may_lag: bool) -> None:
        """This step's rows into the block; an observation that its space says otherwise of is a fault of its env."""
        area = self._area
        self._write_numbers()
        if may_lag and area.fits(self._observations):
            self.is_behind = True
        elif not area.stack(self._observations):
            for index in range(self.spec.count):
                try:
                    area.write_obs(self.spec.first + index, self._observations[index])
                except SpaceError as error:
                    self._fault(index, error)
                    area.write_obs(self.spec.first + index, self._observations[index])
                    self._write_numbers()

    def _write_numbers(self) -> None:
        """Rewards and ends into the block; a reward that is no number is a fault of its env."""
        area = self._area
        try:
            area.pack_rewards(area.body, area.rewards_at, *self._rewards_now)
            has_ends = True in self._terms or True in self._truncs
            if has_ends or area.has_ends:
                area.terminated[...], area.truncated[...] = self._terms, self._truncs
        except (TypeError, ValueError, struct.error):
            for index in range(self.spec.count):
                self._check_numbers(index)
            area.rewards[...] = self._rewards_now
            area.terminated[...], area.truncated[...] = self._terms, self._truncs
            has_ends = True
        area.has_ends = has_ends

    def _check_numbers(self, index: int) -> None:
        try:
            self._rewards_now[index] = float(self._rewards_now[index])
            self._terms[index], self._truncs[index] = bool(self._terms[index]), bool(self._truncs[index])
        except (TypeError, ValueError) as error:
            self._fault(index, error)

    def reset(self, seeds: list[int | None] | None, options: Any, mask: bytes | None) -> Done:
        """Reset the envs that the mask names; EnvFault when one raises, with its traceback."""
        self._forget_unsent()
        area = self._area
        for index in range(self.spec.count):
            if mask is not None and not mask[index]:
                continue
            row = self.spec.first + index
            try:
                env = self.envs[index]
                obs, info = env.reset(seed=None if seeds is None else seeds[index], options=options)
                self._began(index)
                area.write_obs(row, obs)
            except ENV_ERRORS as error:
                self._rebuild(index)
                raise env_fault(error, row) from error
            self.needs_reset[index] = False
            area.rewards[index], area.terminated[index], area.truncated[index] = 0.0, False, False
            if info:
                self._infos[row] = info
        return self._packed()

    def render(self) -> bytes:
        """Packed {row: frame}; an env that was made anew, and not reset yet, begins an episode to be shown."""
        frames: dict[int, Any] = {}
        for index in range(self.spec.count):
            place = self.envs[index]
            if index in self._unseen:
                place.reset()
                self._began(index)
            frames[self.spec.first + index] = self.envs[index].render()
            if isinstance(place, Absent):  # shown, and still to be reset before it is stepped
                self._put_absent(index, place.error, self.envs[index])
        return pack_tree(frames)

    def _began(self, index: int) -> None:
        """The env was reset."""
        self._steppers.began(index)
        self._unseen.discard(index)

    def _renewed(self, index: int) -> None:
        """Another env stands in its place."""
        self._steppers.renewed(index)
        self._unseen.add(index)

    def call(self, kind: str, name: str, values: Any) -> bytes:
        """Packed {row: value} of an attribute got, set or called."""
        results = {}
        self._steppers.put_right()
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
            with contextlib.suppress(*ENV_ERRORS):
                env.close()
        self.envs, self._resetters = [], []  # which hold this shard, and so its block

    def _fault(self, index: int, error: BaseException) -> None:
        """The env raised: its last observation, reward 0, truncated; made anew, and reset in same_step."""
        row = self.spec.first + index
        last = self._last_observation(row)
        info: dict[str, Any] = {FAULT_KEY: fault_info(error)}
        self._rebuild(index)
        self._rewards_now[index], self._terms[index], self._truncs[index] = 0.0, False, True
        self._observations[index] = last
        if self.spec.autoreset_mode == "same_step":
            info = {"final_obs": last, "final_info": {}, **info}
            try:
                self._observations[index], reset_info = self.envs[index].reset()
                self._began(index)
                info.update(reset_info)
            except ENV_ERRORS as reset_error:
                self._put_absent(index, reset_error)
        self._infos[row] = info

    def _last_observation(self, row: int) -> Any:
        """A copy of what the block holds: the step before, while this one is not written."""
        return copy.deepcopy(
            self._layout.row(self._last.body, row) if self._layout.is_fixed else self._last_loose.get(row)
        )

    def _rebuild(self, index: int) -> None:
        with contextlib.suppress(*ENV_ERRORS):
            self.envs[index].close()
        try:
            self.envs[index] = env = self._made()
            self._renewed(index)
        except ENV_ERRORS as error:  # the other envs step on; this one is tried again when it is reset
            self._put_absent(index, error)
        else:
            if self.spec.autoreset_mode in ("none", "disabled"):  # nothing but a reset may follow
                self._put_absent(index, ResetNeeded("the env was made anew after a fault: reset() it first"), env)
        self.needs_reset[index] = True

    def _put_absent(self, index: int, error: BaseException, waiting: Env | None = None) -> None:
        """Until it is reset, the env's place answers with this error; `waiting` has been made already."""

        def make_again() -> Env:
            self.envs[index] = waiting or self._made()
            self._renewed(index)
            return self.envs[index]

        self.envs[index] = Absent(error, make_again)
        self._renewed(index)

    def _packed(self) -> Done:
        finals = self._packed_finals()
        infos, loose = self._infos, self._loose_obs
        observations = b""
        if loose:
            observations = pack_tree(dict(loose))
            self._last_loose.update(loose)
            loose.clear()
        if not infos:
            return Done(b"", observations, finals)
        self._infos = {}
        try:
            return Done(pack_tree(infos), observations, finals)
        except SpaceError:  # some value of some info cannot be carried: name it, keep the rest
            return Done(pack_tree({row: kept_of(info) for row, info in infos.items()}), observations, finals)


def _columns(told: list[Any]) -> Any:
    """The steps of all envs as five lists; ValueError where one is no step."""
    if len(told) == 1:
        obs, reward, terminated, truncated, info = told[0]
        return [obs], [reward], [terminated], [truncated], [info]
    observations, rewards, terms, truncs, infos = map(list, zip(*told, strict=True))
    return observations, rewards, terms, truncs, infos


def _rows(batch: Any, first: int, last: int) -> Any:
    if isinstance(batch, dict):
        return {key: _rows(inner, first, last) for key, inner in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_rows(inner, first, last) for inner in batch)
    assert isinstance(batch, np.ndarray)
    return batch[first:last]
