"""Arrays filled in place: a loss as NumPy code is written, differentiated as it is.

A trajectory filled step by step, a matrix assembled entry by entry, a sum that goes on
in place, a helper that normalises its argument, a sieve with a mask. An array that
is to hold what is differentiated is made by `np.zeros_like` or `functions.zeros`.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import check_gradient, gradient, param, params, train
from minidiff.functions import zeros
from minidiff.optimise import ADAM


def trajectory(launch, steps=60, dt=0.05):
    path = np.zeros_like(launch, shape=(steps, 2))  # path[0] is the origin
    speed = launch.copy()
    for t in range(steps - 1):
        path[t + 1] = path[t] + dt * speed
        speed *= 0.99  # the air
        speed[1] -= 9.81 * dt
    return path


def springs(k):
    K = zeros((len(k) + 1, len(k) + 1))  # the matrix of a chain, spring by spring
    for i in range(len(k)):
        K[i : i + 2, i : i + 2] += k[i] * np.array([[1.0, -1.0], [-1.0, 1.0]])
    return np.linalg.solve(K[1:, 1:], np.ones(len(k)))  # how far the masses move


def cumulative(x):
    total = x.copy()
    for i in range(1, len(total)):
        total[i] += 0.5 * total[i - 1]
    return total


def normalise(h):
    h -= h.mean(axis=0)
    h /= h.std(axis=0) + 1e-6


def hidden(W, x):
    h = x @ W
    normalise(h)  # h itself is another afterwards
    return np.tanh(h)


def sieve(x):
    kept = x * 1
    kept[np.abs(kept) < 0.5] = 0.0
    return kept


def main():
    rng = np.random.default_rng(0)
    x, W, k = rng.normal(size=(20, 3)), rng.normal(size=(3, 4)), rng.uniform(1, 2, 5)
    for f, at in {springs: k, cumulative: x[:, 0], sieve: x[:, 1]}.items():
        check_gradient(f, at)  # with differences, second derivatives included
    check_gradient(lambda W: hidden(W, x), W)
    print("sieve:", gradient(lambda a: np.sum(sieve(a)), np.array([0.2, -3.0, 0.7])))

    launch, target = param([4.0, 4.0]), np.array([12.0, 2.0])
    first = trajectory(launch)
    miss = lambda: np.sum((trajectory(launch)[-1] - target) ** 2)
    missed = train(miss, params(launch), [()] * 150, ADAM(0.3))
    off = np.sqrt(missed)
    print(f"the throw misses by {off[0]:.2f}, in the end by {off[-1]:.1e}")

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.plot(*first.T, "0.6", label="first throw")
    ax.plot(*trajectory(launch).T, "#0072b2", label="learned")
    ax.plot(*target, "ko", label="target")
    ax.legend()
    ax.figure.savefig("in_place.png", dpi=300)
    return missed, trajectory(launch)[-1] - target


if __name__ == "__main__":
    main()
