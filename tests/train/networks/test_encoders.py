from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from multiserverrl.train.networks.encoders import Encoder, Impala, Mlp, Numbers, Parts, nature, small
from multiserverrl.train.networks.images import Image, image_of

Array = np.ndarray[Any, Any]
IMAGES: dict[str, Callable[[Image], Encoder]] = {"nature": nature, "small": small, "impala": Impala}


def an_image(shape: tuple[int, ...]) -> Image:
    image = image_of("uint8", shape)
    assert image is not None
    return image


def tensors(weights: dict[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def pictures(shape: tuple[int, ...], B: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (B, *shape), dtype=np.uint8)


def count(encoder: Encoder) -> int:
    return sum(math.prod(shape) for _, shape in encoder.fields.values())


def slow_convolution(values: Array, weight: Array, bias: Array, stride: Any, padding: Any) -> Array:
    """(B, C, H, W) → (B, out, H', W'), one output pixel at a time, in float64."""
    kernel = weight.shape[2]
    values = np.pad(values, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
    rows = range(0, values.shape[2] - kernel + 1, stride[0])
    columns = range(0, values.shape[3] - kernel + 1, stride[1])
    out = np.empty((len(values), len(weight), len(rows), len(columns)))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            window = values[:, :, row : row + kernel, column : column + kernel]
            out[:, :, y, x] = np.einsum("bchw,ochw->bo", window, weight) + bias
    return out


def slow_pool(values: Array) -> Array:
    """The greatest of each 3 × 3, two apart, beginning one outside."""
    height, width = values.shape[2:]
    rows, columns = range(0, height, 2), range(0, width, 2)
    out = np.empty((*values.shape[:2], len(rows), len(columns)))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            window = values[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            out[:, :, y, x] = window.max(axis=(2, 3))
    return out


def relu(values: Array) -> Array:
    return np.maximum(values, 0.0)


def slow_linear(weights: dict[str, Array], name: str, values: Array) -> Array:
    return relu(values.reshape(len(values), -1) @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"])


def slow_stack(weights: dict[str, Array], planes: Array, layers: list[tuple[Any, Any]]) -> Array:
    for number, (stride, padding) in enumerate(layers):
        name = f"encoder.conv{number}"
        planes = relu(slow_convolution(planes, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding))
    return slow_linear(weights, "encoder.linear", planes)


def slow_impala(weights: dict[str, Array], planes: Array) -> Array:
    def conv(name: str, values: Array) -> Array:
        return slow_convolution(values, weights[f"{name}.weight"], weights[f"{name}.bias"], (1, 1), (1, 1))

    for stage in ("encoder.stage0", "encoder.stage1", "encoder.stage2"):
        planes = slow_pool(conv(f"{stage}.conv", planes))
        for block in (f"{stage}.block0", f"{stage}.block1"):
            planes = planes + conv(f"{block}.conv1", relu(conv(f"{block}.conv0", relu(planes))))
    return slow_linear(weights, "encoder.linear", relu(planes))


@pytest.mark.parametrize(
    ("encoder", "shape", "slow"),
    [
        (nature, (36, 44, 3), lambda w, p: slow_stack(w, p, [((4, 4), (0, 0)), ((2, 2), (0, 0)), ((1, 1), (0, 0))])),
        (small, (10, 10, 4), lambda w, p: slow_stack(w, p, [((1, 1), (0, 0)), ((1, 1), (0, 0))])),
        (small, (20, 25, 2), lambda w, p: slow_stack(w, p, [((2, 2), (0, 0)), ((2, 2), (0, 0))])),
        (small, (20, 50, 2), lambda w, p: slow_stack(w, p, [((4, 4), (0, 0)), ((2, 2), (0, 0))])),
        (small, (3, 22, 1), lambda w, p: slow_stack(w, p, [((1, 2), (0, 0)), ((1, 2), (1, 0))])),
        (Impala, (9, 12, 3), slow_impala),
    ],
)
def test_features_are_those_of_plain_numpy_loops(
    encoder: Callable[[Image], Encoder], shape: tuple[int, ...], slow: Callable[[dict[str, Array], Array], Array]
) -> None:
    made = encoder(an_image(shape))
    weights = {name: 2 * array for name, array in made.fresh(np.random.default_rng(0)).items()}  # features far from 0
    obs = pictures(shape)
    wanted = slow(weights, obs.transpose(0, 3, 1, 2) / 255)
    features = made.forward(tensors(weights), torch.from_numpy(obs)).numpy()
    assert features.shape == (2, made.size)
    assert wanted.max() > 0.1
    np.testing.assert_allclose(features, wanted, atol=2e-5 * wanted.max())


def test_channels_first_and_last_give_the_same_features() -> None:
    first, last = small(an_image((3, 12, 16))), small(an_image((12, 16, 3)))
    weights = tensors(first.fresh(np.random.default_rng(0)))
    obs = torch.from_numpy(pictures((3, 12, 16)))
    torch.testing.assert_close(first.forward(weights, obs), last.forward(weights, obs.permute(0, 2, 3, 1)))


def test_the_numbers_of_weights_are_the_papers() -> None:
    atari = nature(an_image((84, 84, 4)))
    assert count(atari) == 1_684_128
    assert count(atari) + 4 * (512 + 1) == 1_686_180  # with Breakout's four actions
    lab = Impala(an_image((72, 96, 3)))
    assert sum(len(shape) == 4 for _, shape in lab.fields.values()) == 15  # "15 convolutional layers"
    assert count(lab) == 97_600 + 9 * 12 * 32 * 256 + 256
    minatar = small(an_image((10, 10, 4)))
    assert minatar.fields["encoder.conv0.weight"] == ("float32", (16, 4, 3, 3))


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize(
    "shape", [(3, 3, 1), (3, 50), (4, 5, 5), (10, 10, 7), (20, 90), (36, 36), (37, 61, 3), (64, 64, 3), (2, 19, 21)]
)
def test_images_of_many_sizes_have_features_or_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    image = an_image(shape)
    if kind == "nature" and min(image.size) < 36:
        with pytest.raises(ValueError, match=rf"at least 36 x 36, these are {image.height} x {image.width}"):
            nature(image)
        return
    encoder = IMAGES[kind](image)
    weights = encoder.fresh(np.random.default_rng(0))
    assert {name: (str(array.dtype), array.shape) for name, array in weights.items()} == encoder.fields
    features = encoder.forward(tensors(weights), torch.from_numpy(pictures(shape, B=3)))
    assert features.shape == (3, encoder.size)
    assert (features.std(0) > 0).any()


@pytest.mark.parametrize("kind", IMAGES)
def test_fresh_weights_are_drawn_as_torch_draws_them_and_named_by_the_seed(kind: str) -> None:
    encoder = IMAGES[kind](an_image((40, 36, 3)))
    first, same, other = (encoder.fresh(np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name, array in first.items():
        assert name.startswith("encoder.")
        np.testing.assert_array_equal(array, same[name])
        assert (array != other[name]).any()
        shape = first[name.replace(".bias", ".weight")].shape
        torchs = torch.nn.Linear(*shape[::-1]) if len(shape) == 2 else torch.nn.Conv2d(*shape[1::-1], shape[2])
        bound = float(torchs.weight.detach().abs().max())
        if array.size >= 100:
            assert np.abs(array).max() == pytest.approx(bound, rel=0.05)


def test_an_mlp_is_torchs() -> None:
    encoder = Mlp(6, (16, 8))
    weights = encoder.fresh(np.random.default_rng(0))
    layers = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU())
    for parameter, array in zip(layers.parameters(), weights.values(), strict=True):
        parameter.data = torch.from_numpy(array)
    obs = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32))
    torch.testing.assert_close(encoder.forward(tensors(weights), obs), layers(obs.flatten(1)).detach())
    assert list(weights) == [f"encoder.layer{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")]


def slow_norm(values: Array, scale: Array, shift: Array) -> Array:
    """Of each row: mean 0 and variance 1 over all its numbers, then a scale and a shift for each channel."""
    rows = values.reshape(len(values), -1)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    each = (1, -1, *[1] * (values.ndim - 2))
    return rows.reshape(values.shape) * scale.reshape(each) + shift.reshape(each)


def test_layer_norms_come_before_each_relu() -> None:
    encoder = small(an_image((7, 9, 2)), layer_norm=True)
    weights = encoder.fresh(np.random.default_rng(0))
    assert all((array == 1).all() for name, array in weights.items() if name.endswith(".scale"))
    assert all((array == 0).all() for name, array in weights.items() if name.endswith(".shift"))
    rng = np.random.default_rng(1)
    for name in ("encoder.conv0", "encoder.conv1", "encoder.linear"):
        for kind in (".scale", ".shift"):
            weights[name + kind] += rng.normal(size=weights[name + kind].shape).astype(np.float32)
    obs = pictures((7, 9, 2))
    values = obs.transpose(0, 3, 1, 2) / 255
    for name in ("encoder.conv0", "encoder.conv1"):
        values = slow_convolution(values, weights[f"{name}.weight"], weights[f"{name}.bias"], (1, 1), (0, 0))
        values = relu(slow_norm(values, weights[f"{name}.scale"], weights[f"{name}.shift"]))
    values = values.reshape(2, -1) @ weights["encoder.linear.weight"].T + weights["encoder.linear.bias"]
    wanted = relu(slow_norm(values, weights["encoder.linear.scale"], weights["encoder.linear.shift"]))
    np.testing.assert_allclose(encoder.forward(tensors(weights), torch.from_numpy(obs)).numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", [*IMAGES, "mlp"])
def test_each_layer_can_have_a_norm(kind: str) -> None:
    shape = (37, 38, 2)
    encoder: Encoder
    if kind == "mlp":
        plain, encoder = Mlp(37 * 38 * 2, (8, 4)), Mlp(37 * 38 * 2, (8, 4), layer_norm=True)
    else:
        plain, encoder = IMAGES[kind](an_image(shape)), IMAGES[kind](an_image(shape), layer_norm=True)  # type: ignore[call-arg]
    layers = [name.removesuffix(".weight") for name in plain.fields if name.endswith(".weight")]
    added = {f"{layer}.{kind}" for layer in layers for kind in ("scale", "shift")}
    assert set(encoder.fields) - set(plain.fields) == added
    weights = tensors(encoder.fresh(np.random.default_rng(0)))
    obs = torch.from_numpy(pictures(shape))
    brighter = {name: 3 * weight if name == f"{layers[0]}.weight" else weight for name, weight in weights.items()}
    brighter[f"{layers[0]}.bias"] = 3 * weights[f"{layers[0]}.bias"]
    torch.testing.assert_close(encoder.forward(brighter, obs), encoder.forward(weights, obs), atol=1e-3, rtol=1e-3)


def a_dict_encoder() -> Parts:
    camera = small(an_image((8, 8, 3)), "encoder.camera")
    return Parts({"camera": camera, "speed": Numbers(2), "ram": Numbers(4)}, lambda inputs: Mlp(inputs, (32,)))


def dict_obs(B: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "camera": torch.from_numpy(pictures((8, 8, 3), B)),
        "speed": torch.from_numpy(rng.normal(size=(B, 2)).astype(np.float32)),
        "ram": torch.from_numpy(pictures((2, 2), B)),
    }


def test_parts_are_seen_side_by_side() -> None:
    encoder, obs = a_dict_encoder(), dict_obs(5)
    weights = tensors(encoder.fresh(np.random.default_rng(0)))
    camera = small(an_image((8, 8, 3)), "encoder.camera").forward(weights, obs["camera"])
    joined = torch.cat([camera, obs["speed"], obs["ram"].flatten(1) / 255], 1)
    wanted = torch.nn.functional.linear(joined, weights["encoder.layer0.weight"], weights["encoder.layer0.bias"]).relu()
    torch.testing.assert_close(encoder.forward(weights, obs), wanted)
    assert encoder.size == 32
    assert all(name.startswith(("encoder.camera.", "encoder.layer0.")) for name in encoder.fields)


@pytest.mark.parametrize("kind", [*IMAGES, "mlp", "dict"])
def test_each_encoder_learns_a_batch_by_heart(kind: str) -> None:
    B = 8
    obs: Any
    if kind == "dict":
        encoder, obs = a_dict_encoder(), dict_obs(B)
    elif kind == "mlp":
        encoder, obs = Mlp(12, (32, 16)), torch.from_numpy(pictures((12,), B))
    else:
        shape = (36, 36, 1) if kind == "nature" else (9, 9, 2)
        encoder, obs = IMAGES[kind](an_image(shape)), torch.from_numpy(pictures(shape, B))
    rng = np.random.default_rng(0)
    weights = tensors(encoder.fresh(rng))
    head = torch.from_numpy(rng.normal(size=(encoder.size, 1)).astype(np.float32)) / math.sqrt(encoder.size)
    leaves = [weight.requires_grad_() for weight in weights.values()]
    wanted = torch.from_numpy(rng.normal(size=(B, 1)).astype(np.float32))
    optimiser = torch.optim.Adam([*leaves, head.requires_grad_()], lr=3e-3)
    losses = []
    for _ in range(60 if kind != "mlp" else 200):
        loss = ((encoder.forward(weights, obs) @ head - wanted) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
