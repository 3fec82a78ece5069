"""Observations on their way to the inference server, and actions back: one slot for each group of envs.

A slot's request number is the explorer's, its answer number the inference server's. A request that
was open when either of them died is answered by the next inference server, or passed over by the
next explorer, which asks under a new number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from multiserverrl.launch.bells import Bell, Waiter
from multiserverrl.train.channels import ActionRequest, Answer
from multiserverrl.train.task import Task

__all__ = ["SlotClient", "SlotServer", "slot_fields"]

Array = NDArray[Any]
Fields = Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
_EXTRAS = "extras."


def slot_fields(task: Task, num_envs: int, extras: Fields) -> Fields:
    """The arrays of one group's slot; `extras` as an algorithm declares them, of one env."""
    return {
        "asked": (np.int64, (1,)),
        "answered": (np.int64, (1,)),
        "version": (np.int64, (1,)),
        "obs": (task.obs_dtype, (num_envs, *task.obs_shape)),
        "begins": (np.bool_, (num_envs,)),
        "action": (task.action_dtype, (num_envs, *task.action_shape)),
        "played": (np.int64, (num_envs,)),  # episodes that each env has ended; the explorer's, but for a resume
        **{f"{_EXTRAS}{name}": (dtype, (num_envs, *shape)) for name, (dtype, shape) in extras.items()},
    }


class SlotClient:
    """An explorer's line for one group (`ActionClient`)."""

    def __init__(self, views: Mapping[str, Array], server: Bell, answer: Bell, stop: Bell) -> None:
        self._views, self._extras = views, _extras_of(views)
        self._server = server
        self._answer = Waiter(answer, stop)
        self._number = int(views["asked"][0])

    def request(self, obs: Array, begins: Array) -> None:
        """See `ActionClient.request`."""
        self._views["obs"][:], self._views["begins"][:] = obs, begins
        self._number += 1
        self._views["asked"][0] = self._number
        self._server.ring()

    def actions(self, timeout_s: float) -> Answer | None:
        """See `ActionClient.actions`."""
        return self._answer.until(self._answered, timeout_s)

    def _answered(self) -> Answer | None:
        if int(self._views["answered"][0]) != self._number:
            return None
        extras = {name: array.copy() for name, array in self._extras.items()}
        return Answer(self._views["action"].copy(), int(self._views["version"][0]), extras)


class SlotServer:
    """The inference server's end of all lines (`ActionServer`)."""

    def __init__(self, slots: Sequence[Mapping[str, Array]], server: Bell, answers: Sequence[Bell], stop: Bell) -> None:
        self._slots, self._extras = slots, [_extras_of(views) for views in slots]
        self._answers = answers
        self._waiter = Waiter(server, stop)
        self._handed_out = [int(views["answered"][0]) for views in slots]

    def requests(self, timeout_s: float) -> list[ActionRequest]:
        """See `ActionServer.requests`."""
        return self._waiter.until(self._new_requests, timeout_s) or []

    def answer(self, group: int, answer: Answer) -> None:
        """See `ActionServer.answer`."""
        views = self._slots[group]
        views["action"][:] = answer.actions
        views["version"][0] = answer.weights_version
        for name, array in answer.extras.items():
            self._extras[group][name][:] = array
        views["answered"][0] = self._handed_out[group]
        self._answers[group].ring()

    def _new_requests(self) -> list[ActionRequest] | None:
        found = []
        for group, views in enumerate(self._slots):
            asked = int(views["asked"][0])
            if asked != self._handed_out[group]:
                self._handed_out[group] = asked
                found.append(ActionRequest(group, views["obs"], views["begins"], self._extras[group]))
        return found or None


def _extras_of(views: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(_EXTRAS): view for name, view in views.items() if name.startswith(_EXTRAS)}
