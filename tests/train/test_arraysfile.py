from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multiserverrl.train.arraysfile import digest_of, parts_of, read_arrays

DTYPE = np.dtype("(4, 5, 3)|u1,(2,)<f4,()<i8,")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    structured = np.zeros((3, 2), DTYPE)
    structured["f0"] = rng.integers(0, 256, (3, 2, 4, 5, 3))
    structured["f1"] = rng.normal(size=(3, 2, 2))
    structured["f2"] = 1 << 40
    return {"obs": structured, "none": np.zeros(0, DTYPE), "reward": rng.normal(size=5), "one": np.float32([1, 2])}


def written(path: Path, kept: dict[str, np.ndarray]) -> Path:
    path.write_bytes(b"".join(bytes(part) for part in parts_of(kept, {"why": "x"})))
    return path


def test_structured_arrays_come_back_to_the_bit(tmp_path: Path) -> None:
    kept = arrays()
    found = read_arrays(written(tmp_path / "a", kept))
    assert found.keys() == kept.keys()
    for name, array in kept.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert digest_of(found) == digest_of(kept)


def test_the_digest_knows_what_bytes_mean() -> None:
    bits = np.arange(8, dtype=np.uint8)
    dtypes = [np.dtype("()<i8,"), np.dtype("(2,)<f4,"), np.dtype("(1, 2)<f4,"), np.dtype("(8,)|u1,")]
    assert len({digest_of({"a": bits.view(dtype)}) for dtype in dtypes}) == 4


@pytest.mark.parametrize(
    "text", ["(2,)<f4,", "(4, 5, 3)|u1", "|O,", "()|O8,", "(4, 5, 3)|u1,(2,)<f4,()<i8,()<M8,", "x" * 70_000, ""]
)
def test_a_structure_that_is_none_or_another_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a", arrays())
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    assert header["__metadata__"]["structure of obs"] == "(4, 5, 3)|u1,(2,)<f4,()<i8,"
    header["__metadata__"]["structure of obs"] = text
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + whole[8 + length :])
    with pytest.raises(ValueError, match="obs"):
        read_arrays(path)
