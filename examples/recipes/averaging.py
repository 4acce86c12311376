"""Weight averaging: evaluate with the mean of the last steps.

With noisy gradients the parameters tremble about the minimum. `Average` follows them as
a callback and keeps a mean (here with a decay of 0.98, an exponential one); within
`swapped()` the model has it.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import DataLoader, param, params, train
from minidiff.losses import mse
from minidiff.optimise import Average, Descent


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 20))
    true = rng.normal(size=20)
    y = x @ true + rng.normal(size=1000)
    W = param(np.zeros(20))
    θ = params(W)
    average = Average(θ, 0.98)
    as_it_is, averaged = [], []

    def watch():
        as_it_is.append(float(np.sum((W - true) ** 2)))
        with average.swapped():
            averaged.append(float(np.sum((W - true) ** 2)))

    loader = DataLoader((x, y), batchsize=4, shuffle=True, rng=1)
    train(
        lambda x, y: mse(x @ W, y),
        θ,
        loader,
        Descent(0.02),
        epochs=4,
        cb=[average, watch],
    )
    plain, mean = np.mean(as_it_is[-200:]), np.mean(averaged[-200:])
    print(f"squared distance from the truth: {plain:.3f}, averaged {mean:.3f}")

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.semilogy(as_it_is, color="0.6", linewidth=0.8, label="as it is")
    ax.semilogy(averaged, "k-", label="Average(θ, 0.98)")
    ax.set(xlabel="step", ylabel="squared distance from the truth")
    ax.legend()
    ax.figure.savefig("averaging.png", dpi=300)
    return np.array(as_it_is), np.array(averaged)


if __name__ == "__main__":
    main()
