"""A differential equation, solved by a network that is trained to satisfy it.

A pendulum with friction, y'' + 2ζy' + y = 0, starts from rest at y = 1. The network
stands for y(t); its derivatives in t come from `gradient`, in the loss, and the loss is
then differentiated by the parameters.

References
----------
Physics-informed neural networks. M. Raissi, P. Perdikaris, G. E. Karniadakis, 2019.
Journal of Computational Physics 378.
"""

import numpy as np

from minidiff import gradient, param, params, train
from minidiff.optimise import ADAM
from minidiff.schedules import CosAnneal, Scheduler

ζ = 0.2
END = 8.0


def exact(t):
    """Give the solution, for comparison."""
    ω = np.sqrt(1 - ζ**2)
    return np.exp(-ζ * t) * (np.cos(ω * t) + ζ / ω * np.sin(ω * t))


def network(rng, width=40):
    """Make a function with y(0) = 1, y'(0) = 0 whatever its parameters are."""
    W = rng.normal(size=width)
    bends = rng.uniform(0, END, width)
    W, b = param(W), param(-W * bends)
    V, c = param(np.zeros(width)), param(0.0)

    def y(t):
        return 1 + (1 - np.exp(-t)) ** 2 * (np.tanh(t[:, None] * W + b) @ V + c)

    return y, params(W, b, V, c)


def slope(y):
    """Give the derivative of a function of one variable, at many points at once."""
    return lambda t: gradient(lambda t: np.sum(y(t)), t)[0]


def main(steps=1500):
    """Solve the equation; give the largest error of the solution."""
    y, θ = network(np.random.default_rng(0))
    dy = slope(y)
    ddy = slope(dy)

    def loss(t):
        return np.mean((ddy(t) + 2 * ζ * dy(t) + y(t)) ** 2)

    opt = Scheduler(CosAnneal(0.0, 0.01, steps, restart=False), ADAM())
    losses = train(loss, θ, [np.linspace(0, END, 50)], opt, epochs=steps)

    t = np.linspace(0, END, 401)
    error = np.abs(y(t) - exact(t)).max()
    print(
        f"the equation is off by {np.sqrt(losses[-1]):.1e} on average, "
        f"the solution by {error:.1e} at most"
    )
    return error


if __name__ == "__main__":
    main()
