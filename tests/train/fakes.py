"""The channels of a training run inside one process, and a whole run on them: each role is a thread."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import COUNTERS, ActionRequest, Answer, Evaluation, RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.evaluate import run_evaluator
from multiserverrl.train.explorer import ExplorerGroup, run_explorer
from multiserverrl.train.inference import run_inference
from multiserverrl.train.learner import run_learner
from multiserverrl.train.replay import new_arrays
from multiserverrl.train.stores import store_layout
from multiserverrl.train.task import Task, task_of

HANGS_S = 240.0  # a run that takes seconds on a quiet machine


def store_arrays(config: TrainConfig, task: Task) -> dict[str, np.ndarray]:
    """What a run's store lies in, in this process's own memory."""
    return new_arrays(store_layout(config, algorithm_for(config, task)))


def fresh_weights(config: TrainConfig, task: Task, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of an algorithm of the DQN family, to act with."""
    return algorithm_for(config, task).fresh(np.random.default_rng(seed))  # type: ignore[attr-defined]


def plain_values(weights: dict[str, np.ndarray], obs: np.ndarray) -> np.ndarray:
    """(B, A) of a plain network, whose weights come layer by layer."""
    values = obs.reshape(len(obs), -1).astype(np.float32)
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for name in names:
        values = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        values = values if name == names[-1] else np.maximum(values, 0.0)
    return values


class FakeCounters:
    """All rows; `row` gives one process's end."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def row(self, process: str) -> FakeCounterRow:
        return FakeCounterRow(self, process)

    def get(self, name: str) -> float:
        assert name in COUNTERS
        return sum(row.get(name, 0.0) for row in list(self.rows.values()))


class FakeCounterRow:
    def __init__(self, counters: FakeCounters, process: str) -> None:
        self._counters, self._row = counters, counters.rows[process]

    def add(self, name: str, amount: float) -> None:
        assert name in COUNTERS
        self._row[name] += amount

    def set(self, name: str, value: float) -> None:
        assert name in COUNTERS
        self._row[name] = value

    def get(self, name: str) -> float:
        return self._counters.get(name)


class FakeRun:
    """Stop flag and start gate; `control` gives one process's end."""

    def __init__(self, needed: set[str]) -> None:
        self._needed, self._ready = needed, set[str]()
        self._changed = threading.Condition()
        self.is_stopped = False

    def control(self, process: str) -> FakeControl:
        return FakeControl(self, process)

    def stop(self) -> None:
        with self._changed:
            self.is_stopped = True
            self._changed.notify_all()

    def wait_until_stopped(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.is_stopped, timeout_s)

    def say_ready(self, process: str) -> None:
        with self._changed:
            self._ready.add(process)
            self._changed.notify_all()

    def wait_until_started(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.is_stopped or self._needed <= self._ready, 30.0)
            return not self.is_stopped


@dataclass
class FakeControl:
    run: FakeRun
    process: str

    def is_stopping(self) -> bool:
        return self.run.is_stopped

    def wait_until_started(self) -> bool:
        return self.run.wait_until_started()

    def ready(self) -> None:
        self.run.say_ready(self.process)


class FakeSteps:
    """Bounded; everything that passes is kept in `seen`."""

    def __init__(self, capacity: int = 2) -> None:
        self._queue: queue.Queue[RawSteps] = queue.Queue(capacity)

    def write(self, steps: RawSteps, timeout_s: float) -> bool:
        try:
            self._queue.put(copy.deepcopy(steps), timeout=timeout_s)
        except queue.Full:
            return False
        return True

    def settled(self, group: int, timeout_s: float) -> bool:
        return True  # the lock-step itself is tested on real channels

    def read(self, timeout_s: float) -> RawSteps | None:
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def done(self, group: int, number: int) -> None:
        pass

    def last_done(self) -> list[RawSteps]:
        return []


class ListedSteps:
    """A writer that only remembers, and stops the run after `stop_after` writes."""

    def __init__(self, run: FakeRun | None = None, stop_after: int = 0) -> None:
        self.written: list[RawSteps] = []
        self._run, self._stop_after = run, stop_after

    def write(self, steps: RawSteps, timeout_s: float) -> bool:
        self.written.append(copy.deepcopy(steps))
        if self._run is not None and len(self.written) >= self._stop_after:
            self._run.stop()
        return True

    def settled(self, group: int, timeout_s: float) -> bool:
        return True


class FakeActions:
    """Lines of all groups to the inference server."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, ActionRequest] = {}
        self._answers: dict[int, Answer] = {}
        self._extras: dict[int, dict[str, np.ndarray]] = {}

    def client(self, group: int) -> FakeActionClient:
        return FakeActionClient(self, group)

    def put_request(self, group: int, obs: np.ndarray, begins: np.ndarray) -> None:
        with self._changed:
            assert group not in self._waiting
            self._waiting[group] = ActionRequest(group, obs.copy(), begins.copy(), self._extras.get(group, {}))
            self._changed.notify_all()

    def take_answer(self, group: int, timeout_s: float) -> Answer | None:
        with self._changed:
            self._changed.wait_for(lambda: group in self._answers, timeout_s)
            return self._answers.pop(group, None)

    def requests(self, timeout_s: float) -> list[ActionRequest]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting), timeout_s)
            requests = list(self._waiting.values())
            self._waiting.clear()
            return requests

    def answer(self, group: int, answer: Answer) -> None:
        with self._changed:
            self._answers[group] = copy.deepcopy(answer)
            self._extras[group] = self._answers[group].extras
            self._changed.notify_all()


@dataclass
class FakeActionClient:
    lines: FakeActions
    group: int

    def request(self, obs: np.ndarray, begins: np.ndarray) -> None:
        self.lines.put_request(self.group, obs, begins)

    def actions(self, timeout_s: float) -> Answer | None:
        return self.lines.take_answer(self.group, timeout_s)


@dataclass
class ScriptedActions:
    """A client that is answered at once with `choose(obs)`."""

    choose: Callable[[np.ndarray], np.ndarray]
    version: int = 1
    _obs: np.ndarray | None = None

    def request(self, obs: np.ndarray, begins: np.ndarray) -> None:
        assert self._obs is None, "at most one request is open"
        self._obs = obs.copy()

    def actions(self, timeout_s: float) -> Answer | None:
        assert self._obs is not None, "no request is open"
        obs, self._obs = self._obs, None
        return Answer(np.asarray(self.choose(obs), np.int64), self.version)


class FakeWeights:
    def __init__(self) -> None:
        self._newest: tuple[dict[str, np.ndarray], int] | None = None

    def publish(self, weights: dict[str, np.ndarray], version: int) -> None:
        assert version > self.version()
        self._newest = ({name: array.copy() for name, array in weights.items()}, version)

    def version(self) -> int:
        return 0 if self._newest is None else self._newest[1]

    def read(self) -> tuple[dict[str, np.ndarray], int] | None:
        return copy.deepcopy(self._newest)


@dataclass
class ListedEvaluations:
    run: FakeRun
    stop_at: float = np.inf
    reported: list[Evaluation] = field(default_factory=list)

    def report(self, evaluation: Evaluation) -> None:
        self.reported.append(evaluation)
        if evaluation.mean >= self.stop_at:
            self.run.stop()


def local_envs(make: Callable[[], gymnasium.Env[Any, Any]], num_envs: int) -> gymnasium.vector.SyncVectorEnv:
    return gymnasium.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)


@dataclass
class Outcome:
    evaluations: list[Evaluation]
    counters: FakeCounters
    wall_s: float

    @property
    def best(self) -> float:
        return max((evaluation.mean for evaluation in self.evaluations), default=-np.inf)


def train_here(
    config: TrainConfig,
    make: Callable[[], gymnasium.Env[Any, Any]],
    num_envs: int,
    directory: Path,
    *,
    max_env_steps: float = np.inf,
    borrows_envs: bool = False,
) -> Outcome:
    """A whole run in threads: until the evaluation passes, episodes or env steps are used up, or it seems to hang."""
    run, counters, weights, steps, actions = (
        FakeRun({"learner", "inference"}), FakeCounters(), FakeWeights(), FakeSteps(), FakeActions(),
    )  # fmt: skip
    evaluations = ListedEvaluations(run, np.inf if config.stop_at_return is None else config.stop_at_return)
    with contextlib.closing(make()) as env:
        task = task_of(env.observation_space, env.action_space).stacked(config.frame_stack)
    sizes = {0: num_envs - num_envs // 2} | ({1: num_envs // 2} if num_envs > 1 else {})
    groups = [
        ExplorerGroup(number, lambda size=size: local_envs(make, size), actions.client(number))
        for number, size in sizes.items()
    ]

    def ends(process: str) -> tuple[FakeCounterRow, FakeControl]:
        return counters.row(process), run.control(process)

    roles = {
        "learner": lambda: run_learner(config, task, steps, weights, *ends("learner"), directory / "checkpoints"),
        "inference": lambda: run_inference(config, task, sizes, actions, weights, *ends("inference")),
        "explorer": lambda: run_explorer(config, task, groups, steps, *ends("explorer"), lends_envs=borrows_envs),
        "evaluator": lambda: run_evaluator(
            config, task, lambda: local_envs(make, config.eval_episodes), weights, evaluations, *ends("evaluator"),
            policy_path=directory / "policy.safetensors", borrows_envs=borrows_envs,
        ),
    }  # fmt: skip
    began_s = time.monotonic()
    with _threads(roles, run):
        while not run.wait_until_stopped(0.05):
            if (
                time.monotonic() - began_s > HANGS_S
                or counters.get("env_steps") >= max_env_steps
                or counters.get("explorers_finished")
            ):
                run.stop()
    return Outcome(evaluations.reported, counters, time.monotonic() - began_s)


@contextlib.contextmanager
def _threads(roles: dict[str, Callable[[], None]], run: FakeRun) -> Iterator[None]:
    """Run every role in a thread; one that raises stops the run, and its error rises here."""
    errors: list[BaseException] = []

    def guarded(role: Callable[[], None]) -> None:
        try:
            role()
        except BaseException as error:  # it rises in the test, below
            errors.append(error)
            run.stop()

    threads = [threading.Thread(target=guarded, args=(role,), name=name) for name, role in roles.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        run.stop()
        for thread in threads:
            thread.join(20.0)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def quick_config(**settings: Any) -> TrainConfig:
    return replace(TrainConfig(hidden="32", eval_episodes=4, warmup_steps=64, buffer_size=2000), **settings)
