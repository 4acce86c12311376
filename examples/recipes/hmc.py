"""Hamiltonian Monte Carlo: samples from a density, along its gradient.

A ball rolls without friction over -log p, gets a random push, rolls again; where it is
after each roll is a sample of p, if a roll whose energy has changed is taken back now
and then (Neal, 2011, arXiv:1206.1901). Only the gradient of log p is needed. The
density here is a banana.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient


def energy(x):
    """Give -log p: a normal distribution, x₀ of variance 4, bent along a parabola."""
    return x[0] ** 2 / 8 + (x[1] - 0.5 * x[0] ** 2 + 2) ** 2 / 0.5


def roll(x, v, ε, steps):
    """Roll for a while, by steps that can be run backwards (leapfrog)."""
    v = v - ε / 2 * gradient(energy, x)[0]
    for step in range(steps):
        x = x + ε * v
        v = v - (ε if step < steps - 1 else ε / 2) * gradient(energy, x)[0]
    return x, v


def main(samples=1500):
    rng = np.random.default_rng(0)
    x, taken, chain = np.zeros(2), 0, []
    for _ in range(samples):
        v = rng.normal(size=2)
        there, speed = roll(x, v, 0.15, 15)
        change = energy(there) + speed @ speed / 2 - energy(x) - v @ v / 2
        if np.log(rng.random()) < -change:
            x, taken = there, taken + 1
        chain.append(x)
    chain = np.array(chain)
    bend = chain[:, 1] - 0.5 * chain[:, 0] ** 2 + 2
    print(f"{taken / samples:.0%} of the rolls taken")
    print(
        f"variances {chain[:, 0].var():.2f} and {bend.var():.3f}, in truth 4 and 0.25"
    )

    grid = np.linspace(-6, 6, 120)
    heights = energy(np.stack(np.meshgrid(grid, grid + 3)))
    _, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
    ax.contour(grid, grid + 3, np.exp(-heights), 5, colors="0.6", linewidths=0.8)
    ax.plot(*chain.T, "k.", markersize=2)
    ax.plot(*chain[:30].T, "-", color="#0072b2", linewidth=1)
    ax.set(xlabel="x₀", ylabel="x₁", title="samples, and the first thirty rolls")
    ax.figure.savefig("hmc.png", dpi=300)
    return chain, bend, taken / samples


if __name__ == "__main__":
    main()
