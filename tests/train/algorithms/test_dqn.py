"""The DQN family: its targets and losses against slow NumPy, and every combination of its parts at work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from multiserverrl.errors import ConfigError
from multiserverrl.train.acting import exploration_rng
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.dqn import DQN, DQNLearner, c51_losses, qr_losses
from multiserverrl.train.algorithms.schedules import learning_rate_at
from multiserverrl.train.algorithms.target_range import TargetRange
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.policy import Policy, load_policy, save_policy
from multiserverrl.train.recipes import RECIPES
from multiserverrl.train.task import Task
from tests.train.algorithms.batches import CONFIG, SWITCHES, TASK, combinations, name_of, random_batch
from tests.train.fakes import plain_values

TORCH = replace(CONFIG, backend="torch")
NOISY = {"noisy": True, "noisy_sigma": 0.1}
KINDS = [{"distributional": kind} for kind in SWITCHES["distributional"]]
EVERY = combinations(*SWITCHES)


def numpy_weights(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def slow_errors(online: dict[str, Any], target: dict[str, Any], batch: dict[str, Any], is_double: bool) -> list[float]:
    """Temporal-difference errors, one transition at a time."""
    errors = []
    for row in range(len(batch["reward"])):
        value = plain_values(online, batch["obs"][row][None])[0, batch["action"][row]]
        next_obs = batch["next_obs"][row][None]
        chosen = int(np.argmax(plain_values(online if is_double else target, next_obs)[0]))
        wanted = batch["reward"][row] + batch["discount"][row] * plain_values(target, next_obs)[0, chosen]
        errors.append(float(wanted - value))
    return errors


def slow_range(batches: list[dict[str, Any]]) -> tuple[float, float]:
    """The least and the greatest return, where every transition could be followed by the best, and is, 5,000 times."""
    least = most = 0.0
    reward, discount = (np.concatenate([batch[name] for batch in batches]) for name in ("reward", "discount"))
    for _ in range(5000):
        least = min(least, float((reward + discount * least).min()))
        most = max(most, float((reward + discount * most).max()))
    return least, most


def huber(error: float) -> float:
    return 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5


@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_the_target_is_the_slow_one_and_the_loss_its_weighted_huber_loss(is_double: bool, is_weighted: bool) -> None:
    learner = DQNLearner(replace(TORCH, double=is_double), TASK)
    for seed in range(30):  # online and target networks drift apart
        learner.update(random_batch(seed), 0)
    online, target = numpy_weights(learner.online), numpy_weights(learner.target)
    batch = random_batch(99, is_weighted=is_weighted)
    updated = learner.update(batch, 0)
    slow, other = (slow_errors(online, target, batch, is_other ^ is_double) for is_other in (False, True))
    weights = batch.get("importance", np.ones(32))
    np.testing.assert_allclose(updated.errors, slow, atol=1e-5)
    assert float(updated.loss) == pytest.approx(
        np.mean([weight * huber(error) for weight, error in zip(weights, slow, strict=True)]), abs=1e-5
    )
    assert np.abs(np.subtract(slow, other)).max() > 0.01, "with and without double would have passed alike"


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def test_c51_is_the_slow_projection_and_its_divergence() -> None:
    rng, B, N = np.random.default_rng(0), 40, 7
    support = np.linspace(-2.0, 3.0, N)
    logits, next_logits = rng.normal(size=(2, B, N)).astype(np.float32)
    reward, discount = rng.normal(size=B, scale=2.0).astype(np.float32), np.float32([0.0, 0.9, 1.0, 0.5] * 10)
    reward[:3], discount[:3] = [-2.0, 0.5, 3.0], 0.0  # on an atom, also on the first and the last
    reward[4:6], discount[4:6] = [50.0, -50.0], 0.9  # beyond the ends
    wanted = []
    for row in range(B):
        target = np.zeros(N)
        for atom, share in zip(support, softmax(next_logits[row]), strict=True):
            place = min(max(reward[row] + discount[row] * atom, -2.0), 3.0)
            for i in range(N):  # equation 7
                target[i] += share * min(max(1.0 - abs(place - support[i]) / (support[1] - support[0]), 0.0), 1.0)
        assert target.sum() == pytest.approx(1.0)
        foretold = softmax(logits[row])
        wanted.append(sum(t * np.log(t / f) for t, f in zip(target, foretold, strict=True) if t > 0.0))
    places = reward[:, None] + discount[:, None] * np.float32(support)
    tensors = (torch.from_numpy(array) for array in (logits, next_logits, places))
    losses, errors = c51_losses(*tensors, torch.linspace(-2.0, 3.0, N))
    np.testing.assert_allclose(losses, wanted, atol=1e-5)
    np.testing.assert_array_equal(losses, errors)


def test_qr_is_the_slow_quantile_huber_loss() -> None:
    rng, B, N = np.random.default_rng(0), 20, 5
    quantiles, next_quantiles = rng.normal(size=(2, B, N), scale=2.0).astype(np.float32)
    reward, discount = rng.normal(size=B).astype(np.float32), np.float32([0.0, 0.9] * 10)
    wanted_losses, wanted_errors = np.zeros(B), np.zeros(B)
    for row in range(B):
        for i in range(N):
            for j in range(N):
                error = float(reward[row] + discount[row] * next_quantiles[row, j] - quantiles[row, i])
                weight = abs((2 * i + 1) / (2 * N) - (error < 0.0))
                wanted_losses[row] += weight * huber(error) / N
                wanted_errors[row] += abs(error) / N**2
    targets = reward[:, None] + discount[:, None] * next_quantiles
    losses, errors = qr_losses(torch.from_numpy(quantiles), torch.from_numpy(targets))
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    np.testing.assert_allclose(errors, wanted_errors, rtol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("is_clipped", [True, False])
def test_no_target_lies_beyond_what_rewards_seen_can_add_up_to(backend: str, is_clipped: bool) -> None:
    config = replace(CONFIG, backend=backend, clip_targets=is_clipped, gamma=0.9, n_step=3)
    learner = algorithm_for(config, TASK).init()
    for seed in range(3):  # what was seen once is remembered
        learner.update(random_batch(seed), 0)
    least, most = slow_range([random_batch(seed) for seed in range(3)])
    weights = learner.state()
    weights["target.head.actions.layer0.bias"] = np.float32([1e6, 1e6, 1e6])  # a target network that has burst
    learner.load_state(weights)
    batch = {**random_batch(9), "reward": np.zeros(32, np.float32), "discount": np.full(32, 0.729, np.float32)}
    values = plain_values(learner.weights(), batch["obs"])[np.arange(32), batch["action"]]
    targets = learner.update(batch, 0).errors + values
    np.testing.assert_allclose(targets, most if is_clipped else 729_000.0, rtol=1e-3)
    weights["target.head.actions.layer0.bias"] *= -1.0
    learner.load_state(weights)
    targets = learner.update(batch, 0).errors + values
    np.testing.assert_allclose(targets, least if is_clipped else -729_000.0, rtol=1e-3)


@pytest.mark.parametrize("is_clipped", [True, False])
def test_quantiles_keep_within_it_too(is_clipped: bool) -> None:
    config = replace(TORCH, distributional="qr", clip_targets=is_clipped, gamma=0.9, n_step=3)
    learner = DQNLearner(config, TASK)
    weights = learner.state()
    weights["target.head.actions.layer0.bias"] += np.float32(1e6)
    learner.load_state(weights)
    batch = {**random_batch(0), "discount": np.full(32, 0.729, np.float32)}
    _, most = slow_range([batch])
    np.testing.assert_allclose(learner.update(batch, 0).errors, most if is_clipped else 729_000.0, rtol=0.1)


@pytest.mark.parametrize("is_clipped", [True, False])
def test_atoms_keep_within_it_too(is_clipped: bool) -> None:
    config = replace(TORCH, distributional="c51", clip_targets=is_clipped, gamma=0.9, n_step=3, v_min=-1.0, v_max=100.0)
    learner = DQNLearner(replace(config, learning_rate=5e-3), TASK)
    rewards = {"reward": np.full(32, 0.5, np.float32), "discount": np.full(32, 0.729, np.float32)}
    for seed in range(400):
        learner.update({**random_batch(seed % 4), **rewards}, 0)
    values = DQN(config, TASK)._values(learner.weights(), random_batch(0)["obs"], {})
    assert (values.max() < 0.5 / (1 - 0.729) + 0.2) == is_clipped


@pytest.mark.parametrize("num_steps", range(1, 9))
def test_blocks_that_were_cut_short_are_worth_what_whole_ones_are(num_steps: int) -> None:
    gamma, least, most = 0.99, -100.0, 100.0  # of -1 or 1 a step for ever
    reward = sum(gamma**number for number in range(num_steps))
    seen = TargetRange(CONFIG).with_batch(np.float32([reward, -reward]), np.float32([gamma**num_steps] * 2))
    assert seen == pytest.approx((least, most), rel=1e-4)


def test_what_an_episode_ends_with_comes_once() -> None:
    assert TargetRange(CONFIG).with_batch(np.float32([100.0, 1.0]), np.float32([0.0, 0.9])) == (0.0, 100.0)


def test_where_rewards_are_not_discounted_nothing_bounds_their_sums() -> None:
    for gamma in (1.0, 1.0 - 1e-12):  # float32 has none between
        seen = TargetRange(replace(CONFIG, gamma=gamma)).with_batch(np.float32([1.0, 0.0]), np.float32([1.0, 1.0]))
        assert seen == (-np.inf, np.inf)


def test_a_run_that_clips_from_its_resume_on_knows_what_was_seen_before() -> None:
    before, after = (DQNLearner(replace(TORCH, clip_targets=clips), TASK) for clips in (False, True))
    before.update(random_batch(0), 0)
    after.load_state(before.state())
    none = {"reward": np.zeros(1, np.float32), "discount": np.zeros(1, np.float32)}
    assert after._range.with_batch(**none) == pytest.approx(slow_range([random_batch(0)]), rel=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_resume_of_a_run_without_a_discount_knows_no_bounds(backend: str) -> None:
    before, after = (algorithm_for(replace(CONFIG, backend=backend, gamma=gamma), TASK).init() for gamma in (1.0, 0.99))
    whole = {**random_batch(0), "discount": np.ones(32, np.float32)}
    before.update(whole, 0)
    after.load_state(before.state())
    with np.errstate(all="raise"):
        after.update(whole, 0)  # of what the replay buffer holds still
    weights = after.state()
    assert all(np.isfinite(array).all() for array in weights.values())
    weights["target.head.actions.layer0.bias"] = np.float32([1e6, 1e6, 1e6])
    after.load_state(weights)
    assert after.update(whole, 0).errors.min() > 9e5


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_clipping_makes_no_number_of_what_is_none(backend: str) -> None:
    learner = algorithm_for(replace(CONFIG, backend=backend), TASK).init()
    state = learner.state()
    state["target.head.actions.layer0.bias"][:] = np.nan
    learner.load_state(state)
    assert np.isnan(float(learner.update(random_batch(0), 0).loss))


@pytest.mark.parametrize("settings", KINDS, ids=name_of)
def test_the_next_action_is_chosen_by_the_online_networks_expectation(settings: dict[str, Any]) -> None:
    algorithm = DQN(replace(TORCH, **settings), TASK)
    learner = algorithm.init()
    for seed in range(20):
        learner.update(random_batch(seed), 0)
    batch = random_batch(50)
    chosen = algorithm.act(learner.weights(), batch["next_obs"], {}, 0.0, np.random.default_rng(0))[0]
    with torch.no_grad():
        returns = algorithm.network.in_torch(learner.online, torch.from_numpy(batch["next_obs"]))
    np.testing.assert_array_equal(learner._expected(returns).argmax(1), chosen)
    shares = torch.softmax(returns, 2).numpy() if settings["distributional"] == "c51" else 1.0 / returns.shape[2]
    points = learner.support.numpy() if settings["distributional"] == "c51" else returns.numpy()
    np.testing.assert_array_equal((shares * points).sum(2).argmax(1), chosen)


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_every_combination_acts_learns_and_goes_on_from_its_state(settings: dict[str, Any]) -> None:
    config = replace(CONFIG, **settings, target_update=2, max_grad_norm=1.0)
    algorithm, rng = algorithm_for(config, TASK), np.random.default_rng(0)
    first, second = algorithm.init(), algorithm_for(replace(config, seed=0), TASK).init()
    batches = [random_batch(seed, is_weighted=config.prioritised) for seed in range(6)]
    fresh = first.weights()
    for batch in batches[:3]:
        first.update(batch, 0)
    second.load_state({name: array.copy() for name, array in first.state().items()})
    for batch in batches[3:]:
        told = [learner.update(batch, 0) for learner in (first, second)]
        assert float(told[0].loss) == float(told[1].loss)
        assert told[0].errors.shape == (32,)
    for name, array in first.state().items():
        np.testing.assert_array_equal(second.state()[name], array)
    weights = first.weights()
    assert {name: (str(a.dtype), a.shape) for name, a in weights.items()} == algorithm.weights_fields
    assert all((weights[name] != fresh[name]).any() for name in weights), "some weights are never learned"
    prepared = algorithm.prepare(weights)
    for explore in (0.0, algorithm.exploration(0), np.linspace(0.0, 1.0, 32)):
        actions, extras = algorithm.act(prepared, batches[0]["obs"], {}, explore, rng)
        assert (actions.shape, actions.dtype, extras) == ((32,), np.int64, {})
        assert set(actions) <= {0, 1, 2}


@pytest.mark.parametrize("settings", [*KINDS, NOISY, {**NOISY, "dueling": True, "distributional": "c51"}], ids=name_of)
def test_one_batch_can_be_learned_by_heart(settings: dict[str, Any]) -> None:
    learner = DQNLearner(replace(TORCH, **settings, learning_rate=1e-2), TASK)
    batch = {**random_batch(0), "discount": np.zeros(32, np.float32)}
    first = float(learner.update(batch, 0).loss)
    for _ in range(500):
        last = learner.update(batch, 0)
    # noise cannot be learned away at once, nor can 9 quantiles be all one number under it
    assert float(last.loss) < first / (20 if "noisy" in settings else 100)


@pytest.mark.parametrize("settings", KINDS, ids=name_of)
def test_the_policy_of_every_kind_comes_back_from_its_file(settings: dict[str, Any], tmp_path: Any) -> None:
    config = replace(CONFIG, **settings, dueling=True, noisy=True)
    weights = algorithm_for(config, TASK).init().weights()
    policy = Policy(config, TASK, {**weights, "published": np.zeros(3)}, version=1)
    save_policy(tmp_path / "policy.safetensors", policy)
    obs = random_batch(1)["obs"]
    np.testing.assert_array_equal(load_policy(tmp_path / "policy.safetensors")(obs), policy(obs))


def test_images_are_learned_from_and_acted_on_by_every_part_together() -> None:
    task = Task((6, 6, 2), 3, obs_dtype="uint8")
    config = replace(CONFIG, dueling=True, noisy=True, distributional="c51", device="cpu")
    algorithm, rng = algorithm_for(config, task), np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (32, 6, 6, 2), np.uint8) for name in ("obs", "next_obs")}
    learner = algorithm.init()
    updated = learner.update({**random_batch(0), **images}, 0)
    assert np.isfinite(float(updated.loss))
    prepared = algorithm.prepare({**learner.weights(), "published": np.zeros(3)})
    greedy = [algorithm.act(prepared, images["obs"], {}, 0.0, rng)[0] for _ in range(2)]
    np.testing.assert_array_equal(*greedy)
    assert any((algorithm.act(prepared, images["obs"], {}, 1e-9, rng)[0] != greedy[0]).any() for _ in range(20))


def test_a_noisy_network_explores_by_noise_that_is_drawn_for_each_batch_and_is_greedy_without() -> None:
    algorithm, rng = DQN(replace(CONFIG, noisy=True), TASK), np.random.default_rng(0)
    weights, obs = algorithm.fresh(rng), random_batch(0, B=200)["obs"]
    greedy = algorithm.act(weights, obs, {}, 0.0, rng)[0]
    np.testing.assert_array_equal(algorithm.act(weights, obs, {}, 0.0, rng)[0], greedy)
    explored = [algorithm.act(weights, obs, {}, algorithm.exploration(10_000), rng)[0] for _ in range(10)]
    assert all(0.0 < np.mean(actions != explored[0]) < 1.0 for actions in explored[1:])
    quiet = {name: array * 0.0 if name.endswith("_sigma") else array for name, array in weights.items()}
    np.testing.assert_array_equal(algorithm.act(quiet, obs, {}, algorithm.exploration(0), rng)[0], greedy)


def test_an_updates_three_noises_differ_and_are_named_by_its_number() -> None:
    learner, same = (DQNLearner(replace(TORCH, noisy=True), TASK) for _ in range(2))
    name = "head.actions.layer0.weight"
    first = [weights[name].detach().numpy() for weights in learner._noisy_weights()]
    again = [weights[name].detach().numpy() for weights in same._noisy_weights()]
    learner.updates += 1
    later = [weights[name].detach().numpy() for weights in learner._noisy_weights()]
    np.testing.assert_array_equal(first, again)
    assert len({array.tobytes() for array in (*first, *later)}) == 6


def test_an_updates_noise_is_never_that_of_acting() -> None:
    learner = DQNLearner(replace(TORCH, noisy=True), TASK)
    name, head = "head.actions.layer0.weight", learner.network.head
    weights = learner.weights()
    acting = [exploration_rng(TORCH.seed, env_steps=0, stream=1 + group) for group in range(3)]
    noisy = {np.asarray(head.with_noise(weights, head.noise(rng))[name]).tobytes() for rng in acting}
    assert learner._noisy_weights()[0][name].detach().numpy().tobytes() not in noisy


def test_gradients_are_shortened_to_their_greatest_length() -> None:
    longest = []
    for limit in (0.0, 1e-3):
        learner = DQNLearner(replace(TORCH, max_grad_norm=limit), TASK)
        learner.update(random_batch(0), 0)
        moments = {name: array for name, array in learner.state().items() if name.startswith("adam.exp_avg.")}
        longest.append(np.linalg.norm(np.concatenate([array.ravel() for array in moments.values()])) / 0.1)
    assert longest[0] > 0.01
    assert longest[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_target_network_is_renewed_after_exactly_so_many_updates() -> None:
    learner = DQNLearner(replace(TORCH, target_update=5), TASK)
    fresh = numpy_weights(learner.target)
    for update in range(1, 11):
        learner.update(random_batch(update), 0)
        online, target = numpy_weights(learner.online), numpy_weights(learner.target)
        is_renewed = all((target[name] == online[name]).all() for name in online)
        assert is_renewed == (update % 5 == 0)
        if update < 5:
            assert all((target[name] == fresh[name]).all() for name in fresh)


def test_the_learning_rate_falls_to_its_end_and_stays() -> None:
    config = replace(CONFIG, learning_rate=1.0, learning_rate_end=0.1, learning_rate_steps=100)
    assert [learning_rate_at(config, steps) for steps in (0, 50, 90, 1000)] == pytest.approx([1.0, 0.5, 0.1, 0.1])


def test_a_state_can_be_taken_before_the_first_update() -> None:
    first, second = DQNLearner(TORCH, TASK), DQNLearner(replace(TORCH, seed=1), TASK)
    second.load_state(first.state())
    losses = [float(learner.update(random_batch(0), 0).loss) for learner in (first, second)]
    assert losses[0] == losses[1]


def test_the_state_of_another_network_is_refused() -> None:
    other = DQNLearner(replace(TORCH, hidden="32"), TASK)
    with pytest.raises(ValueError, match=r"encoder\.layer0\.weight"):
        DQNLearner(TORCH, TASK).load_state(other.state())


def test_published_weights_do_not_change_with_later_updates() -> None:
    learner = DQNLearner(TORCH, TASK)
    weights = learner.weights()
    before = {name: array.copy() for name, array in weights.items()}
    learner.update(random_batch(0), 0)
    assert all((weights[name] == before[name]).all() for name in weights)
    assert any((learner.weights()[name] != before[name]).any() for name in weights)


def test_greedy_actions_are_the_best_and_random_ones_come_in_the_share_asked_for() -> None:
    algorithm, rng = DQN(CONFIG, TASK), np.random.default_rng(0)
    weights = algorithm.fresh(rng)
    obs = random_batch(0, B=3000)["obs"]
    best = plain_values(weights, obs).argmax(axis=1)
    greedy, _ = algorithm.act(weights, obs, {}, 0.0, rng)
    np.testing.assert_array_equal(greedy, best)
    explored, _ = algorithm.act(weights, obs, {}, 0.3, rng)
    assert np.mean(explored != best) == pytest.approx(0.3 * 2 / 3, abs=0.03)
    uniform, _ = algorithm.act_at_random(3000, rng)
    np.testing.assert_allclose(np.bincount(uniform, minlength=3) / 3000, 1 / 3, atol=0.04)


def test_epsilon_falls_linearly_to_its_end() -> None:
    algorithm = DQN(replace(CONFIG, epsilon_start=1.0, epsilon_end=0.1, epsilon_steps=100), TASK)
    assert [algorithm.exploration(steps) for steps in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match="Discrete"):
        algorithm_for(CONFIG, Task(obs_shape=(4,), num_actions=0, action_shape=(1,)))


def test_numpy_is_refused_for_images_and_says_what_to_use() -> None:
    with pytest.raises(ConfigError, match="--backend torch"):
        algorithm_for(replace(CONFIG, backend="numpy"), Task((8, 8), 2, obs_dtype="uint8"))


def test_rainbow_has_all_its_parts() -> None:
    config = TrainConfig(algorithm="rainbow", **RECIPES["rainbow", None])
    assert (config.double, config.dueling, config.n_step, config.prioritised) == (True, True, 3, True)
    assert (config.distributional, config.noisy) == ("c51", True)
    assert isinstance(algorithm_for(config, TASK), DQN)
