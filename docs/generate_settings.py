"""Writes docs/settings.md from the config dataclasses: `python docs/generate_settings.py`.

`--check` writes nothing and exits 1 when the file is not in step.
"""

from __future__ import annotations

import sys
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


def table(title: str, config: type[Any]) -> str:
    rows = ["| flag | field | default | unit | what it is |", "|---|---|---|---|---|"]
    for name, _kind, default, meta in settings_of(config):
        flag = f"`{flag_name(name)}`" if meta["flag"] else ""
        rows.append(f"| {flag} | `{name}` | {shown(default)} | {meta['unit']} | {escaped(meta['text'])} |")
    return f"## {title}\n\n" + "\n".join(rows) + "\n"


def shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return ""
    return f"`{escaped(str(default))}`"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    tables = [
        table("`multiserverrl serve`: `server.config.ServerConfig`", ServerConfig),
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
