"""The trainer's arrays as torch tensors on the device that computes, and back: one copy each, none on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from multiserverrl.train.networks.plain import Array
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

    from multiserverrl.train.networks.encoders import Observation

__all__ = ["arrays_of", "on_device", "tensors_of", "weights_on"]


def tensors_of(obs: Array, task: Task, device: torch.device) -> Observation:
    """What an encoder takes: (N, *obs_shape), or each part's (N, *shape) by its name, of the env's own dtypes.

    Several parts lie in one structured array (N,) with the fields f0, f1, ... in the order of `task.obs_parts`; they
    travel as one and are taken apart on the device. On the CPU an observation of one part shares the array's memory.
    """
    if not task.obs_parts:
        return on_device(obs, device)
    import torch

    row = obs.dtype
    assert row.fields is not None
    rows = on_device(np.ascontiguousarray(obs).view(np.uint8).reshape(len(obs), row.itemsize), device)
    parts = {}
    for number, part in enumerate(task.obs_parts):
        kind, first = row.fields[f"f{number}"][:2]
        bytes_of_part = rows[:, first : first + kind.itemsize].clone(memory_format=torch.contiguous_format)  # aligned
        parts[part.name] = bytes_of_part.view(getattr(torch, part.dtype)).reshape(len(obs), *part.shape)
    return parts


def weights_on(weights: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """A snapshot to compute with. On the CPU the tensors share the arrays' memory."""
    return {name: on_device(array, device) for name, array in weights.items()}


def arrays_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Copies as NumPy arrays: of weights to be published, of a state to be kept. They come from a GPU all at once."""
    import torch

    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()]).cpu().numpy()
    arrays, first = {}, 0
    for name, tensor in tensors.items():
        arrays[name] = flat[first : first + tensor.numel()].reshape(tensor.shape)
        first += tensor.numel()
    return arrays


def on_device(array: Array, device: torch.device) -> torch.Tensor:
    """One copy, through pinned memory and without waiting for it, where `device` is a GPU; else the array itself."""
    import torch

    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of what is read-only
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
