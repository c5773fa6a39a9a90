"""A program of other people on fastrnn.torch: sb3-contrib's RecurrentPPO, CartPole without velocities, the same seed.

    pip install sb3-contrib
    python bench/recurrent_ppo.py [timesteps]                # default: 40,000

It learns twice, with torch's LSTM and with `accelerate`d policies, and prints the curve of both and frames a second.
A policy's LSTM steps through the environments and is trained on sequences with episodes' ends in them.
"""

import sys
import time

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

import fastrnn.torch

SEED = 0


class WithoutVelocities(gymnasium.ObservationWrapper):
    """CartPole of which position and angle are seen, so that a policy has to remember."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        space = self.env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]], dtype=np.float32)

    def observation(self, observation):
        return observation[[0, 2]]


class Curve(BaseCallback):
    """The mean return of the last episodes at the end of each rollout."""

    def __init__(self):
        super().__init__()
        self.returns = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        episodes = [episode["r"] for episode in self.model.ep_info_buffer]
        self.returns.append(float(np.mean(episodes)) if episodes else float("nan"))


def learn(timesteps, prepare):
    torch.set_num_threads(1)
    model = RecurrentPPO(
        "MlpLstmPolicy", Monitor(WithoutVelocities()), seed=SEED, n_steps=512, batch_size=128, n_epochs=10,
        policy_kwargs={"lstm_hidden_size": 64}, device="cpu",
    )  # fmt: skip
    prepare(model.policy)
    curve, start = Curve(), time.perf_counter()
    model.learn(timesteps, callback=curve)
    return np.array(curve.returns), timesteps / (time.perf_counter() - start)


if __name__ == "__main__":
    timesteps = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
    theirs, slow = learn(timesteps, lambda policy: None)
    ours, fast = learn(timesteps, fastrnn.torch.accelerate)
    print(f"{'frames':>8}{'torch':>9}{'fastrnn':>9}   mean return of the last 100 episodes")
    for k in range(0, len(theirs), max(1, len(theirs) // 12)):
        print(f"{(k + 1) * 512:8}{theirs[k]:9.1f}{ours[k]:9.1f}")
    alike = int(np.argmax(~np.isclose(theirs, ours))) if not np.allclose(theirs, ours) else len(theirs)
    print(f"the curves are alike for {alike} of {len(theirs)} rollouts; last: {theirs[-1]:.1f} and {ours[-1]:.1f}")
    print(f"frames a second: torch {slow:.0f}, fastrnn {fast:.0f}, {fast / slow:.2f} times")
