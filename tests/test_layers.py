"""Holds the map of docs/architecture.md: which room may know which, and where dangerous or heavy modules may be used.

A name in a string ("multiserverrl.server.worker:run", how child processes are started) counts as an import.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "multiserverrl"
NAME_IN_A_STRING = re.compile(rf"{PACKAGE}(\.\w+)+(:\w+)?")

BASE = {"errors", "settings", "processes"}
LOW = {"wire", "memory", "observe"}
MIDDLE = {"server", "client", "train", "dashboard"}

MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "processes": {"errors"},
    "wire": BASE,
    "memory": BASE,
    "observe": BASE,
    "server": BASE | LOW,
    "client": BASE | LOW,
    "train": BASE | LOW,
    "dashboard": BASE | LOW,
    "launch": BASE | LOW | MIDDLE,
    "adapters": BASE | {"wire", "client"},
    "testing": BASE | LOW | {"client", "server"},
    "cli": BASE | LOW | MIDDLE | {"launch"},
    "__main__": {"cli"},
    "__init__": {"errors", "client"},
}

# Module → the only places (rooms, or files of rooms) that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": ("train",),
    "safetensors": ("train",),
    "ray": ("launch/cluster.py",),
    "socket": ("server", "client/transport.py", "launch", "testing"),
    "socketserver": ("testing",),
    "ssl": ("server", "client/transport.py"),
    "http": ("server", "client/transport.py", "testing"),
    "urllib.request": (),
    "uvicorn": ("server",),
    "starlette": ("server", "dashboard", "launch"),
    "websockets": ("server",),
    "mmap": ("memory",),
    "multiprocessing": ("memory/block.py",),
    "subprocess": ("processes.py",),
    "pickle": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
    "requests": (),
    "httpx": (),
}

IMPURE = set("asyncio logging os random secrets selectors socket subprocess threading time uuid".split())
