"""A bilevel problem: penalties of a regression, chosen by the validation loss.

For given penalties the weights minimise the training loss; SciPy finds them. There the
gradient of the training loss is zero, which is an equation for the weights:
`implicit_root` differentiates its solution by the penalties, however it was found.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

from minidiff import dropgrad, gradient, implicit_root, param, params, withgradient
from minidiff.optimise import ADAM, update


def main():
    rng = np.random.default_rng(0)
    n, relevant = 20, 4
    truth = np.where(np.arange(n) < relevant, 2.0, 0.0)
    X, X_new = rng.normal(size=(30, n)), rng.normal(size=(60, n))
    y, y_new = X @ truth + rng.normal(size=30), X_new @ truth + rng.normal(size=60)

    def training(w, penalties):
        return np.mean((X @ w - y) ** 2) + np.sum(np.exp(penalties) * w**2)

    slope = lambda w, penalties: gradient(training, w, penalties)[0]

    def weights(penalties):
        fixed = dropgrad(penalties)
        f = lambda w: withgradient(lambda w: training(w, fixed), w)
        start, jac = np.zeros(n), lambda w: f(w).grad[0]
        found = minimize(lambda w: f(w).val, start, jac=jac, options={"gtol": 1e-8})
        return implicit_root(slope, found.x, penalties)

    penalties = param(np.full(n, -2.0))
    validation = lambda: np.mean((X_new @ weights(penalties) - y_new) ** 2)
    opt, losses = ADAM(0.2), []
    for _ in range(60):
        value, grads = withgradient(validation, params(penalties))
        losses.append(float(value))
        update(opt, params(penalties), grads)
    print(f"validation loss {losses[0]:.3f} -> {losses[-1]:.3f}; the noise alone is 1")

    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    left.plot(losses, "k")
    left.set(xlabel="step", ylabel="validation loss")
    colours = np.where(truth, "#d55e00", "#0072b2")
    right.bar(range(n), penalties.value, color=colours)
    right.set(xlabel="weight (orange: relevant)", ylabel="log of its penalty")
    left.figure.savefig("bilevel.png", dpi=300)
    return np.array(losses), penalties, relevant, validation


if __name__ == "__main__":
    main()
