"""Whole training runs through real processes, on envs in the explorers themselves: no server, quick, all else real."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import psutil
import pytest

from multiserverrl.errors import CheckpointError, ConfigError, RunError, ServerUnreachable
from multiserverrl.launch import cast, roles
from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.evaluating import evaluate
from multiserverrl.launch.progress import Silence
from multiserverrl.launch.records import resumed_settings
from multiserverrl.launch.roles import Role, RunPlan
from multiserverrl.launch.status import Status
from multiserverrl.launch.training import Outcome, train
from multiserverrl.observe import loggers
from multiserverrl.observe.metrics import read_metrics
from multiserverrl.observe.rundir import RunDir
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import RunningServer, start_server
from multiserverrl.train.algorithms.schedules import epsilon_at
from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.config import TrainConfig
from run_process import limit_files

# a policy that stays bad has short episodes
TINY = TrainConfig(
    hidden="16", warmup_steps=50, buffer_size=1000, eval_episodes=4, stop_at_return=1e9, learning_rate=1e-6
)


class Script(Silence):
    """A progress that does something at the first status in which env steps are counted, and notes all lines."""

    every_s = 0.0

    def __init__(
        self, act: Callable[[], None] = lambda: None, when: Callable[[Status], bool] = lambda status: True
    ) -> None:
        self._act, self._when = act, when
        self.has_acted = False
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, status: Status) -> None:
        if not self.has_acted and status.env_steps > 0 and self._when(status):
            self.has_acted = True
            self._act()


def train_in(path: Path, config: TrainConfig, progress: Silence | None = None, *, resume: bool = False) -> Outcome:
    where = {"resume": str(path)} if resume else {"run_dir": str(path)}
    return train(LaunchConfig("CartPole-v1", count=4, is_local=True, **where), config, progress or Silence())


def kill_child(role: str) -> None:
    """SIGKILL to the one child that plays this role."""
    child_of(role).kill()


def signal_child(role: str, number: signal.Signals) -> None:
    child_of(role).send_signal(number)


def child_of(role: str) -> psutil.Process:
    """The child that plays this role: the youngest, for servers of other tests may stand beside this one."""
    return max((child for child in psutil.Process().children() if plays(child, role)), key=psutil.Process.create_time)


def plays(child: psutil.Process, role: str) -> bool:
    try:
        return any(role in word for word in child.cmdline())
    except psutil.ZombieProcess:
        return False


def end_for_good(server: RunningServer) -> None:
    """The fronts killed, their ports closed, as when the parent is killed."""
    for front in server._fronts:
        front.child.kill()
        front.listener.close()


def impatient(most_restarts: int) -> Callable[[RunPlan], list[Role]]:
    """The cast, with another limit."""
    return lambda plan: [replace(role, most_restarts=most_restarts) for role in roles.cast_of(plan)]


def open_descriptors() -> dict[str, str]:
    """What each open descriptor of this process is of."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> object:
    before = psutil.Process().children(recursive=True)  # a server that other tests share, say
    gc.collect()  # what earlier tests left to it
    descriptors = open_descriptors()
    yield
    gc.collect()  # an error's frames hold views of the channels
    assert [child for child in psutil.Process().children(recursive=True) if child not in before] == []
    assert open_descriptors() == descriptors


def test_a_run_ends_when_its_greedy_return_is_reached_and_keeps_the_weights_that_reached_it(tmp_path: Path) -> None:
    shown: list[Status] = []
    progress = Script(when=lambda status: bool(shown.append(status)))
    outcome = train_in(tmp_path / "run", TrainConfig(stop_at_return=12.0, eval_episodes=4), progress)
    result = outcome.result
    assert outcome.exit_code == 0
    assert result is not None
    assert result["solved"] is True
    assert result["eval_mean"] >= 12.0
    assert result["eval_episodes"] == 4
    assert result["seed"] == 0
    assert 0.0 <= result["wall_s"] <= result["ended_unix_s"] - result["first_step_unix_s"]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert all(sum(result["inference"][histogram].values()) > 0 for histogram in ("batch_rows", "batch_wait_us"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["stop_at_return"] == 12.0
    assert "torch" in config["versions"]
    assert load_newest(tmp_path / "run" / "checkpoints") is not None
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["env_steps"] > 0
    passed = read_metrics(tmp_path / "run" / "evaluations.jsonl")[-1]
    assert (passed["mean"], passed["wall_s"]) == (result["eval_mean"], result["wall_s"])
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    score = evaluate(tmp_path / "run", LaunchConfig(is_local=True), episodes=30)
    assert score.n == 30
    assert score.version == result["eval_version"]
    assert score.mean > 9.0
    assert (shown[-1].eval_mean, shown[-1].eval_version) == (result["eval_mean"], result["eval_version"])


def test_a_resume_of_a_solved_run_says_so_and_trains_on_only_towards_another_end(tmp_path: Path) -> None:
    config = TrainConfig(hidden="16", stop_at_return=8.0, eval_episodes=4)  # any policy has it
    first = train_in(tmp_path / "run", config)
    assert first.result is not None
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    script = Script()
    again = train_in(tmp_path / "run", config, script, resume=True)
    assert (again.exit_code, again.result) == (0, first.result)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    [said] = script.lines
    assert said == (
        f"{tmp_path / 'run'} is solved already (greedy mean return {first.result['eval_mean']:.1f}, goal 8): give "
        "another --stop-at-return or --episodes to train on"
    )
    further = train_in(tmp_path / "run", replace(config, stop_at_return=8.5), resume=True)
    assert further.result is not None
    assert further.result["stop_at_return"] == 8.5


def test_pqn_learns_from_rollouts_and_goes_on_after_its_learner_was_killed_and_after_a_resume(tmp_path: Path) -> None:
    config = TrainConfig(
        algorithm="pqn", hidden="16", rollout_steps=4, minibatches=2, eval_episodes=4, stop_at_return=1e9, episodes=60,
        learning_rate=1e-6,
    )  # fmt: skip
    kill = Script(lambda: kill_child("learner"), lambda status: status.updates > 80)
    path = tmp_path / "run"
    outcome = train_in(path, config, kill)
    assert kill.has_acted
    assert outcome.result is not None
    assert outcome.result["why"] == "episodes used up"
    assert outcome.result["episodes"] == 4 * 60
    assert outcome.result["updates"] > 0
    last = read_metrics(path / "metrics.jsonl")[-1]
    assert last["replay_ratio"] == 0.0
    assert last["weights_version"] > 1
    first_updates = outcome.result["updates"]
    launch, config = resumed_settings(path)
    again = train(replace(launch, is_local=True), replace(config, episodes=80), Silence())
    assert again.result is not None
    assert again.result["episodes"] == 4 * 80
    assert again.result["updates"] > first_updates


def test_episodes_used_up_end_a_run_unsolved_and_a_resume_goes_on_where_it_was(tmp_path: Path) -> None:
    first = train_in(tmp_path / "run", TrainConfig(**{**vars(TINY), "episodes": 15}))
    assert first.exit_code == 0
    assert first.result is not None
    assert first.result["solved"] is False
    assert first.result["why"] == "episodes used up"
    assert first.result["episodes"] == 60
    assert first.result["updates"] > 0
    launch, config = resumed_settings(tmp_path / "run")
    assert (launch.env_id, launch.count, config.episodes) == ("CartPole-v1", 4, 15)
    again = train_in(tmp_path / "run", config, resume=True)
    assert again.result is not None
    assert again.result["episodes"] == 60, "every env has played its 15 already"
    shown: list[Status] = []
    progress = Script(when=lambda status: bool(shown.append(status)))
    second = train_in(tmp_path / "run", replace(config, episodes=30), progress, resume=True)
    assert second.result is not None
    resumed_at, seen_at = (epsilon_at(config, steps) for steps in (first.result["env_steps"], shown[1].env_steps))
    assert seen_at <= shown[0].epsilon <= resumed_at < config.epsilon_start, "it goes on where the run was"
    assert second.result["episodes"] == 120
    assert second.result["env_steps"] > first.result["env_steps"]
    assert second.result["updates"] > first.result["updates"]
    assert second.result["wall_s"] > first.result["wall_s"]


def test_a_signal_saves_a_checkpoint_says_how_to_go_on_and_writes_no_result(tmp_path: Path) -> None:
    script = Script(lambda: os.kill(os.getpid(), signal.SIGTERM), when=lambda status: status.updates > 0)
    outcome = train_in(tmp_path / "run", TINY, script)
    assert outcome.result is None
    assert outcome.exit_code == 128 + signal.SIGTERM
    assert script.lines[-1] == f"interrupted; go on with: multiserverrl train --resume {tmp_path / 'run'}"
    assert not (tmp_path / "run" / "result.json").exists()
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["updates"] > 0


def test_a_deterministic_run_that_is_stopped_says_that_it_goes_on_from_a_barrier(tmp_path: Path) -> None:
    script = Script(lambda: os.kill(os.getpid(), signal.SIGTERM), when=lambda status: status.updates > 0)
    train_in(tmp_path / "run", replace(TINY, deterministic=True), script)
    assert "stopping: it goes on from its last barrier (once more to end at once)" in script.lines


def test_a_killed_explorer_inference_server_and_evaluator_are_started_again(tmp_path: Path) -> None:
    def kill_three() -> None:
        for role in ("entries:explorer", "entries:inference", "entries:evaluator"):
            kill_child(role)

    script = Script(kill_three)
    outcome = train_in(tmp_path / "run", TrainConfig(**{**vars(TINY), "episodes": 40}), script)
    assert script.has_acted
    assert outcome.result is not None
    assert outcome.result["why"] == "episodes used up"
    assert outcome.result["episodes"] == 40 * 4, "an explorer that starts again goes on with what is left of them"
    assert outcome.result["updates"] > 0
    assert outcome.result["eval_mean"] is not None


def test_a_killed_learner_is_started_again_from_its_checkpoint(tmp_path: Path) -> None:
    def has_checkpoint(status: Status) -> bool:
        return status.updates > 0 and any((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))

    script = Script(lambda: kill_child("entries:learner"), when=has_checkpoint)
    settings = TrainConfig(**{**vars(TINY), "episodes": 60, "checkpoint_every_s": 0.1})
    outcome = train_in(tmp_path / "run", settings, script)
    assert script.has_acted
    assert "the learner died by signal SIGKILL: it is started again" in script.lines
    assert outcome.result is not None
    assert outcome.result["why"] == "episodes used up"


def test_a_learner_that_dies_too_often_ends_the_run_and_the_last_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast, "cast_of", impatient(0))

    def has_checkpoint(status: Status) -> bool:
        return any((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))

    script = Script(lambda: kill_child("entries:learner"), when=has_checkpoint)
    with pytest.raises(RunError, match="the learner died 1 times in a row"):
        train_in(tmp_path / "run", TrainConfig(**{**vars(TINY), "checkpoint_every_s": 0.1}), script)
    assert script.lines[-1].endswith(f"go on with: multiserverrl train --resume {tmp_path / 'run'}")


class Nurse(Script):
    """Wakes who is said to stand still, or asks for the run's end instead."""

    def __init__(self, act: Callable[[], None], wake: bool) -> None:
        super().__init__(act)
        self._wake = wake

    def say(self, line: str) -> None:
        super().say(line)
        if "stands still" in line:
            os.kill(int(line.split("-CONT ")[1].split()[0]), signal.SIGCONT) if self._wake else os.kill(
                os.getpid(), signal.SIGTERM
            )


def test_a_learner_that_stands_still_is_told_of_and_waited_for(tmp_path: Path) -> None:
    nurse = Nurse(lambda: signal_child("entries:learner", signal.SIGSTOP), wake=True)
    outcome = train_in(tmp_path / "run", replace(TINY, episodes=20), nurse)
    assert "the learner goes on" in nurse.lines
    assert outcome.result is not None
    assert outcome.result["why"] == "episodes used up"
    assert outcome.result["episodes"] == 20 * 4
    assert not any("died" in line for line in nurse.lines)


def test_a_run_that_is_stopped_while_its_learner_stands_still_has_its_last_checkpoint(tmp_path: Path) -> None:
    nurse = Nurse(lambda: signal_child("entries:learner", signal.SIGSTOP), wake=False)
    outcome = train_in(tmp_path / "run", TINY, nurse)
    assert outcome.exit_code == 128 + signal.SIGTERM
    assert load_newest(tmp_path / "run" / "checkpoints") is not None


def test_an_explorer_that_dies_too_often_ends_the_run_in_order_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast, "cast_of", impatient(0))
    script = Script(lambda: kill_child("entries:explorer"), when=lambda status: status.updates > 0)
    with pytest.raises(RunError, match="the explorer-0 died 1 times in a row"):
        train_in(tmp_path / "run", TINY, script)
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["updates"] > 0
    assert script.lines[-1].endswith(f"go on with: multiserverrl train --resume {tmp_path / 'run'}")


def test_a_front_killed_while_a_run_learns_is_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    script = Script(lambda: kill_child("run_front"), when=lambda status: status.updates > 0)
    launch = LaunchConfig("CartPole-v1", count=4, run_dir=str(tmp_path / "run"))
    outcome = train(launch, replace(TINY, episodes=40), script)
    assert script.has_acted
    assert outcome.result is not None
    assert outcome.result["episodes"] == 4 * 40
    assert not any("died" in line for line in script.lines), "no process of the run ended for it"


def test_a_server_that_is_gone_for_good_ends_the_run_with_a_checkpoint_and_its_address(tmp_path: Path) -> None:
    server = start_server(ServerConfig(env_ids=("CartPole-v1",), port=0, count=6))
    try:
        script = Script(lambda: end_for_good(server), when=lambda status: status.updates > 0)
        launch = LaunchConfig(port=int(server.url.rpartition(":")[2]), count=4, run_dir=str(tmp_path / "run"))
        with pytest.raises(ServerUnreachable, match=server.url.rpartition(":")[2]):
            train(launch, replace(TINY, reopen_s=0.2), script)
    finally:
        server.stop()
    assert load_newest(tmp_path / "run" / "checkpoints") is not None
    assert script.lines[-1].endswith(f"go on with: multiserverrl train --resume {tmp_path / 'run'}")


def test_a_process_that_always_fails_ends_the_run_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast, "cast_of", impatient(1))
    gymnasium.register("KnownToThisProcessAlone-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    launch = LaunchConfig("KnownToThisProcessAlone-v0", count=2, is_local=True, run_dir=str(tmp_path / "run"))
    with pytest.raises(RunError, match=r"died 2 times in a row; .*KnownToThisProcessAlone.* doesn't exist"):
        train(launch, TINY, Silence())


def test_a_disk_that_refuses_checkpoints_for_a_time_does_not_end_a_run_which_says_so_once(tmp_path: Path) -> None:
    run = tmp_path / "run"

    class Outage(Script):
        """The learner may write no file; when that was said and learning went on, it may again."""

        told_at = 0

        def show(self, status: Status) -> None:
            super().show(status)
            if self.has_acted and not self.told_at and any("cannot be written" in line for line in self.lines):
                self.told_at = status.updates
            elif self.told_at and status.updates > self.told_at + 20:
                limit_files([child_of("entries:learner").pid], -1)
            if any("can be written again" in line for line in self.lines):
                os.kill(os.getpid(), signal.SIGTERM)

    script = Outage(
        lambda: limit_files([child_of("entries:learner").pid], 100),
        when=lambda status: any((run / "checkpoints").glob("checkpoint-*")),
    )
    outcome = train_in(run, replace(TINY, checkpoint_every_s=0.1), script)
    assert outcome.exit_code == 128 + signal.SIGTERM
    begun, ended = [line for line in script.lines if "written" in line and "being" not in line]
    assert begun == "checkpoints cannot be written: File too large; training goes on, and tries again"
    assert re.fullmatch(r"checkpoints can be written again, after \d+ s", ended)
    checkpoint = load_newest(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["updates"] > script.told_at > 0


def test_a_result_that_cannot_be_written_is_said_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run_dir: RunDir, result: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunDir, "write_result", full)
    script = Script()
    with pytest.raises(RunError, match=r"result\.json cannot be written: No space left on device"):
        train_in(tmp_path / "run", replace(TINY, episodes=2), script)
    assert json.loads(script.lines[-1])["why"] == "episodes used up"


def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_broken(tmp_path: Path) -> None:
    train_in(tmp_path / "run", replace(TINY, episodes=1, checkpoint_every_s=0.05))
    (tmp_path / "run" / ".writing-policy.safetensors").write_bytes(b"torn")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    (checkpoints[-1] / "state.json").write_bytes(b"torn")
    outcome = train_in(tmp_path / "run", replace(TINY, episodes=2, backend="torch"), resume=True)
    assert outcome.exit_code == 0
    assert not list((tmp_path / "run").rglob(".writing-*"))


def test_a_logger_whose_package_is_missing_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match="--log wandb needs the package wandb"):
        train(LaunchConfig("CartPole-v1", is_local=True, run_dir=str(tmp_path / "run"), log="wandb"), TINY, Silence())
    assert list(tmp_path.iterdir()) == []


def test_barriers_that_cut_off_each_rollout_are_refused_before_anything_starts(tmp_path: Path) -> None:
    config = TrainConfig(
        algorithm="pqn", hidden="16", rollout_steps=8, minibatches=2, eval_episodes=2, stop_at_return=1e9,
        learning_rate=1e-6, deterministic=True, barrier_steps=4 * (8 + 1) - 1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"--barrier-steps is 35: it must be at least 36, \(--rollout-steps \+ 1\)"):
        train_in(tmp_path / "run", config)
    assert list(tmp_path.iterdir()) == []
    outcome = train_in(tmp_path / "run", replace(config, barrier_steps=36, episodes=6))
    assert outcome.result is not None and outcome.result["updates"] > 0


def test_a_second_run_in_the_same_directory_is_refused_before_anything_starts(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", {}).close()
    with pytest.raises(ConfigError, match="holds a run already"):
        train_in(tmp_path / "run", TINY)


def test_a_broken_checkpoint_ends_the_resume_with_its_path(tmp_path: Path) -> None:
    train_in(tmp_path / "run", TrainConfig(**{**vars(TINY), "episodes": 1}))
    for arrays in (tmp_path / "run" / "checkpoints").rglob("arrays.safetensors"):
        arrays.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"checkpoint-0.*arrays\.safetensors has 100 bytes"):
        train_in(tmp_path / "run", TINY, resume=True)


def test_a_resume_with_settings_that_the_checkpoint_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    train_in(tmp_path / "run", replace(TINY, episodes=1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    with pytest.raises(CheckpointError, match="of a run with other settings"):
        train_in(tmp_path / "run", replace(TINY, hidden="7"), resume=True)
    assert set(before) == {"config.json", "result.json"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json")} == before
    assert train_in(tmp_path / "run", resumed_settings(tmp_path / "run")[1], resume=True).exit_code == 0
