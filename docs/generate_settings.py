"""Writes docs/settings.md from the config dataclasses: `python docs/generate_settings.py`.

`--check` writes nothing and exits 1 when the file is not in step.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from multiserverrl.launch.config import LaunchConfig
from multiserverrl.server.config import ServerConfig
from multiserverrl.settings import flag_name, settings_of
from multiserverrl.train.config import TrainConfig

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

Made from the config dataclasses by `python docs/generate_settings.py`; do not edit it by hand.
Each is a flag of the command line and a field of the dataclass, unless the flag is missing in the table.
"""

HEAD_ROWS = ("| flag | field | default | unit | what it is |", "|---|---|---|---|---|")

SERVE_NOTES = """### Wrappers, and settings from a file

`--wrapper module:Class` puts a wrapper around every environment, in the env workers; it is repeatable, the first is
the closest to the environment. `--wrapper-arg key=value` is an argument of the wrapper before it; the value is JSON
where it parses, else text. `--env-arg key=value`, read in the same way, is an argument of every environment's
constructor. `--config FILE` reads a TOML file with the fields of this table, `env_ids`, `env_arguments`, and a
`[[wrapper]]` for each wrapper; flags win (one `--wrapper` replaces all of the file's, one `--env-arg` all of its
arguments), and an unknown key is refused by name.

`--vector` serves native vector envs: a session gets one whole, on one env worker, with the autoreset mode that it has.
An id gives it by its `vector_entry_point` (one that has nothing else needs no flag), a module or file by a class or
function that takes `num_envs`. `--wrapper` then names wrappers of vector envs.

`serve envpool:CartPole-v1` (any of EnvPool's tasks; no flag needed) serves an [EnvPool](https://envpool.readthedocs.io),
as does `--vector` with a function that returns one made by `envpool.make_gymnasium(…, num_envs=num_envs)`. It has the
autoreset mode `next_step`. EnvPool takes seeds only when it is made: `reset(seed=…)` makes it anew (env i gets
seed + i, or its own of a list with a number for each), `reset()` goes on; without any seed each session has its own.
Infos come with Gymnasium's masks, without `env_id` and `players` (row i is env i) and `elapsed_step` (steps since the
reset). `envpool:…` has as many threads as it may use cores; with several env workers say
`--allow-arg num_threads`, or make it in a function. Install it by `pip install 'multiserverrl[envpool]'`.

```toml
env_ids = ["ale_py:ALE/Pong-v5"]
env_arguments = { frameskip = 1 }
count = 8
step_deadline_s = 10

[[wrapper]]
name = "gymnasium.wrappers:AtariPreprocessing"
arguments = { frame_skip = 4, grayscale_obs = true }

[[wrapper]]
name = "gymnasium.wrappers:FrameStackObservation"
arguments = { stack_size = 4 }
```
"""


def table(title: str, config: type[Any]) -> str:
    parts = [f"## {title}\n"]
    for group, settings in groupby(settings_of(config), lambda one: one[3]["group"]):
        rows = [*([f"### {group[0].upper()}{group[1:]}", ""] if group else []), *HEAD_ROWS]
        for name, _kind, default, meta in settings:
            flag = f"`{flag_name(name)}`" if meta["flag"] else ""
            rows.append(f"| {flag} | `{name}` | {shown(default)} | {meta['unit']} | {escaped(meta['text'])} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def shown(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return ""
    return f"`{escaped(str(default))}`"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    tables = [
        table("`multiserverrl serve`: `server.config.ServerConfig`", ServerConfig),
        SERVE_NOTES,
        table("`multiserverrl train`, where: `launch.config.LaunchConfig`", LaunchConfig),
        table("`multiserverrl train`, how: `train.config.TrainConfig`", TrainConfig),
    ]
    return "\n".join([HEAD, *tables])


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        is_in_step = PAGE.exists() and PAGE.read_text("utf-8") == page()
        if not is_in_step:
            print(f"{PAGE.name} is not in step with the config dataclasses: run python docs/generate_settings.py")
        return 0 if is_in_step else 1
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
