"""The command line as a person meets it: what it refuses, in one line and without a traceback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiserverrl.cli import main
from multiserverrl.errors import ConfigError
from multiserverrl.observe.log import LEVEL_VARIABLE, LOGGER
from multiserverrl.observe.rundir import RunDir
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.run import RunningServer, start_server


@pytest.fixture(autouse=True)
def _logging_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(LEVEL_VARIABLE, "warning")
    yield
    LOGGER.handlers.clear()
    LOGGER.propagate = True


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with three CartPoles."""
    server = start_server(ServerConfig(env_ids=("CartPole-v1",), port=0, count=3, workers=1))
    yield server.url
    server.stop()


def place_of(url: str) -> list[str]:
    host, port = url.removeprefix("http://").split(":")
    return ["--host", host, "--port", port]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def two_servers() -> RunningServer:
    """Servers of two CartPoles each, on two ports in a row that happen to be free."""
    for _ in range(50):
        config = ServerConfig(env_ids=("CartPole-v1",), port=int(free_port()), count=2, workers=1, servers=2)
        with contextlib.suppress(ConfigError):
            return start_server(config)
    raise AssertionError("no two free ports in a row")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said on stderr to arguments that are refused; exactly one line, and nothing on stdout."""
    try:
        code = main(arguments)
    except SystemExit as refused:  # argparse's own
        code = int(str(refused.code))
    out, err = capsys.readouterr()
    assert code in (1, 2)
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--count", "0"], "--count must be at least 1, not 0"),
        (["train", "--count", "many"], "argument --count: invalid int value"),
        (["train", "--port", "99999"], "--port must be between 1 and 65535, not 99999"),
        (["train", "--servers", "2"], "--servers counts env servers that run already"),
        (["train", "--speed=9"], "multiserverrl train: error: unrecognized arguments: --speed=9"),
        (["train", "--learning-rte=1"], "--learning-rte=1; did you mean --learning-rate?"),
        (["eval", "a", "--video-episodes", "2"], "--video-episodes counts the episodes of a film: name its file"),
        (["train", "--explorers", "0"], "--explorers is 0: it must be at least 1"),
        (["train", "--gamma", "1.5"], "--gamma is 1.5: it must lie between 0 and 1"),
        (["train", "--log", "wanda"], "--log is 'wanda': 'wanda' is none of tensorboard, wandb, trackio"),
        (["train", "--config", "absent.toml"], "--config absent.toml cannot be read: No such file or directory"),
        (["train", "--run-dir", "a", "--resume", "b"], "--run-dir is for a new run"),
        (["train", "--host", "http://a"], "--host is a name or an address alone"),
        (["train", "--host", "a:1800"], "--host is a name or an address alone"),
        (["train", "--host", "[::1"], "--host is a name or an address alone"),
        (["eval", "a", "--host", "u:word@a"], "--host is a name or an address alone"),
        (["check", "http://[a]:1800"], "is not the address of an env server"),
        (["serve", "CartPole-v1", "--count", "0"], "--count must be at least 1, not 0"),
        (["serve", "CartPole-v1", "--port", "70000"], "--port must be between 0 and 65535, not 70000"),
        (["serve"], "name at least one environment to serve, for example CartPole-v1"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert named in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "CartPole-v1", "--token", "hush"], "give --token-file FILE, or set MULTISERVERRL_TOKEN"),
        (["serve", "CartPole-v1", "--token=hush"], "give --token-file FILE, or set MULTISERVERRL_TOKEN"),
        (["check", "localhost:1", "CartPole-v1", "--token", "hush"], "give --token-file FILE"),
        (["train", "--token=hush"], "could read it: set MULTISERVERRL_TOKEN"),
        (["eval", "run", "--token", "hush"], "could read it: set MULTISERVERRL_TOKEN"),
    ],
)
def test_a_token_on_the_command_line_is_not_repeated_and_its_place_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    told = refusal(capsys, *arguments)
    assert named in told and "hush" not in told


def test_a_wrong_flag_is_told_in_a_line_and_not_after_all_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--seed", "x"])
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(
        "multiserverrl train: error: argument --seed: invalid int value: 'x' (multiserverrl train --h"
    )


def test_a_config_file_is_refused_by_its_name_and_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("learning_rat = 0.1")
    told = f"{file}: 'learning_rat' is no setting of train; did you mean learning_rate?"
    assert told in refusal(capsys, "train", "--config", str(file))


def test_asking_for_more_envs_than_there_are_names_both_numbers(capsys: pytest.CaptureFixture[str], url: str) -> None:
    said = refusal(capsys, "train", *place_of(url), "--count", "5")
    assert "--count asks for 5 environments, 3 are free at http://127.0.0.1" in said


def test_an_env_that_is_not_served_is_named_with_those_that_are(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert "serves CartPole-v1, not Acrobot-v1" in refusal(capsys, "train", "Acrobot-v1", *place_of(url))


def test_a_server_that_is_not_there_is_named_with_what_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    said = refusal(capsys, "train", "--port", port)
    assert f"localhost:{port}" in said or f"127.0.0.1:{port}" in said
    assert "multiserverrl serve" in said


def test_an_unknown_env_is_answered_with_close_matches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refusal(capsys, "train", "CartPool-v1", "--run-dir", str(tmp_path / "run"))
    assert "CartPole" in said
    assert not (tmp_path / "run").exists()


def test_spaces_that_cannot_be_trained_on_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refusal(capsys, "train", "Pendulum-v1", "--count", "2", "--run-dir", str(tmp_path / "run"))
    assert "dqn learns to choose among numbered actions: this env's are continuous" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["train", "--resume"], ["eval"]])
def test_what_is_no_run_directory_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    assert "is not a run directory" in refusal(capsys, *command, str(tmp_path))


def test_a_run_directory_of_something_else_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"mine": true}')
    assert "does not hold the settings of a run" in refusal(capsys, "train", "--resume", str(tmp_path))


def test_a_resume_on_another_env_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seats = {"groups": [], "evaluation_url": "", "evaluation_envs": 1, "is_borrowed": False}
    record = {"env_id": "CartPole-v1", "launch": {"env_id": "CartPole-v1"}, "train": {}, "seats": seats, "owner": "x"}
    RunDir.create(tmp_path / "run", record).close()
    said = refusal(capsys, "train", "Acrobot-v1", "--resume", str(tmp_path / "run"))
    assert "goes on with CartPole-v1, not Acrobot-v1" in said


def test_a_run_without_a_policy_cannot_be_evaluated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", {"env_id": "CartPole-v1"}).close()
    assert "there is no policy" in refusal(capsys, "eval", str(tmp_path / "run"))


def test_the_only_env_of_a_server_is_lent_to_the_evaluator_and_comes_back(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    server = start_server(ServerConfig(env_ids=("CartPole-v1",), port=0, count=1, workers=1))
    try:
        arguments = ["--eval-episodes", "1", "--episodes", "4", "--warmup-steps", "10", "--run-dir", str(run)]
        assert main(["train", *place_of(server.url), *arguments]) == 0
    finally:
        server.stop()
    assert "1 envs, the same env, borrowed for evaluation" in capfd.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert result["episodes"] == 4
    assert result["eval_version"] > 1  # the last weights, when there was no explorer to lend the env


def test_envs_of_several_servers_are_trained_on_together(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    server = two_servers()
    try:
        arguments = ["--servers", "2", "--eval-episodes", "2", "--stop-at-return", "5", "--run-dir", str(run)]
        assert main(["train", *place_of(server.url), *arguments]) == 0
    finally:
        server.stop()
    seats = json.loads((run / "config.json").read_text())["seats"]
    assert {group["url"] for group in seats["groups"]} == set(server.urls)
    assert "3 envs, 1 more for evaluation" in capfd.readouterr().out


def test_help_gives_the_origins_words_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, multiserverrl.cli as cli\n"
        "try:\n    cli.main(['train', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "assert not {'torch', 'rich', 'uvicorn', 'starlette'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for word in ("exploration worker", "model worker", "training worker"):
        assert word in " ".join(ended.stdout.split())


def test_output_that_a_full_disk_has_no_room_for_is_one_line_and_no_traceback() -> None:
    program = (
        "import sys\nfrom multiserverrl import cli\n"
        "cli._eval = lambda namespace: print('a score') or 0\n"
        "sys.exit(cli.main(['eval', 'runs/one']))\n"
    )
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == "multiserverrl: the disk is full: [Errno 28] No space left on device\n"
