"""Learning rates on a schedule: the two snippets of Flux's page, and two more ways.

Fits a small network to a noisy sine with `Momentum`, a hundred epochs each time, and
prints the losses.
"""

from itertools import islice

import numpy as np

from minidiff import gradient, param, params
from minidiff.optimise import Momentum, update
from minidiff.schedules import (
    Cos,
    Interpolator,
    Scheduler,
    Sequence,
    Stateful,
    Triangle,
)

EPOCHS, BATCHES = 100, 10

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (200, 1))
y = np.sin(3 * x) + 0.1 * rng.standard_normal(x.shape)
batches = list(zip(np.split(x, BATCHES), np.split(y, BATCHES), strict=True))


def network():
    """One hidden layer of tanh units, with the same weights every time."""
    rng = np.random.default_rng(1)
    return params(
        param(rng.standard_normal((1, 16))),
        param(np.zeros(16)),
        param(rng.standard_normal((16, 1)) / 4),
        param(np.zeros(1)),
    )


def loss(θ, x, y):
    W1, b1, W2, b2 = θ
    return np.mean((np.tanh(x @ W1 + b1) @ W2 + b2 - y) ** 2)


def train_an_epoch(opt, θ):
    for batch in batches:
        update(opt, θ, gradient(lambda batch=batch: loss(θ, *batch), θ))


def zip_with_epochs():
    """Iterate over the schedule beside the epochs: the page's first snippet."""
    θ, etas = network(), []
    opt = Momentum()
    schedule = Cos(λ0=1e-4, λ1=1e-2, period=10)
    # the schedule has no end
    for eta, _epoch in zip(schedule, range(1, EPOCHS + 1)):  # noqa: B905
        opt.eta = eta
        train_an_epoch(opt, θ)
        etas.append(opt.eta)
    return θ, etas


def stateful():
    """Let the schedule keep count: the page's second snippet, with ``next``."""
    θ, etas = network(), []
    opt = Momentum()
    schedule = Stateful(Cos(λ0=1e-4, λ1=1e-2, period=10))
    for _epoch in range(1, EPOCHS + 1):
        opt.eta = next(schedule)
        train_an_epoch(opt, θ)
        etas.append(opt.eta)
    return θ, etas


def scheduler():
    """Let the optimiser follow the schedule by its count of steps: ten to an epoch."""
    θ, etas = network(), []
    schedule = Cos(λ0=1e-4, λ1=1e-2, period=10)
    opt = Scheduler(Interpolator(schedule, rate=BATCHES), Momentum())
    for _epoch in range(1, EPOCHS + 1):
        train_an_epoch(opt, θ)
        etas.append(opt.eta)
    return θ, etas


def warm_up_then_cosine():
    """Go up in a straight line for ten epochs, then down along one cosine."""
    θ, etas = network(), []
    opt = Momentum()
    warmup = Triangle(l0=1e-3, l1=2e-2, period=20)
    cosine = Cos(λ0=1e-4, λ1=2e-2, period=EPOCHS - 10)
    for eta in islice(Sequence((warmup, 10), (cosine, EPOCHS - 10)), EPOCHS):
        opt.eta = eta
        train_an_epoch(opt, θ)
        etas.append(opt.eta)
    return θ, etas


def main():
    """Give the first loss, and by name each way's last loss and its rates."""
    ways = {}
    for way in (zip_with_epochs, stateful, scheduler, warm_up_then_cosine):
        θ, etas = way()
        ways[way.__name__] = float(loss(θ, x, y)), etas
    return float(loss(network(), x, y)), ways


if __name__ == "__main__":
    first, ways = main()
    print(f"loss at first: {first:.4f}")
    for name, (last, etas) in ways.items():
        print(
            f"{name.replace('_', ' ')}: "
            f"eta {etas[0]:.4f} ... {etas[-1]:.4f}, loss {last:.4f}"
        )
