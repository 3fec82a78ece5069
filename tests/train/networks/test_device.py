from __future__ import annotations

import sys

import pytest
import torch

from multiserverrl.errors import ConfigError
from multiserverrl.train.networks.device import open_device, require_device


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device("auto", 1) == open_device("cpu", 1) == torch.device("cpu")


def test_auto_is_the_gpu_where_there_is_one_and_cpu_is_the_cpu_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_device("auto", 1) == open_device("cuda", 1) == torch.device("cuda")
    assert open_device("cpu", 1) == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused_by_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for refuses in (lambda: open_device("cuda", 1), lambda: require_device("cuda")):
        with pytest.raises(ConfigError, match=r"--device is 'cuda': torch .* use --device auto or cpu"):
            refuses()


def test_torch_is_not_asked_where_no_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it now raises
    require_device("auto")
    require_device("cpu")


def test_torch_is_ready_with_so_many_threads_and_no_denormals() -> None:
    open_device("cpu", 1)
    assert torch.get_num_threads() == 1
    assert float(torch.tensor([1e-38]) * 1e-4) == 0.0
