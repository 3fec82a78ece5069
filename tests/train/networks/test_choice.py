from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from multiserverrl.errors import ConfigError
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.choice import encoder_for, is_plain
from multiserverrl.train.networks.encoders import Encoder
from multiserverrl.train.networks.tensors import tensors_of, weights_on
from multiserverrl.train.task import Task, task_of

CPU = torch.device("cpu")


def a_task(space: gymnasium.Space[object]) -> Task:
    return task_of(space, spaces.Discrete(2))


def images(*shape: int, dtype: type = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype)


def features(encoder: Encoder, task: Task, space: gymnasium.Space[object], N: int = 3) -> torch.Tensor:
    envs_obs = gymnasium.vector.utils.batch_space(space, N).sample()
    obs = tensors_of(task.packed(envs_obs), task, CPU)
    return encoder.forward(weights_on(encoder.fresh(np.random.default_rng(0)), CPU), obs)


def layers(encoder: Encoder) -> set[str]:
    return {name.removesuffix(".weight") for name in encoder.fields if name.endswith(".weight")}


NATURE = {f"encoder.{layer}" for layer in ("conv0", "conv1", "conv2", "linear")}
SMALL = {f"encoder.{layer}" for layer in ("conv0", "conv1", "linear")}
MLP = {"encoder.layer0", "encoder.layer1"}


@pytest.mark.parametrize(
    ("space", "network", "wanted", "size"),
    [
        (spaces.Box(-1.0, 1.0, (4,)), "auto", MLP, 16),
        (spaces.Box(-1.0, 1.0, (3, 4)), "auto", MLP, 16),
        (images(128), "auto", MLP, 16),
        (images(84, 84, 3), "mlp", MLP, 16),
        (images(4, 84, 84), "auto", NATURE, 512),
        (images(64, 64, 3), "auto", NATURE, 512),
        (images(40, 40), "nature", NATURE, 512),
        (images(63, 84, 3), "auto", SMALL, 128),
        (images(10, 10, 4, dtype=np.bool_), "auto", SMALL, 128),
        (images(84, 84, 1), "small", SMALL, 128),
    ],
)
def test_the_network_is_chosen_by_the_shape_or_by_its_name(
    space: spaces.Box, network: str, wanted: set[str], size: int
) -> None:
    task, config = a_task(space), TrainConfig(network=network, hidden="32,16")
    encoder = encoder_for(config, task)
    assert layers(encoder) == wanted
    assert features(encoder, task, space).shape == (3, encoder.size) == (3, size)
    assert is_plain(config, task) == (wanted == MLP)


def test_a_dict_of_images_and_numbers_has_an_encoder_for_each_image_and_one_hidden_layer() -> None:
    space = spaces.Dict(
        camera=images(64, 64, 3), map=images(8, 9, dtype=np.bool_), speed=spaces.Box(-1.0, 1.0, (2,)), ram=images(16)
    )
    task, config = a_task(space), TrainConfig(hidden="32,16")
    encoder = encoder_for(config, task)
    camera = {name.replace("encoder.", "encoder.camera.") for name in NATURE}
    its_map = {name.replace("encoder.", "encoder.map.") for name in SMALL}
    assert layers(encoder) == camera | its_map | {"encoder.layer0"}
    assert encoder.fields["encoder.layer0.weight"] == ("float32", (16, 512 + 128 + 2 + 16))
    assert features(encoder, task, space).shape == (3, 16)
    assert not is_plain(config, task)


def test_a_dict_of_numbers_alone_has_all_hidden_layers() -> None:
    space = spaces.Dict(position=spaces.Box(-1.0, 1.0, (3,)), gripper=spaces.Box(0.0, 1.0, ()))
    task, config = a_task(space), TrainConfig(hidden="32,16")
    encoder = encoder_for(config, task)
    assert layers(encoder) == MLP
    assert encoder.fields["encoder.layer0.weight"] == ("float32", (32, 4))
    assert features(encoder, task, space).shape == (3, 16)
    assert not is_plain(config, task)  # its parts are taken apart by torch


@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3), (3, 10, 12)])
def test_frames_of_a_stack_are_planes_whatever_their_number(shape: tuple[int, ...]) -> None:
    config = TrainConfig()
    single, task = encoder_for(config, a_task(images(*shape))), a_task(images(*shape)).stacked(16)
    encoder = encoder_for(config, task)
    channels = 1 if len(shape) == 2 else 3
    assert single.fields["encoder.conv0.weight"] == ("float32", (16, channels, 3, 3))
    assert encoder.fields["encoder.conv0.weight"] == ("float32", (16, 16 * channels, 3, 3))
    obs = np.random.default_rng(0).integers(0, 256, (2, *task.obs_shape), np.uint8)
    weights = encoder.fresh(np.random.default_rng(0))
    seen = encoder.forward(weights_on(weights, CPU), tensors_of(obs, task, CPU))
    oldest = {**weights, "encoder.conv0.weight": weights["encoder.conv0.weight"].copy()}
    oldest["encoder.conv0.weight"][:, channels:] = 0
    first = {**oldest, "encoder.conv0.weight": oldest["encoder.conv0.weight"][:, :channels].copy()}
    seen_first = single.forward(weights_on(first, CPU), torch.from_numpy(obs[:, 0].copy()))
    torch.testing.assert_close(encoder.forward(weights_on(oldest, CPU), tensors_of(obs, task, CPU)), seen_first)
    assert not torch.allclose(seen, seen_first)


def test_a_stack_of_what_is_no_image_is_none_either() -> None:
    task = a_task(images(128)).stacked(4)
    assert is_plain(TrainConfig(), task)
    assert encoder_for(TrainConfig(hidden="8"), task).fields["encoder.layer0.weight"] == ("float32", (8, 512))


def test_the_axis_of_the_channels_can_be_said() -> None:
    task = a_task(images(20, 12, 16))
    for channels, planes in (("first", 20), ("last", 16), ("auto", 16)):
        encoder = encoder_for(TrainConfig(image_channels=channels), task)
        assert encoder.fields["encoder.conv0.weight"] == ("float32", (16, planes, 3, 3))


@pytest.mark.parametrize(
    ("space", "network", "why"),
    [
        (images(20, 90), "nature", "--network is 'nature': it needs images of at least 36 x 36, these are 20 x 90"),
        (spaces.Box(-1.0, 1.0, (4,)), "small", r"--network is 'small', for images; .* are float32\(4,\): use"),
        (
            spaces.Dict(a=spaces.Box(-1.0, 1.0, (4,))),
            "impala",
            r"for images; .* float32\(4,\): use --network auto or mlp",
        ),
    ],
)
def test_a_network_that_cannot_take_what_the_env_shows_is_refused(
    space: gymnasium.Space[object], network: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        encoder_for(TrainConfig(network=network), a_task(space))


def test_the_impala_network_is_not_small() -> None:
    encoder = encoder_for(TrainConfig(network="impala"), a_task(images(84, 84, 4)))
    assert sum(math.prod(shape) for _, shape in encoder.fields.values()) == 97_600 + 144 + 11 * 11 * 32 * 256 + 256
