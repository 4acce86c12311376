"""Reduce on plateau: halve the rate when the loss on other data stops falling.

No schedule has to be known in advance: `ReducePlateau` looks at a number after each
epoch, and multiplies the rate by a factor when that number has not fallen for some
epochs.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import DataLoader, param, params, train
from minidiff.losses import mse
from minidiff.optimise import Momentum, ReducePlateau


def fit(reduce):
    """Train a line on noisy data; give the validation loss and rate of each epoch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 10))
    y = x @ rng.normal(size=10) + rng.normal(size=600)
    W, opt = param(np.zeros(10)), Momentum(0.02)
    held_out, rates = [], []

    def watch():
        held_out.append(float(mse(x[400:] @ W, y[400:])))
        rates.append(opt.eta)

    each_epoch = [watch]
    if reduce:
        each_epoch.append(
            ReducePlateau(opt, lambda: held_out[-1], factor=0.5, patience=4)
        )
    loader = DataLoader((x[:400], y[:400]), batchsize=8, shuffle=True, rng=1)
    train(
        lambda x, y: mse(x @ W, y),
        params(W),
        loader,
        opt,
        epochs=40,
        each_epoch=each_epoch,
    )
    return np.array(held_out), np.array(rates)


def main():
    constant, _ = fit(reduce=False)
    reduced, rates = fit(reduce=True)
    ends = constant[-10:].mean(), reduced[-10:].mean()
    print("last ten epochs: constant rate {:.3f}, reduced {:.3f}".format(*ends))
    print(f"the rate went from {rates[0]} to {rates[-1]:.4f}")

    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(constant, "--", color="0.5", label="constant")
    left.plot(reduced, "k-", label="reduced")
    left.set(xlabel="epoch", ylabel="validation loss")
    left.legend()
    right.semilogy(rates, "k-", drawstyle="steps-post")
    right.set(xlabel="epoch", ylabel="η")
    left.figure.savefig("plateau.png", dpi=300)
    return constant, reduced, rates


if __name__ == "__main__":
    main()
