from __future__ import annotations

import numpy as np
import pytest
import torch

from multiserverrl.train.networks.images import Image, image_of, numbers, planes
from multiserverrl.train.networks.plain import numbers_of


@pytest.mark.parametrize(
    ("dtype", "shape", "image"),
    [
        ("uint8", (84, 84), Image(1, 84, 84, 1, False)),
        ("uint8", (210, 160, 3), Image(1, 210, 160, 3, False)),
        ("uint8", (4, 84, 84), Image(1, 84, 84, 4, True)),
        ("bool", (10, 10, 4), Image(1, 10, 10, 4, False)),
        ("bool", (10, 10, 10), Image(1, 10, 10, 10, False)),
        ("float32", (3, 64, 64), Image(1, 64, 64, 3, True)),
        ("uint8", (4, 84, 84, 3), Image(4, 84, 84, 3, False)),
        ("uint8", (4, 3, 84, 84), Image(4, 84, 84, 3, True)),
        ("uint8", (2, 20, 90), Image(1, 20, 90, 2, True)),
        ("uint8", (3, 3), Image(1, 3, 3, 1, False)),
    ],
)
def test_an_image_is_known_by_its_shape(dtype: str, shape: tuple[int, ...], image: Image) -> None:
    assert image_of(dtype, shape) == image


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("uint8", (128,)), ("float32", (3, 4)), ("uint8", (2, 84)), ("float32", (1, 2, 3, 4, 5)), ("float32", ())],
)
def test_what_is_no_image_is_not_taken_for_one(dtype: str, shape: tuple[int, ...]) -> None:
    assert image_of(dtype, shape) is None


def test_the_side_of_the_channels_can_be_said_where_the_shape_would_mislead() -> None:
    assert image_of("bool", (12, 10, 10)) == Image(1, 12, 10, 10, False)
    assert image_of("bool", (12, 10, 10), "first") == Image(1, 10, 10, 12, True)
    assert image_of("uint8", (5, 30, 40), "last") == Image(1, 5, 30, 40, False)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (2, 5, 7), (3, 5, 7, 2), (3, 2, 5, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_planes_are_the_frames_channels_one_after_the_other(dtype: str, shape: tuple[int, ...]) -> None:
    obs = np.random.default_rng(0).integers(0, 256 if dtype == "uint8" else 2, (6, *shape)).astype(dtype)
    image = image_of(dtype, shape)
    assert image is not None
    seen = planes(torch.from_numpy(obs), image)
    assert seen.dtype == torch.float32
    assert seen.shape == (6, image.planes, 5, 7)
    frames = obs.reshape(6, image.frames, *(shape[1:] if len(shape) == 4 else shape))
    for frame in range(image.frames):
        for channel in range(image.channels):
            whole = frames[:, frame]
            one = whole if len(shape) == 2 else whole[:, channel] if image.has_channels_first else whole[..., channel]
            wanted = one / 255 if dtype == "uint8" else one
            np.testing.assert_allclose(seen[:, frame * image.channels + channel].numpy(), wanted, atol=1e-6)


def test_looking_at_an_image_leaves_it_as_it_was() -> None:
    obs = torch.full((2, 4, 4, 3), 0.5)
    image = image_of("float32", (4, 4, 3))
    assert image is not None
    planes(obs, image)
    numbers(obs)
    assert (obs == 0.5).all()


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", "float64", "int64"])
def test_numbers_are_the_same_in_torch_and_numpy(dtype: str) -> None:
    obs = np.random.default_rng(0).integers(0, 2, (3, 2, 4)).astype(dtype)
    plain, torchs = numbers_of(obs), numbers(torch.from_numpy(obs)).numpy()
    assert plain.dtype == torchs.dtype == np.float32
    np.testing.assert_array_equal(plain, torchs)
    assert plain.shape == (3, 8)
    assert plain.max() == pytest.approx(1 / 255 if dtype == "uint8" else 1.0)
