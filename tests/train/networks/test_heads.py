"""Heads against slow NumPy, one observation at a time; arrays and tensors alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multiserverrl.train.networks.heads import Head

B, INPUTS, ACTIONS, ATOMS, HIDDEN = 5, 7, 3, 4, 6


def head(*, hidden: int = 0, is_dueling: bool = False, noisy_sigma: float = 0.0, atoms: int = ATOMS) -> Head:
    return Head(INPUTS, ACTIONS, atoms, hidden=hidden, is_dueling=is_dueling, noisy_sigma=noisy_sigma)


def slow_stream(weights: dict[str, np.ndarray], name: str, features: np.ndarray, hidden: int) -> np.ndarray:
    for layer in range(2 if hidden else 1):
        if layer:
            features = np.array([max(feature, 0.0) for feature in features])
        weight, bias = weights[f"{name}.layer{layer}.weight"], weights[f"{name}.layer{layer}.bias"]
        features = np.array([np.dot(row, features) + b for row, b in zip(weight, bias, strict=True)])
    return features


@pytest.mark.parametrize("hidden", [0, HIDDEN])
@pytest.mark.parametrize("is_dueling", [False, True])
def test_values_are_the_slow_ones_in_both_arithmetics(hidden: int, is_dueling: bool) -> None:
    made = head(hidden=hidden, is_dueling=is_dueling)
    rng = np.random.default_rng(0)
    weights, features = made.fresh(rng), rng.normal(size=(B, INPUTS)).astype(np.float32)
    values = made.forward(weights, features)
    assert values.shape == (B, ACTIONS, ATOMS)
    for row in range(B):
        wanted = slow_stream(weights, "head.actions", features[row], hidden).reshape(ACTIONS, ATOMS)
        if is_dueling:
            value = slow_stream(weights, "head.value", features[row], hidden)
            wanted = np.array([value + wanted[action] - sum(wanted) / ACTIONS for action in range(ACTIONS)])
        np.testing.assert_allclose(values[row], wanted, atol=1e-6)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    np.testing.assert_allclose(made.forward(tensors, torch.from_numpy(features)).numpy(), values, atol=1e-6)


def test_noise_is_factorised() -> None:
    made = head(hidden=HIDDEN, is_dueling=True, noisy_sigma=0.5)
    rng = np.random.default_rng(0)
    weights = made.fresh(rng)
    weights["head.value.layer1.weight_sigma"] = rng.normal(size=(ATOMS, HIDDEN)).astype(np.float32)
    noise = made.noise(rng)
    noisy = made.with_noise(weights, noise)
    for stream in ("actions", "value"):
        for layer in ("layer0", "layer1"):
            name = f"head.{stream}.{layer}"
            outputs, inputs = noise[f"{name}.outputs"], noise[f"{name}.inputs"]
            for row in range(len(outputs)):
                sigma = weights[f"{name}.bias_sigma"][row]
                assert noisy[f"{name}.bias"][row] == pytest.approx(weights[f"{name}.bias"][row] + sigma * outputs[row])
                for column in range(len(inputs)):
                    sigma = weights[f"{name}.weight_sigma"][row, column]
                    wanted = weights[f"{name}.weight"][row, column] + sigma * outputs[row] * inputs[column]
                    assert noisy[f"{name}.weight"][row, column] == pytest.approx(wanted, abs=1e-6)


def test_noise_is_the_signed_root_of_a_normal_number_and_begins_at_half_over_the_root_of_the_inputs() -> None:
    made = Head(4000, 1, 1, hidden=0, is_dueling=False, noisy_sigma=0.5)
    numbers = made.noise(np.random.default_rng(3))["head.actions.layer0.inputs"]
    squares = np.sign(numbers) * numbers**2  # normal again
    assert abs(squares.mean()) < 0.05
    assert squares.std() == pytest.approx(1.0, abs=0.05)
    assert made.fresh(np.random.default_rng(0))["head.actions.layer0.weight_sigma"] == pytest.approx(0.5 / 4000**0.5)


def test_without_noise_the_weights_are_their_means() -> None:
    made = head(noisy_sigma=0.5)
    weights = made.fresh(np.random.default_rng(0))
    assert made.with_noise(weights, {}) == weights


def test_a_head_without_noisy_layers_draws_nothing() -> None:
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    assert head().noise(rng) == {}
    assert rng.random() == same.random()


def test_fresh_weights_are_the_same_for_the_same_seed_and_those_that_are_declared() -> None:
    made = head(hidden=HIDDEN, is_dueling=True, noisy_sigma=0.5)
    first, same, other = (made.fresh(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert {name: (str(array.dtype), array.shape) for name, array in first.items()} == made.fields
    assert all((first[name] == same[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
