"""Learning curves as a PNG: the evaluations' means against env steps and against training time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from multiserverrl.errors import ConfigError
from multiserverrl.observe.disk import replace_file
from multiserverrl.observe.runs import Run

__all__ = ["plot_runs", "require_plot"]

MOST_NAMED = 12  # in the legend


def require_plot(path: Path) -> None:
    """ConfigError when matplotlib is missing or the name is not one of a PNG."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot {path} must end in .png: a PNG is what it draws")
    if find_spec("matplotlib") is None:
        how = "pip install 'multiserverrl[plot]' (in a checkout: pip install -e '.[plot]')"
        raise ConfigError(f"--plot needs the package matplotlib: {how}")


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw those that have been evaluated, with the mean's 95 % confidence band.

    ConfigError when none has, or the file cannot be written; then an old one is as it was.
    """
    drawn = [run for run in runs if any(point.mean is not None for point in run.curve)]
    if not drawn:
        raise ConfigError("--plot: none of these runs has an evaluation yet")
    try:
        replace_file(path, [_png(drawn)])
    except OSError as error:
        raise ConfigError(f"--plot {path} cannot be written: {error.strerror}") from error


def _png(runs: Sequence[Run]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no state that is shared
    by_steps, by_wall = figure.subplots(1, 2, sharey=True)
    for run in runs:
        _draw(by_steps, run, [point.env_steps for point in run.curve])
        _draw(by_wall, run, [point.wall_s for point in run.curve])
    by_steps.set(xlabel="env steps", ylabel="greedy mean return (95 % band)")
    by_wall.set(xlabel="training time in s")
    figure.suptitle(", ".join(dict.fromkeys(run.env_id for run in runs)))
    if len(runs) <= MOST_NAMED:
        by_wall.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _draw(axes: Any, run: Run, x: Sequence[float]) -> None:
    nan = float("nan")  # a gap
    means = [nan if point.mean is None else point.mean for point in run.curve]
    halves = [point.ci95 or 0.0 for point in run.curve]
    [line] = axes.plot(x, means, marker=".", label=run.name)
    low = [mean - half for mean, half in zip(means, halves, strict=True)]
    high = [mean + half for mean, half in zip(means, halves, strict=True)]
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.grid(visible=True, alpha=0.3)
