"""Where torch computes: `--device`. Only processes that compute with torch ask; the launcher does for `cuda` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiserverrl.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["open_device", "require_device"]


def require_device(wanted: str) -> None:
    """ConfigError when `--device cuda` is asked for where torch finds no GPU; imports torch only then."""
    if wanted == "cuda":
        _cuda_or_error()


def open_device(wanted: str, threads: int) -> torch.device:
    """Make torch ready in this process: where it computes, with how many threads, without denormals."""
    import torch

    torch.set_num_threads(threads)
    # Dead ReLUs leave zeros in the gradient, Adam's moments then decay into denormals: 1.7 times slower.
    torch.set_flush_denormal(True)
    if wanted == "cuda":
        _cuda_or_error()
    is_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if is_cuda else "cpu")


def _cuda_or_error() -> None:
    import torch

    if not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is a build for the CPU alone"
        raise ConfigError(f"--device is 'cuda': torch {torch.__version__} here {why}; use --device auto or cpu")
