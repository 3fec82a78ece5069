"""A whole DQN in one file, on a CartPole that runs in another process or on another machine.

    multiserverrl serve CartPole-v1            # here, or there
    python examples/dqn_cartpole.py            # --host there --port 1800

It ends when the mean return of the last 20 episodes reaches 195, or when the episodes are used up.
"""

import argparse
import sys
from collections import deque

import numpy as np
import torch
from torch import nn

import multiserverrl

GAMMA = 0.97  # looks some 30 steps ahead: enough for a pole, and learned sooner than 0.99
LEARNING_RATE = 1e-3
BATCH_SIZE = 128
REPLAY_SIZE = 50_000
WARM_UP_STEPS = 500  # before the first update
STEPS_PER_UPDATE = 2
UPDATES_PER_TARGET = 50  # between two copies of the network to the target network
EPSILON_END, EPSILON_DECAY_STEPS = 0.02, 4000
GOOD_RETURN = 195


def make_network(obs_size: int, num_actions: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(obs_size, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, num_actions),
    )


class Replay:
    """A ring of transitions; the oldest is overwritten."""

    def __init__(self, obs_size: int) -> None:
        self.obs = np.zeros((REPLAY_SIZE, obs_size), np.float32)
        self.next_obs = np.zeros((REPLAY_SIZE, obs_size), np.float32)
        self.action = np.zeros(REPLAY_SIZE, np.int64)
        self.reward = np.zeros(REPLAY_SIZE, np.float32)
        self.terminated = np.zeros(REPLAY_SIZE, bool)
        self.added = 0

    def add(self, obs: np.ndarray, action: int, reward: float, next_obs: np.ndarray, terminated: bool) -> None:
        row = self.added % REPLAY_SIZE
        self.obs[row], self.action[row], self.reward[row] = obs, action, reward
        self.next_obs[row], self.terminated[row] = next_obs, terminated
        self.added += 1

    def sample(self, rng: np.random.Generator) -> list[torch.Tensor]:
        rows = rng.integers(0, min(self.added, REPLAY_SIZE), BATCH_SIZE)
        fields = (self.obs, self.action, self.reward, self.next_obs, self.terminated)
        return [torch.from_numpy(field[rows]) for field in fields]


def loss_of(network: nn.Module, target: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Double DQN: the network chooses the next action, the target network values it."""
    obs, action, reward, next_obs, terminated = batch
    with torch.no_grad():
        best = network(next_obs).argmax(1, keepdim=True)
        next_value = target(next_obs).gather(1, best).squeeze(1)  # (B,)
        # A terminated episode has no future; one that only ran out of time (truncated) has, and bootstraps.
        wanted = reward + GAMMA * next_value * ~terminated
    value = network(obs).gather(1, action[:, None]).squeeze(1)  # (B,)
    return nn.functional.smooth_l1_loss(value, wanted)


def choose(network: nn.Module, obs: np.ndarray, epsilon: float, num_actions: int, rng: np.random.Generator) -> int:
    if rng.random() < epsilon:
        return int(rng.integers(num_actions))
    with torch.no_grad():
        return int(network(torch.from_numpy(obs)).argmax())


def train(env: multiserverrl.VirtualEnv, episodes: int, seed: int) -> float:
    """The mean return of the last 20 episodes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    obs_size, num_actions = env.observation_space.shape[0], int(env.action_space.n)
    network, target = make_network(obs_size, num_actions), make_network(obs_size, num_actions)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    replay = Replay(obs_size)
    returns: deque[float] = deque(maxlen=20)

    for episode in range(1, episodes + 1):
        obs, _ = env.reset(seed=seed if episode == 1 else None)
        episode_return, is_over = 0.0, False
        while not is_over:
            epsilon = max(EPSILON_END, 1 - replay.added / EPSILON_DECAY_STEPS)
            action = choose(network, obs, epsilon, num_actions, rng)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            replay.add(obs, action, float(reward), next_obs, terminated)
            obs, is_over = next_obs, terminated or truncated
            episode_return += float(reward)

            if replay.added >= WARM_UP_STEPS and replay.added % STEPS_PER_UPDATE == 0:
                optimizer.zero_grad()
                loss_of(network, target, replay.sample(rng)).backward()
                optimizer.step()
            if replay.added % (STEPS_PER_UPDATE * UPDATES_PER_TARGET) == 0:
                target.load_state_dict(network.state_dict())

        returns.append(episode_return)
        if episode % 10 == 0:
            print(f"episode {episode}  steps {replay.added}  mean return {np.mean(returns):.1f}", flush=True)
        if len(returns) == 20 and np.mean(returns) >= GOOD_RETURN:
            break
    return float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800)
    parser.add_argument("--episodes", type=int, default=500, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # so small a network is fastest on one

    try:
        env = multiserverrl.VirtualEnv(f"http://{options.host}:{options.port}", "CartPole-v1")
    except multiserverrl.MultiServerRLError as error:  # nobody answers there
        sys.exit(error.headline)
    try:
        mean_return = train(env, options.episodes, options.seed)
    finally:
        env.close()
    print(f"ended: mean return {mean_return:.1f}")


if __name__ == "__main__":
    main()
