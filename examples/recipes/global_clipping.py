"""Clipping by the global norm: one wild gradient does not end a training.

A recurrent network multiplies by the same matrix at every step, so that its gradients
now and then explode. `clip_norm(1.0)` scales the gradient of *all parameters together*
down to length 1 where it is longer, which keeps its direction. (`ClipNorm` as a member
of a composition does the same for each parameter by itself.)
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import param, params, train
from minidiff.losses import mse
from minidiff.optimise import Descent, clip_norm


def fit(transform):
    """Teach a recurrent network to add up 20 numbers; give losses and norms."""
    rng = np.random.default_rng(1)
    A, B, c = (
        param(1.4 * np.linalg.qr(rng.normal(size=(8, 8)))[0]),
        param(rng.normal(size=8)),
        param(np.zeros(8)),
    )
    norms = []

    def loss(x, y):
        h = np.zeros((len(x), 8))
        for t in range(x.shape[1]):
            h = np.tanh(h @ A + x[:, t : t + 1] * B)
        return mse(h @ c, y)

    def watched(grads):
        norms.append(float(grads.norm()))
        return transform(grads)

    batches = [rng.uniform(-0.3, 0.3, (32, 20)) for _ in range(200)]
    data = [(x, x.sum(axis=1)) for x in batches]
    losses = train(loss, params(A, B, c), data, Descent(0.3), transform=watched)
    return losses, np.array(norms)


def main():
    runs = {
        "as they come": fit(lambda grads: grads),
        "clipped to 0.5": fit(clip_norm(0.5)),
    }
    fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for (name, (losses, norms)), style in zip(runs.items(), ("--", "-"), strict=True):
        end = losses[-20:].mean()
        print(
            f"{name:15} longest gradient {norms.max():.1e}, loss at the end {end:.1e}"
        )
        axes[0].semilogy(norms, style, color="black", linewidth=1, label=name)
        axes[1].semilogy(losses, style, color="black", linewidth=1, label=name)
    for ax, label in zip(axes, ("norm of the gradient", "loss"), strict=True):
        ax.set(xlabel="step", ylabel=label)
        ax.legend(fontsize="small")
    fig.savefig("global_clipping.png", dpi=300)
    return runs


if __name__ == "__main__":
    main()
