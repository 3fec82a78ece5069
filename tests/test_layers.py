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

BASE = {"errors", "settings", "settingsfile", "processes"}
LOW = {"wire", "memory", "observe"}
MIDDLE = {"server", "client", "train", "dashboard"}

MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "settingsfile": {"errors"},
    "processes": {"errors"},
    "wire": BASE,
    "memory": BASE,
    "observe": BASE,
    "envs": set(),
    "server": BASE | LOW,
    "client": BASE | LOW,
    "train": BASE | LOW,
    "dashboard": BASE | LOW,
    "launch": BASE | LOW | MIDDLE,
    "adapters": BASE | {"wire", "client"},
    "testing": BASE | LOW | {"client", "server"},
    "cli": BASE | LOW | MIDDLE | {"launch", "testing"},
    "__main__": {"cli"},
    "__init__": {"errors", "client", "envs"},
}

# Module → the only places (rooms, or files of rooms) that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": ("train",),
    "safetensors": ("train",),
    "ray": ("launch/cluster.py",),
    "av": ("launch/filming.py",),
    "socket": (
        "server",
        "client/address.py",
        "client/transport.py",
        "client/trust.py",
        "client/patience.py",
        "client/fetching.py",
        "launch",
        "testing",
    ),
    "socketserver": ("testing",),
    "ssl": ("server", "client/transport.py", "client/trust.py", "client/patience.py"),
    "http": ("server", "client/fetching.py", "testing"),
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

IMPURE = {
    *("asyncio", "logging", "os", "random", "secrets", "selectors"),
    *("socket", "subprocess", "threading", "time", "uuid"),
}


class Import(NamedTuple):
    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.module}"


def imports_of(text: str, file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} a relative import"
            yield from (Import(file, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and NAME_IN_A_STRING.fullmatch(str(node.value)):
            yield Import(file, node.lineno, str(node.value).replace(":", "."))


def all_imports() -> list[Import]:
    files = sorted((SOURCE / PACKAGE).rglob("*.py"))
    return [
        found for file in files for found in imports_of(file.read_text("utf-8"), file.relative_to(SOURCE / PACKAGE))
    ]


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def breaches_of_the_map(imports: list[Import]) -> list[str]:
    found = []
    for item in imports:
        package, _, rest = item.module.partition(".")
        room, other = room_of(item.file), rest.split(".")[0]
        if package != PACKAGE or other == room or not is_a_room(other):
            continue
        if other not in MAY_KNOW[room]:
            found.append(f"{item}: {room} may not know {other}")
    return found


def is_a_room(name: str) -> bool:
    """False for what __init__ itself offers, such as __version__ or a class."""
    return name in MAY_KNOW or (SOURCE / PACKAGE / name).is_dir()


def is_inside(file: Path, places: tuple[str, ...]) -> bool:
    return file.as_posix() in places or room_of(file) in places


def misplaced(imports: list[Import]) -> list[str]:
    return [
        f"{item}: {module} only in {', '.join(places) or 'no file'}"
        for item in imports
        for module, places in ONLY_IN.items()
        if (item.module + ".").startswith(module + ".") and not is_inside(item.file, places)
    ]


def test_every_room_is_on_the_map() -> None:
    rooms = {
        path.name.removesuffix(".py")
        for path in (SOURCE / PACKAGE).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms <= set(MAY_KNOW), "a room that the map does not know: add it to MAY_KNOW and to docs/architecture.md"


def test_imports_run_one_way_only() -> None:
    assert breaches_of_the_map(all_imports()) == []


def test_torch_sockets_processes_and_pickles_stay_where_they_belong() -> None:
    assert misplaced(all_imports()) == []


def test_nothing_of_multiprocessing_but_its_shared_memory_is_used() -> None:
    used = {item.module for item in all_imports() if item.module.split(".")[0] == "multiprocessing"}
    assert used <= {"multiprocessing.shared_memory.SharedMemory"}


def test_the_wire_room_has_no_clock_socket_thread_or_log() -> None:
    impure = [
        str(item) for item in all_imports() if room_of(item.file) == "wire" and item.module.split(".")[0] in IMPURE
    ]
    assert impure == []


@pytest.mark.parametrize(
    ("file", "text", "breach"),
    [
        ("server/app.py", "from multiserverrl.client import env", "server may not know client"),
        ("train/learner.py", "def f():\n    import multiserverrl.launch.roles", "train may not know launch"),
        ("server/pool.py", "start_child('multiserverrl.train.learner:run', b'')", "server may not know train"),
        ("wire/frames.py", "from multiserverrl.memory import Block", "wire may not know memory"),
        ("errors.py", "import multiserverrl.settings", "errors may not know settings"),
        ("launch/local.py", "from multiserverrl import testing", "launch may not know testing"),
    ],
)
def test_the_map_refuses(file: str, text: str, breach: str) -> None:
    assert breaches_of_the_map(list(imports_of(text, Path(file))))[0].endswith(breach)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("client/env.py", "import torch.nn as nn"),
        ("client/link.py", "import socket"),
        ("launch/local.py", "import ray"),
        ("observe/rundir.py", "from multiprocessing import shared_memory"),
        ("train/checkpoint.py", "import pickle"),
    ],
)
def test_the_places_refuse(file: str, text: str) -> None:
    assert len(misplaced(list(imports_of(text, Path(file))))) == 1


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_neither_torch_nor_ray_nor_its_own_rooms() -> None:
    rooms = {f"{PACKAGE}.{room}" for room in ("server", "train", "launch", "testing", "wire")}
    code = f"import sys, {PACKAGE}; print(sorted(({{'torch', 'ray'}} | {rooms}) & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


def modules_of(*rooms: str) -> list[str]:
    files = [file for room in rooms for file in sorted((SOURCE / PACKAGE / room).rglob("*.py"))]
    return [".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_client_server_and_command_line_import_without_torch() -> None:
    modules = [*modules_of("wire", "memory", "observe", "server", "client", "testing"), f"{PACKAGE}.cli"]
    code = "import sys, importlib; sys.modules['torch'] = None\n"  # an import of torch now raises ImportError
    run_python(code + f"for name in {modules!r}: importlib.import_module(name)")


def test_explorers_and_env_workers_never_import_torch() -> None:
    modules = [
        f"{PACKAGE}.train.{name}" for name in ("explorer", "channels", "config", "networks.choice")
    ] + modules_of("server")
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    assert run_python(code + "print('torch' in sys.modules)").strip() == "False"
