"""Events are one line each, whatever their values hold."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys

import pytest

from multiserverrl.observe.log import LEVEL_VARIABLE, line_of


def test_a_line_is_the_event_and_its_fields_in_order() -> None:
    assert line_of("env_worker_restarted", worker=3, exitcode=-9) == "env_worker_restarted worker=3 exitcode=-9"


def test_values_that_would_break_the_line_are_quoted() -> None:
    line = line_of("broken", cause='two\nlines "quoted"', empty="", wall_s=1.23456789)
    assert line == 'broken cause="two\\nlines \\"quoted\\"" empty="" wall_s=1.23457'


def test_an_import_gives_the_logger_no_handler_and_an_entry_point_gives_it_one() -> None:
    program = (
        "from multiserverrl.observe.log import LOGGER, log, log_to_stderr\n"
        "assert not LOGGER.handlers\n"
        "log_to_stderr(); log_to_stderr()\n"
        "assert len(LOGGER.handlers) == 1\n"
        "log('started', port=1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr.count("started port=1\n") == 1


def test_an_event_below_the_level_is_not_logged() -> None:
    program = (
        "import logging\n"
        "from multiserverrl.observe.log import log, log_to_stderr\n"
        "log_to_stderr(); log('quiet'); log('loud', level=logging.WARNING)\n"
        "log_to_stderr(logging.INFO); log('asked_for')\n"
    )
    environment = {**os.environ, LEVEL_VARIABLE: "warning"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert [line.split()[-1] for line in ended.stderr.splitlines()] == ["loud", "asked_for"]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="this system does not say whether a pipe has room")
def test_a_process_whose_lines_nobody_reads_goes_on_and_counts_them() -> None:
    program = (
        "import sys\n"
        "from multiserverrl.observe.log import log, log_to_stderr\n"
        "log_to_stderr()\n"
        "for number in range(5000): log('said', number=number, long='x' * 5000)\n"
        "print('all said', flush=True)\n"
        "sys.stdin.readline()\n"
        "log('heard')\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, LEVEL_VARIABLE: "info"}
    with subprocess.Popen([sys.executable, "-c", program], text=True, env=environment, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "all said\n"
        assert process.stderr is not None
        room = os.read(process.stderr.fileno(), 1 << 20).decode()  # before: it may log again sooner than we read
        told = room + process.communicate("\n", timeout=60)[1]
    assert "said number=0" in told and "heard" in told
    kept, left_out = told.count(" said "), re.findall(r"log_lines_left_out lines=(\d+)", told)
    assert [kept + int(count) for count in left_out] == [5000]
