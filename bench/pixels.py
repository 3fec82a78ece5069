"""The two pictures of docs/pixels.md: what the network sees, and how examples/simple_virtual_env learns.

    python bench/pixels.py [--seeds 0-4] [--folder docs/pictures]

Needs matplotlib (pip install 'multiserverrl[plot]'). Each seed is a run of the example's own server and client, as a
person starts them. The curves are drawn anew after each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "simple_virtual_env"
TRAINED = re.compile(r"episode \d+  steps (\d+)  mean return ([\d.]+)")
GREEDY = re.compile(r"greedy mean return ([\d.]+)")
INK, GREY = "#1f4e79", "#8a8a8a"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="first-last; none: only what is seen")
    parser.add_argument("--port", type=int, default=1800, help="of the example's server")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    draw_what_is_seen(options.folder / "pixels_seen.png")
    if options.seeds == "none":
        return 0
    first, _, last = options.seeds.partition("-")
    runs = []
    for seed in range(int(first), int(last or first) + 1):
        runs.append(one_run(seed, options.port))
        draw_learning(options.folder / "pixels_learning.png", runs)
    print(f"median wall {statistics.median(run['wall_s'] for run in runs):.1f} s")
    return 0


def draw_what_is_seen(file: Path) -> None:
    """A screen, and the last two pictures that are cut out of such screens."""
    sys.path.insert(0, str(EXAMPLE))
    from client import cart_column, picture_of
    from server import cartpole

    env = cartpole()
    env.reset(seed=4)
    for action in (1, 1, 1, 0, 1, 1, 1, 1, 1):
        env.step(action)
    before: Any = env.render()
    env.step(1)
    screen: Any = env.render()
    env.close()
    left = min(max(cart_column(screen) - 90, 0), 120)

    plt = pyplot()
    figure = plt.figure(figsize=(9, 3), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.4))
    whole = figure.add_subplot(grid[:, 0])
    whole.imshow(screen)
    whole.add_patch(plt.Rectangle((left, 30), 180, 80, fill=False, edgecolor=INK, linewidth=1.5))
    whole.set_title("the screen, and the part that is cut out", fontsize=9)
    for row, (title, seen) in enumerate({"the screen before": before, "the newest screen": screen}.items()):
        axes = figure.add_subplot(grid[row, 1])
        axes.imshow(picture_of(seen), cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(f"{title}: 20 × 90 bytes", fontsize=9)
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
    save(figure, file)


def one_run(seed: int, port: int) -> dict[str, Any]:
    """What the example prints, as curves: (env steps, mean return) of the training and of the greedy episodes."""
    server = subprocess.Popen([sys.executable, str(EXAMPLE / "server.py"), "--port", str(port)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()  # it is ready
    began_s = time.monotonic()
    command = [sys.executable, str(EXAMPLE / "client.py"), "--port", str(port), "--seed", str(seed)]
    try:
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        server.terminate()
        server.communicate()
    run: dict[str, Any] = {"wall_s": time.monotonic() - began_s, "trained": [], "greedy": []}
    for line in printed.splitlines():
        if found := TRAINED.search(line):
            run["trained"].append((int(found[1]), float(found[2])))
        elif (found := GREEDY.search(line)) and run["trained"] and line.startswith("episode"):
            run["greedy"].append((run["trained"][-1][0], float(found[1])))
    print(f"seed {seed}  wall {run['wall_s']:.1f} s  {printed.splitlines()[-1]}", flush=True)
    return run


def draw_learning(file: Path, runs: list[dict[str, Any]]) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for number, run in enumerate(runs):
        steps, returns = np.array(run["trained"]).T
        axes.plot(steps, returns, color=GREY, linewidth=1, label="training, last 20 episodes" if number == 0 else None)
        if run["greedy"]:
            steps, returns = np.array(run["greedy"]).T
            label = "greedy, 20 episodes" if number == 0 else None
            axes.plot(steps, returns, "o", color=INK, markersize=4, label=label)
    axes.axhline(195, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("env steps")
    axes.set_ylabel("return")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(figure, file)


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        sys.exit("matplotlib is missing: pip install 'multiserverrl[plot]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=100)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
