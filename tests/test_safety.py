"""Nothing in src can run what comes over a wire or from a file: the source is searched for whatever could.

Imports of dangerous modules are looked at here and in test_layers; this looks at calls, whatever name they go by.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "multiserverrl"

MODULES = {
    *("pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal"),
    *("shelve", "dbm", "code", "codeop", "runpy", "imp", "xmlrpc", "yaml", "zipimport", "numpy.lib.format", "pty"),
    *("multiprocessing.connection", "multiprocessing.managers", "multiprocessing.reduction", "logging.config"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    *("read_pickle", "to_pickle", "fromfile", "load_module", "allow_pickle", "unsafe_load", "full_load"),
    *("system", "popen", "execv", "execve", "execvp", "execl", "spawnv", "posix_spawn", "mktemp"),
}
LOADERS = {("np", "load"), ("numpy", "load"), ("torch", "load"), ("torch", "save"), ("yaml", "load"), ("np", "loads")}
DYNAMIC_IMPORTS = {  # file → whose word is imported
    "__init__.py": "a name of the package's own",
    "processes.py": "the entry that the parent names",
    "server/making.py": "what the operator listed",
    "server/sources.py": "what the operator listed",
    "server/envpool.py": "envpool",
}


def dangers(text: str, file: str) -> Iterator[str]:
    """What in a file could run foreign code, with its line."""
    for node in ast.walk(ast.parse(text)):
        told = _danger(node, file)
        if told:
            yield f"{file}:{getattr(node, 'lineno', 0)} {told}"


def _danger(node: ast.AST, file: str) -> str:
    if isinstance(node, ast.Import):
        return ", ".join(alias.name for alias in node.names if _is_dangerous(alias.name))
    if isinstance(node, ast.ImportFrom):
        names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        return ", ".join(name for name in names if _is_dangerous(name))
    if isinstance(node, ast.Name) and node.id in BUILTINS:
        return node.id
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in ATTRIBUTES or (owner, node.attr) in LOADERS:
            return f"{owner}.{node.attr}"
        if node.attr == "import_module" and file not in DYNAMIC_IMPORTS:
            return "import_module"
    if isinstance(node, ast.keyword) and (node.arg in ("allow_pickle", "weights_only") or _is_shell(node)):
        return str(node.arg)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES - {"code"}:
        return f"the name {node.value!r}"
    return ""


def _is_dangerous(module: str) -> bool:
    return any((module + ".").startswith(name + ".") for name in MODULES)


def _is_shell(keyword: ast.keyword) -> bool:
    return keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)


def test_nothing_in_src_could_run_what_it_reads() -> None:
    found = [
        danger
        for path in sorted(SOURCE.rglob("*.py"))
        for danger in dangers(path.read_text("utf-8"), path.relative_to(SOURCE).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import numpy.lib.format",
        "from multiprocessing import connection",
        "def f(x):\n    import _pickle as innocent",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module as i\ni('marshal')",
        "import numpy as np\nnp.load(path)",
        "import numpy\nread = numpy.load",
        "open_it(path, allow_pickle=True)",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=True)",
        "eval(text)",
        "run = exec",
        "__import__(name)",
        "import os\nos.system(text)",
        "subprocess.run(text, shell=True)",
        "frame.to_pickle(path)",
    ],
)
def test_the_search_finds(text: str) -> None:
    assert list(dangers(text, "client/env.py"))


def test_dynamic_imports_are_where_the_list_says() -> None:
    for file in DYNAMIC_IMPORTS:
        assert "import_module" in (SOURCE / file).read_text("utf-8"), f"{file} imports nothing by name any more"
