"""The command line: flags become settings, errors become one line. A command imports the rooms that it needs."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from multiserverrl.errors import ConfigError, MisuseError, MultiServerRLError
from multiserverrl.launch.config import DEFAULT_ENV_ID, LaunchConfig
from multiserverrl.server.config import ServerConfig
from multiserverrl.settings import add_flags, given_flags
from multiserverrl.train.config import TrainConfig

__all__ = ["main"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ENV_ID_HELP = "a registered Gymnasium id, module:Env-v0, or path/to/file.py:EnvClass"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 (it went wrong), 2 (it was asked wrongly), or 128 + a signal."""
    namespace, unknown = _parser().parse_known_args(arguments)
    if any(flag.partition("=")[0] == "--token" for flag in unknown):
        namespace.parser.error(_token_hint(namespace.parser))
    if unknown:
        namespace.parser.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest(namespace.parser, unknown)}")
    try:
        code: int = namespace.command(namespace)
        sys.stdout.flush()
        return code
    except MultiServerRLError as error:
        print(f"multiserverrl: {error.headline}", file=sys.stderr)
        return 2 if isinstance(error, MisuseError) else 1
    except KeyboardInterrupt:
        print("multiserverrl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read our output has gone
        return _without_output()
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        print(f"multiserverrl: the disk is full: {error}", file=sys.stderr)
        return _without_output()


def _token_hint(parser: argparse.ArgumentParser) -> str:
    """What to do instead of --token; its value is a secret, and not repeated."""
    by_file = "give --token-file FILE, or " if "--token-file" in parser.format_help() else ""
    return f"there is no --token, as other users of this machine could read it: {by_file}set MULTISERVERRL_TOKEN"


def _nearest(parser: argparse.ArgumentParser, unknown: list[str]) -> str:
    """The flag that was meant, for the first unknown one that is like one."""
    flags = re.findall(r"--[a-z][a-z-]*", parser.format_help())
    close = (difflib.get_close_matches(one.partition("=")[0], flags, n=1) for one in unknown if one.startswith("--"))
    return next((f"; did you mean {flag}?" for flag in (next(iter(found), "") for found in close) if flag), "")


class _Parser(argparse.ArgumentParser):
    """Says in a line what is wrong, and not before it which seventy flags there are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help tells what there is)\n")


def _without_output() -> int:
    """Nothing more is written at the end of the process; the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="multiserverrl",
        description="Serve Gymnasium environments over HTTP, and train on them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"multiserverrl {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_runs(commands)
    _add_check(commands)
    return parser


def _add_serve(commands: Any) -> None:
    text = "Serve environments on one port [the origin: server with real env workers]."
    serve = commands.add_parser(
        "serve",
        help="serve environments over HTTP",
        usage="%(prog)s ENV_ID [ENV_ID ...] [flags]",
        description=text,
        allow_abbrev=False,
    )
    serve.add_argument("env_ids", nargs="*", metavar="ENV_ID", help=ENV_ID_HELP)
    serve.add_argument("--config", metavar="FILE", help="TOML file with these settings; flags win")
    add_flags(serve, ServerConfig)
    text = "argument of every environment's constructor; the value is JSON where it parses, else text (repeatable)"
    serve.add_argument("--env-arg", action="append", dest="env_args", default=[], metavar="KEY=VALUE", help=text)
    text = "wrapper that the server puts around every environment, the first closest to it (repeatable)"
    serve.add_argument("--wrapper", action=_InOrder, dest="wrappers", default=[], metavar="MODULE:CLASS", help=text)
    text = "argument of the --wrapper before it; the value is JSON where it parses, else text (repeatable)"
    serve.add_argument("--wrapper-arg", action=_InOrder, dest="wrappers", metavar="KEY=VALUE", help=text)
    serve.set_defaults(command=_serve, parser=serve)


class _InOrder(argparse.Action):
    """Appends (flag, value): which wrapper an argument belongs to is told by their order."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (option, values)])


def _add_train(commands: Any) -> None:
    text = (
        "Train on environments of env servers, with explorer [exploration worker], inference-server [model worker], "
        "learner [training worker] and evaluator processes. Without --host and --port it serves ENV_ID itself."
    )
    train = commands.add_parser(
        "train",
        help="train on served environments",
        usage="%(prog)s [ENV_ID] [flags]",
        description=text,
        allow_abbrev=False,
    )
    text = f"{ENV_ID_HELP} (default {DEFAULT_ENV_ID}; with --host or --port the one that is served)"
    train.add_argument("env_id", nargs="?", metavar="ENV_ID", help=text)
    train.add_argument("--config", metavar="FILE", help="TOML file with these settings and env_id; flags win")
    groups = add_flags(train, LaunchConfig, TrainConfig)
    text = "setting of a plug-in (--algorithm); the value is JSON where it parses, else text (repeatable)"
    groups["algorithm"].add_argument(
        "--option", action=_Option, dest="options", default=argparse.SUPPRESS, metavar="NAME=VALUE", help=text
    )
    train.set_defaults(command=_train, parser=train)


class _Option(argparse.Action):
    """Gathers name=value into a dict of numbers, texts, true and false."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        name, sign, text = values.partition("=")
        if not name or not sign:
            parser.error(f"--option {values}: write NAME=VALUE")
        try:
            value = json.loads(text, parse_constant=str)
        except ValueError:
            value = text
        value = value if isinstance(value, float | int | str) else text
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), name: value})


def _add_eval(commands: Any) -> None:
    text = "Play greedy episodes with a run's policy on fresh environments; prints mean, std and number of the returns."
    evaluation = commands.add_parser("eval", help="evaluate a run", description=text, allow_abbrev=False)
    evaluation.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="directory of the run")
    evaluation.add_argument("--episodes", type=int, default=100, help="episodes to play (default 100)")
    text = "write an MP4 of greedy episodes (other ones than those that count); needs the extra `video`"
    evaluation.add_argument("--video", type=Path, metavar="FILE.mp4", help=text)
    text = "with --video: episodes in it (default 1)"
    evaluation.add_argument("--video-episodes", type=int, metavar="N", help=text)
    evaluation.add_argument("--json", action="store_true", help="print one JSON object")
    add_flags(evaluation, LaunchConfig, skip=("servers", "count", "run_dir", "resume", "log", "recipe"))
    evaluation.set_defaults(command=_eval, parser=evaluation)


def _add_runs(commands: Any) -> None:
    text = (
        "List the runs in a directory, the newest first, or compare those that are named: results side by side, and "
        "the settings that differ. What is no run is named and passed over. Exit code 1: there is no run."
    )
    runs = commands.add_parser("runs", help="list and compare runs", description=text, allow_abbrev=False)
    text = "a directory of runs (default runs), or runs"
    runs.add_argument("paths", nargs="*", metavar="DIR", type=Path, default=[Path("runs")], help=text)
    runs.add_argument("--json", action="store_true", help="print one JSON object")
    runs.add_argument("--plot", metavar="FILE", type=Path, help="draw their learning curves into this PNG")
    runs.set_defaults(command=_runs, parser=runs)


def _add_check(commands: Any) -> None:
    text = (
        "Look at a running env server, ours or another's: whether it keeps the protocol, its env is deterministic and "
        "keeps to its spaces, how it takes broken connections, and how fast it is. "
        "Exit code 0: all holds, 1: something does not, 2: it cannot be reached or used."
    )
    check = commands.add_parser("check", help="check an env server", description=text, allow_abbrev=False)
    check.add_argument("url", metavar="URL", help="address of the server, such as http://localhost:1800")
    check.add_argument("env_id", nargs="?", metavar="ENV_ID", help="what to check of all that it serves (the first)")
    text = "file that holds the server's token (default: what MULTISERVERRL_TOKEN holds); wrong ones are tried, too"
    check.add_argument("--token-file", metavar="FILE", help=text)
    text = "PEM file of the CAs that may have signed its certificate"
    check.add_argument("--ca-file", metavar="FILE", help=text)
    check.add_argument("--fingerprint", help="SHA-256 of its certificate, as serve prints it")
    check.add_argument("--timeout-s", type=float, default=30.0, help="how long to wait for any answer (default 30)")
    check.set_defaults(command=_check, parser=check)


def _serve(namespace: argparse.Namespace) -> int:
    from multiserverrl.server.configfile import env_arguments_of, read_config_file, wrappers_of
    from multiserverrl.server.run import serve

    settings = {} if namespace.config is None else read_config_file(namespace.config)
    settings.update(given_flags(ServerConfig, namespace))
    if namespace.env_ids:
        settings["env_ids"] = tuple(namespace.env_ids)
    if namespace.env_args:
        settings["env_arguments"] = env_arguments_of(namespace.env_args)
    if namespace.wrappers:
        settings["wrappers"] = wrappers_of(namespace.wrappers)
    return serve(ServerConfig(**settings))


def _train(namespace: argparse.Namespace) -> int:
    from multiserverrl.launch.asked import asked_settings

    flags = {**given_flags(LaunchConfig, namespace), **given_flags(TrainConfig, namespace)}
    if namespace.env_id is not None:
        flags["env_id"] = namespace.env_id
    asked = asked_settings(flags, namespace.config)
    _require_train_extra()
    from multiserverrl.launch.progress import progress_for
    from multiserverrl.launch.training import train

    _log_warnings()
    return train(asked.launch, asked.train, progress_for(), asked.recipe).exit_code


def _eval(namespace: argparse.Namespace) -> int:
    _require_train_extra()
    from multiserverrl.launch.evaluating import evaluate
    from multiserverrl.launch.filming import Film

    _log_warnings()
    if namespace.video is None and namespace.video_episodes is not None:
        raise ConfigError("--video-episodes counts the episodes of a film: name its file by --video FILE.mp4")
    episodes = 1 if namespace.video_episodes is None else namespace.video_episodes
    film = None if namespace.video is None else Film(namespace.video, episodes)
    launch = LaunchConfig(**given_flags(LaunchConfig, namespace))
    score = evaluate(namespace.run_dir, launch, namespace.episodes, film)
    if namespace.json:
        print(json.dumps(dataclasses.asdict(score)))
    else:
        interval = "" if score.ci95 is None else f" ± {score.ci95:.2f} (95 %)"
        shown = f"mean {score.mean:.2f}{interval}, std {score.std:.2f}, n {score.n}"
        print(f"{score.env_id}: {shown} (weights {score.version})")
        if score.shot is not None:
            returns = ", ".join(f"{one:.1f}" for one in score.shot.returns)
            print(f"{namespace.video}: {score.shot.frames} frames at {score.shot.fps:g} a second, return {returns}")
    return 0


def _runs(namespace: argparse.Namespace) -> int:
    from multiserverrl.observe.curves import plot_runs, require_plot
    from multiserverrl.observe.runs import find_runs
    from multiserverrl.observe.runtables import runs_json, runs_text

    if namespace.plot is not None:
        require_plot(namespace.plot)
    found = find_runs(namespace.paths)
    for path, why in found.passed_over:
        print(f"multiserverrl: {path} is passed over: {why}", file=sys.stderr)
    if namespace.plot is not None:
        plot_runs(found.runs, namespace.plot)
    if found.runs or namespace.json:
        print(runs_json(found) if namespace.json else runs_text(found))
        if namespace.plot is not None and not namespace.json:
            print(f"their learning curves: {namespace.plot}")
    else:
        print("multiserverrl: there is no run", file=sys.stderr)
    return 0 if found.runs else 1


def _check(namespace: argparse.Namespace) -> int:
    from multiserverrl.client.trust import Trust
    from multiserverrl.testing.check import check_server

    if not 0 < namespace.timeout_s < float("inf"):
        raise ConfigError(f"--timeout-s must be a number of seconds above 0, not {namespace.timeout_s:g}")
    token = None if namespace.token_file is None else _text_of("--token-file", namespace.token_file)
    trust = Trust(namespace.ca_file, namespace.fingerprint)
    return check_server(namespace.url, namespace.env_id, token=token, timeout_s=namespace.timeout_s, trust=trust)


def _text_of(flag: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error}") from error


def _log_warnings() -> None:
    """In this process and its children: what goes well is shown by progress and result."""
    from multiserverrl.observe.log import LEVEL_VARIABLE, log_to_stderr

    os.environ.setdefault(LEVEL_VARIABLE, "warning")
    log_to_stderr()


def _require_train_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        how = "pip install 'multiserverrl[train]' (in a checkout: pip install -e '.[train]')"
        raise ConfigError(f"training needs {' and '.join(missing)}: {how}")


def _version() -> str:
    from multiserverrl import __version__

    return __version__
