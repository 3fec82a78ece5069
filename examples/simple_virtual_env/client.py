"""CartPole, learned from its picture alone, on a server that may be anywhere.

    python server.py              # here, or there
    python client.py              # --host there --port 1800

The env gives four numbers (where cart and pole are, and how fast they move). They are left unread: the agent sees
what a person sees who watches the screen, `env.render()`. Read this file from top to bottom: how a screen becomes a
small picture, the network, what is remembered, how it learns, how it plays.

It ends when 20 greedy episodes (no random actions) last 195 steps in the mean, or when the episodes are used up.
"""

import argparse
import sys
from collections import deque

import numpy as np
import torch
from torch import nn

import multiserverrl

GAMMA = 0.99  # looks some 100 steps ahead: so long it takes to drift off the screen
REWARD_SCALE = 0.05  # 1 a step would add up to values near 100; a network learns numbers of about 1 sooner
N_STEP = 8  # rewards that are summed before the network's own guess of the rest; 1 learns far more slowly
STACK = 2  # pictures that the network sees at once: one picture tells no speed
BATCH_SIZE = 64
LEARNING_RATE, LEARNING_RATE_END, LEARNING_RATE_UPDATES = 2e-3, 2e-4, 5000  # falls, and stays at the end
REPLAY_SIZE = 20_000
WARM_UP_STEPS = 500  # before the first update
STEPS_PER_UPDATE = 4
UPDATES_PER_TARGET = 100  # between two copies of the network to the target network
EPSILON_END, EPSILON_DECAY_STEPS = 0.02, 4000  # the share of random actions falls from 1 to this
GOOD_RETURN, GREEDY_EPISODES = 195, 20

# -- what is seen --------------------------------------------------------------------------------

PICTURE_SHAPE = (20, 90)


def cart_column(screen: np.ndarray) -> int:
    """Where the middle of the cart is, by looking: it is all that is black a little below the line it runs on."""
    height, width, _ = screen.shape
    is_black = screen[height - 94, :, 2] < 50  # CartPole draws the line 100 pixels above the bottom, the cart 30 high
    return int(np.flatnonzero(is_black).mean()) if is_black.any() else width // 2


def picture_of(screen: np.ndarray) -> np.ndarray:
    """(height, width, 3) → (20, 90), 0 where there is nothing: the part around the cart, at a half by a quarter.

    Near the edges of the screen the part stays inside, so the cart is seen off its middle: that is how the agent
    knows that the track ends.
    """
    height, width, _ = screen.shape
    bottom, left = height - 90, min(max(cart_column(screen) - 90, 0), width - 180)
    part = screen[bottom - 80 : bottom, left : left + 180, 2]  # in blue, cart, pole and axle differ most
    means = part.reshape(20, 4, 90, 2).mean(axis=(1, 3))
    return (255 - means).astype(np.uint8)


# -- the network ---------------------------------------------------------------------------------


def make_network(num_actions: int) -> nn.Sequential:
    """(B, STACK, 20, 90) → (B, num_actions): the return that each action promises."""
    network = nn.Sequential(
        *(nn.Conv2d(STACK, 16, kernel_size=6, stride=4), nn.ReLU()),
        *(nn.Conv2d(16, 32, kernel_size=3, stride=2), nn.ReLU()),
        nn.Flatten(),
        *(nn.LazyLinear(128), nn.ReLU()),
        nn.Linear(128, num_actions),
    )
    network(torch.zeros(1, STACK, *PICTURE_SHAPE))  # now the lazy layer knows its size
    return network


def as_input(stacks: np.ndarray) -> torch.Tensor:
    """Bytes are what is stored; the network gets numbers from 0 to 1."""
    return torch.from_numpy(stacks).float() / 255


# -- what is remembered --------------------------------------------------------------------------


class Replay:
    """A ring of transitions (what was seen, what was done, the rewards of n steps, what was seen then)."""

    def __init__(self) -> None:
        self.seen = np.zeros((REPLAY_SIZE, STACK, *PICTURE_SHAPE), np.uint8)
        self.action = np.zeros(REPLAY_SIZE, np.int64)
        self.reward = np.zeros(REPLAY_SIZE, np.float32)
        self.then_seen = np.zeros_like(self.seen)
        self.discount = np.zeros(REPLAY_SIZE, np.float32)  # of the value of what was seen then; 0: the pole fell
        self.added = 0

    def add(self, seen: np.ndarray, action: int, reward: float, then_seen: np.ndarray, discount: float) -> None:
        row = self.added % REPLAY_SIZE
        self.seen[row], self.action[row], self.reward[row] = seen, action, reward
        self.then_seen[row], self.discount[row] = then_seen, discount
        self.added += 1

    def sample(self, rng: np.random.Generator) -> list[torch.Tensor]:
        rows = rng.integers(0, min(self.added, REPLAY_SIZE), BATCH_SIZE)
        numbers = [torch.from_numpy(field[rows]) for field in (self.action, self.reward, self.discount)]
        return [as_input(self.seen[rows]), as_input(self.then_seen[rows]), *numbers]


class Steps:
    """The last n steps of the running episode, until they are transitions."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.waiting: deque[tuple[np.ndarray, int, float]] = deque()

    def add(self, seen: np.ndarray, action: int, reward: float, then_seen: np.ndarray) -> None:
        self.waiting.append((seen, action, REWARD_SCALE * reward))
        if len(self.waiting) == N_STEP:
            self.pass_oldest_on(then_seen, is_terminated=False)

    def end(self, then_seen: np.ndarray, is_terminated: bool) -> None:
        """The episode is over: what still waits has fewer rewards. Only a fall ends them; 500 steps are a success."""
        while self.waiting:
            self.pass_oldest_on(then_seen, is_terminated)

    def pass_oldest_on(self, then_seen: np.ndarray, is_terminated: bool) -> None:
        reward = sum(GAMMA**age * reward for age, (_, _, reward) in enumerate(self.waiting))
        discount = 0.0 if is_terminated else GAMMA ** len(self.waiting)
        seen, action, _ = self.waiting.popleft()
        self.replay.add(seen, action, reward, then_seen, discount)


# -- how it learns and plays ---------------------------------------------------------------------


def loss_of(network: nn.Module, target: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Double DQN: the network chooses what to do then, the target network says what that is worth."""
    seen, then_seen, action, reward, discount = batch
    with torch.no_grad():
        best = network(then_seen).argmax(dim=1, keepdim=True)
        wanted = reward + discount * target(then_seen).gather(1, best).squeeze(1)  # (B,)
    value = network(seen).gather(1, action[:, None]).squeeze(1)  # (B,)
    return nn.functional.smooth_l1_loss(value, wanted)


class Agent:
    def __init__(self, num_actions: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.num_actions = num_actions
        self.network, self.target = make_network(num_actions), make_network(num_actions)
        self.target.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        end = LEARNING_RATE_END / LEARNING_RATE
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, end, LEARNING_RATE_UPDATES)
        self.replay = Replay()
        self.updates = 0

    def choose(self, seen: np.ndarray, epsilon: float) -> int:
        if self.rng.random() < epsilon:
            return int(self.rng.integers(self.num_actions))
        with torch.inference_mode():
            return int(self.network(as_input(seen[None])).argmax())

    def learn(self) -> None:
        """As many updates as the steps taken by now allow."""
        while self.updates < (self.replay.added - WARM_UP_STEPS) // STEPS_PER_UPDATE:
            self.optimizer.zero_grad()
            loss_of(self.network, self.target, self.replay.sample(self.rng)).backward()
            self.optimizer.step()
            self.schedule.step()
            self.updates += 1
            if self.updates % UPDATES_PER_TARGET == 0:
                self.target.load_state_dict(self.network.state_dict())


def play(env: multiserverrl.VirtualEnv, agent: Agent, is_greedy: bool, seed: int | None = None) -> float:
    """One episode's return; the agent learns meanwhile, unless it is greedy. What `step` sees is never looked at."""
    env.reset(seed=seed)
    seen = np.stack([picture_of(env.render())] * STACK)
    steps = Steps(agent.replay)
    episode_return, is_over = 0.0, False
    while not is_over:
        epsilon = 0.0 if is_greedy else max(EPSILON_END, 1 - agent.replay.added / EPSILON_DECAY_STEPS)
        action = agent.choose(seen, epsilon)
        _, reward, terminated, truncated, _ = env.step(action)
        then_seen = np.stack([*seen[1:], picture_of(env.render())])
        is_over = terminated or truncated
        if not is_greedy:
            steps.add(seen, action, reward, then_seen)
            if is_over:
                steps.end(then_seen, terminated)
            agent.learn()
        seen, episode_return = then_seen, episode_return + reward
    return episode_return


def train(env: multiserverrl.VirtualEnv, episodes: int, seed: int) -> float:
    """The mean return of the last greedy episodes."""
    agent = Agent(int(env.action_space.n), seed)
    returns: deque[float] = deque(maxlen=20)
    greedy_mean = 0.0
    for episode in range(1, episodes + 1):
        returns.append(play(env, agent, is_greedy=False, seed=seed if episode == 1 else None))
        if episode % 10 == 0:
            print(f"episode {episode}  steps {agent.replay.added}  mean return {np.mean(returns):.1f}", flush=True)
        is_promising = np.mean(returns) >= 0.6 * GOOD_RETURN
        if (episode % 10 == 0 and is_promising) or episode == episodes:
            greedy_mean = float(np.mean([play(env, agent, is_greedy=True) for _ in range(GREEDY_EPISODES)]))
            print(f"episode {episode}  greedy mean return {greedy_mean:.1f}", flush=True)
            if greedy_mean >= GOOD_RETURN:
                break
    return greedy_mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1800)
    parser.add_argument("--episodes", type=int, default=500, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # so small a network is fastest on one

    try:
        env = multiserverrl.VirtualEnv(f"http://{options.host}:{options.port}", render_mode="rgb_array")
    except multiserverrl.MultiServerRLError as error:  # nobody answers there
        sys.exit(error.headline)
    try:
        greedy_mean = train(env, options.episodes, options.seed)
    finally:
        env.close()
    print(f"ended: greedy mean return {greedy_mean:.1f}")


if __name__ == "__main__":
    main()
