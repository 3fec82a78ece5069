"""The live view: what it shows, at any width, in colour or without, and in a terminal that a test plays."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import pytest
from rich.console import Console

from multiserverrl.launch.panel import KEPT, History, panel_of, sparkline
from multiserverrl.launch.progress import LiveProgress, PlainProgress, progress_for
from multiserverrl.launch.status import Goals, Status
from multiserverrl.launch.watch import StandingWarning
from multiserverrl.train.beats import Doing

WARNING = StandingWarning(
    "silent", "explorer-1", 88.0, "the explorer-1 has sent nothing for 12 s", "its [envs] hang", ""
)
STATUS = Status(
    unix_s=0.0, wall_s=71.2, episodes=1234, mean_return=180.3, env_steps=456789, env_steps_per_s=11234.5,
    updates=112345, updates_per_s=2800.2, replay_ratio=0.2498, replay_size=20513, epsilon=0.021, loss=0.01234,
    weights_version=14032, faults=3, eval_mean=450.2, eval_ci95=12.25, eval_version=14000, acted_version=14030,
    batch_rows=31.6, batch_wait_us=512.0, batch_wait_99_us=2048.0, goals=Goals(475.0, 0.25, 50_000), monotonic_s=100.0,
    shares={"explorer-0": {Doing.STEPPING: 0.7, Doing.WAITING_FOR_LEARNER: 0.3}},
)  # fmt: skip
WARNED = dataclasses.replace(STATUS, warnings=1, warned="silent:explorer-1", standing=(WARNING,))


def drawn(status: Status, width: int, is_utf8: bool = True) -> list[str]:
    history = History()
    history.add(status)
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(panel_of(status, history, width, is_utf8))
    return console.export_text().splitlines()


def test_everything_worth_watching_is_in_the_panel() -> None:
    text = "\n".join(drawn(STATUS, 100))
    for shown in (
        "1 min 11 s", "456,789 (11,234/s)", "112,345 (2,800/s)", "loss 0.01234", "0.250 of 0.25 asked for",
        "41% of 50,000", "0.021", "180.3", "450.2 ± 12.2, goal 475", "14,032, acting with 14,030 (2 behind)",
        "31.6 observations a batch, half complete within 0.512 ms, 99% within 2.05 ms",
        "steps envs 70%, waits for the learner 30%", "faults",
    ):  # fmt: skip
        assert shown in text


def test_where_noise_explores_there_is_no_epsilon() -> None:
    noisy = dataclasses.replace(STATUS, goals=dataclasses.replace(STATUS.goals, has_epsilon=False))
    assert any("ε" in line for line in drawn(STATUS, 100))
    assert not any("ε" in line for line in drawn(noisy, 100))
    stream = io.StringIO()
    PlainProgress(stream).show(noisy)
    assert "ε –" in stream.getvalue()


def test_an_evaluation_that_is_being_confirmed_is_told_of() -> None:
    confirming = dataclasses.replace(STATUS, confirming=100)
    for shows in (lambda status: "\n".join(drawn(status, 100)), plain):
        assert re.search(r"confirming +100 episodes more", shows(confirming))
        assert "confirming" not in shows(STATUS)


def plain(status: Status) -> str:
    stream = io.StringIO()
    PlainProgress(stream).show(status)
    return stream.getvalue()


def test_a_warning_stands_in_the_panel_with_why_and_since_when() -> None:
    text = "\n".join(drawn(WARNED, 100))
    assert "the explorer-1 has sent nothing for 12 s: its [envs] hang (since 12.0 s)" in text


@pytest.mark.parametrize("width", [20, 40, 59, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_value_is_cut_off(width: int) -> None:
    lines = drawn(WARNED, width)
    assert max(map(len, lines)) <= width
    told = "".join(line[1:-1].replace(" ", "") for line in lines)
    assert "steps" in told
    if width >= 40:
        assert "450.2±12.2," in told


def test_a_terminal_that_knows_no_unicode_gets_plain_letters() -> None:
    "\n".join(drawn(WARNED, 80, is_utf8=False)).encode("ascii")


def test_a_sparkline_goes_from_its_least_to_its_largest_value() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0], 4) == "▁▃▆█"
    assert sparkline([0.0, 0.0, 3.0, 3.0], 2) == "▁█"
    assert sparkline([5.0, 5.0], 9) == "▁▁"
    assert sparkline([], 9) == ""


def test_a_goal_above_all_values_is_the_top_of_the_sparkline() -> None:
    assert sparkline([0.0, 50.0], 9, goal=100.0) == "▁▅"
    assert sparkline([0.0, 200.0], 9, goal=100.0) == "▁█"


def test_a_history_keeps_the_whole_run_in_few_points_and_each_evaluation_once() -> None:
    history = History()
    for number in range(5 * KEPT):
        history.add(dataclasses.replace(STATUS, mean_return=float(number), eval_version=number // 100, eval_mean=1.0))
    assert len(history.returns) <= KEPT
    assert history.returns[0] < 20.0
    assert history.returns[-1] > 4.9 * KEPT
    assert len(history.evaluations) == 5 * KEPT // 100


class Terminal(io.StringIO):
    """Says that it is one, 80 columns wide."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def live(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[Any, Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", **variables}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    return progress_for(stream), stream


def test_a_panel_is_drawn_in_place_and_lines_stay_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stream = live(monkeypatch)
    assert isinstance(progress, LiveProgress)
    progress.show(STATUS)
    progress.say("a [line] that stays")
    progress.show(STATUS)
    progress.close()
    progress.close()
    progress.say("the end")
    text = stream.getvalue()
    assert "\x1b[1A" in text, "it is drawn over"
    assert "a [line] that stays" in text
    assert text.endswith("the end\n")
    assert "\x1b[?25h" in text, "the cursor is back"


def test_no_color_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        progress, stream = live(monkeypatch, **variables)
        progress.show(WARNED)
        progress.close()
        assert ("\x1b[31m" in stream.getvalue()) is is_coloured


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    progress, stream = live(monkeypatch, TERM=term)
    assert isinstance(progress, PlainProgress)
    progress.show(WARNED)
    assert "\x1b" not in stream.getvalue()
    assert "warnings silent:explorer-1" in stream.getvalue()


def test_a_terminal_that_becomes_narrower_is_wiped_of_what_it_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stream = live(monkeypatch)
    progress.show(STATUS)
    height = stream.getvalue().count("│") // 2 + 2
    progress._console.width = 40
    progress.show(STATUS)
    progress.close()
    assert f"\x1b[{2 * height - 1}A\r\x1b[J" in stream.getvalue()
    again = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", stream.getvalue().rpartition("\x1b[J")[2])
    assert max(map(len, again.splitlines())) == 40
