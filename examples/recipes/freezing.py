"""Freezing: train the head of a network, and leave its body as it is.

What is not in the parameters that are updated stays. Sets of parameters subtract:
`params(model) - params(model["body"])` is everything but the body.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient, param, params
from minidiff.losses import mse
from minidiff.optimise import ADAM, update

t = np.linspace(-2, 2, 80)


def predict(model, t):
    """Give the network's curve: the body's tanh units, added up by the head."""
    return np.tanh(np.outer(t, model["body"]["w"]) + model["body"]["b"]) @ model["head"]


def fit(model, θ, y, steps=400):
    opt = ADAM(0.02)
    for _ in range(steps):
        update(opt, θ, gradient(lambda: mse(predict(model, t), y), θ))
    return float(mse(predict(model, t), y))


def main():
    rng = np.random.default_rng(0)
    body = {"w": param(rng.normal(size=20)), "b": param(rng.normal(size=20))}
    model = {"body": body, "head": param(np.zeros(20))}
    fit(model, params(model), np.sin(2 * t))

    learned = params(body).to_vector()
    head = params(model) - params(body)
    misfit = fit(
        model, head, np.cos(3 * t)
    )  # another task, with the features of the first
    print(f"trains {len(head)} of {len(params(model))} parameters; misfit {misfit:.1e}")
    print("the body is as it was:", np.array_equal(learned, params(body).to_vector()))

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.plot(t, np.cos(3 * t), "k-", linewidth=3, alpha=0.3, label="second task")
    ax.plot(
        t,
        predict(model, t),
        "--",
        color="#0072b2",
        label="body of the first task, new head",
    )
    ax.set(xlabel="t")
    ax.legend(loc="lower center", fontsize="small")
    ax.figure.savefig("freezing.png", dpi=300)
    return misfit, learned, params(body).to_vector()


if __name__ == "__main__":
    main()
