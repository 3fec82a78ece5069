"""A small task is trained without torch: no process of a real run asks for it, as long as it lives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from multiserverrl.observe.metrics import read_metrics

NOTE = "import os, sys\nwith open(os.environ['NOTES'] + '/{of}', 'a') as notes: print(*sys.orig_argv[1:], file=notes)\n"
PROCESSES = ("train", "run_front", "run_worker", "entries:explorer", "entries:learner", "entries:evaluator")
TINY = ["--hidden", "16", "--count", "4", "--eval-episodes", "2", "--stop-at-return", "1e9", "--learning-rate", "1e-6"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which each Python notes that it has begun, and who asks for torch; nobody gets it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NOTE.format(of="begun"))
    (site / "torch.py").write_text(NOTE.format(of="asked") + "raise ImportError('torch is not for small tasks')\n")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NOTES": str(tmp_path)}


@pytest.mark.parametrize(
    "flags",
    [
        ["--algorithm", "dqn", "--warmup-steps", "50", "--explorers", "2"],
        ["--algorithm", "pqn", "--inference", "central"],
    ],
    ids=["dqn", "pqn"],
)
def test_no_process_of_a_small_task_imports_torch(
    tmp_path: Path, environment: dict[str, str], flags: list[str]
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "multiserverrl", "train", "CartPole-v1", "--run-dir", str(run), "--episodes", "20"]
    done = subprocess.run(
        [*command, *TINY, *flags], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    begun = (tmp_path / "begun").read_text()
    assert [name for name in (*PROCESSES, "entries:inference") if name not in begun] == [], "the notes do not see all"
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()
    assert re.search(r"inference_deadline_s\s+0.001,", done.stdout), "every run tells all of its settings"
    result = json.loads((run / "result.json").read_text())
    assert result["updates"] > 50
    assert result["eval_mean"] is not None
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert last["replay_ratio"] == pytest.approx(0.25 if "dqn" in flags else 0.0, rel=0.05)
    batches, waits = (sum(last[name].values()) for name in ("batch_rows_to", "batch_wait_us_to"))
    assert batches > 10
    assert batches == pytest.approx(waits, abs=2)


def test_who_asks_for_torch_is_noted(tmp_path: Path, environment: dict[str, str]) -> None:
    code = "from multiserverrl.train.networks.device import open_device; open_device('cpu', 1)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False)
    assert b"torch is not for small tasks" in done.stderr
    assert "open_device" in (tmp_path / "asked").read_text()
