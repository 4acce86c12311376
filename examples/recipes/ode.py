"""A differential equation fitted to data: foxes and rabbits.

The equation is solved by steps of Runge and Kutta, in plain NumPy, so that the loss is
a long formula like any other, and its gradient says how the populations would change
with each rate.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import param, params, train
from minidiff.optimise import ADAM

TIMES = np.linspace(0, 12, 61)


def solve(rates, start):
    """Solve Lotka and Volterra's equation; give the populations at the times."""

    def slope(u):
        rabbits, foxes = u[0], u[1]
        return np.stack(
            [
                rates[0] * rabbits - rates[1] * rabbits * foxes,
                rates[2] * rabbits * foxes - rates[3] * foxes,
            ]
        )

    u, h, path = start, TIMES[1] - TIMES[0], [start]
    for _ in TIMES[1:]:
        k1 = slope(u)
        k2 = slope(u + h / 2 * k1)
        k3 = slope(u + h / 2 * k2)
        k4 = slope(u + h * k3)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(u)
    return np.stack(path)


def main():
    rng = np.random.default_rng(0)
    true, start = np.array([1.0, 0.5, 0.3, 0.8]), np.array([2.0, 1.0])
    data = solve(true, start) * np.exp(rng.normal(0, 0.05, (61, 2)))
    rates = param(
        np.log([0.8, 0.7, 0.4, 0.6])
    )  # positive, so their logarithms are learned
    before = solve(np.exp(rates.value), start)

    def loss():
        return np.mean((np.log(solve(np.exp(rates), start)) - np.log(data)) ** 2)

    losses = train(loss, params(rates), [()] * 150, ADAM(0.03))
    found = np.exp(rates.value)
    print(f"loss {losses[0]:.2f} → {losses[-1]:.4f}")
    print(f"rates {found.round(3)}, in truth {true}")

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    for i, (name, colour) in enumerate((("rabbits", "#0072b2"), ("foxes", "#d55e00"))):
        ax.plot(TIMES, data[:, i], ".", color=colour, markersize=3)
        ax.plot(TIMES, before[:, i], ":", color=colour, linewidth=1)
        ax.plot(TIMES, solve(found, start)[:, i], color=colour, label=name)
    ax.set(xlabel="time", ylabel="population", title="data, first guess (dotted), fit")
    ax.legend(fontsize="small")
    ax.figure.savefig("ode.png", dpi=300)
    return losses, found, true


if __name__ == "__main__":
    main()
