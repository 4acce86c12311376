"""Gauss-Newton and Fisher products: curvature that is never negative, in a step.

For a loss of a model's outputs the Gauss-Newton matrix is G = Jᵀ H J, with J the
Jacobian of the outputs by the parameters and H the Hessian of the loss by the outputs.
`jvp`, `hvp` and `pullback` multiply by the three, one after another. For the
cross-entropy of a softmax G is the Fisher information, and G⁻¹ times the gradient is
the natural gradient.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient, hvp, jvp, param, params, pullback
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ADAM, update


def curvature_product(model, loss, θ, v):
    """Multiply the Gauss-Newton matrix of loss(model()) by v, a Grads."""
    outputs, tangent = jvp(model, θ, v)
    _, back = pullback(model, θ)
    return back(hvp(loss, outputs, tangent))


def solve(product, g, damping, steps=20):
    """Solve (G + damping) u = g by conjugate gradients."""
    dot = lambda a, b: a.to_vector() @ b.to_vector()
    u, r, p = 0 * g, g, g
    for _ in range(steps):
        q = product(p) + damping * p
        α = dot(r, r) / dot(p, q)
        u, smaller = u + α * p, r - α * q
        p, r = smaller + dot(smaller, smaller) / dot(r, r) * p, smaller
    return u


def problem():
    """Give a network for three spiral arms, its loss, and its parameters."""
    rng = np.random.default_rng(0)
    labels, t = np.repeat(np.arange(3), 40), np.tile(np.linspace(0.2, 1, 40), 3)
    angle = 2 * np.pi * labels / 3 + 4 * t + 0.1 * rng.normal(size=120)
    x = np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1)
    W, b = param(rng.normal(size=(2, 16))), param(rng.normal(size=16))
    V = param(rng.normal(size=(16, 3)) / 4)
    loss = lambda scores: logitcrossentropy(scores, labels)
    return lambda: np.tanh(x @ W + b) @ V, loss, params(W, b, V)


def main():
    model, loss, θ = problem()
    natural = [float(loss(model()))]
    product = lambda v: curvature_product(model, loss, θ, v)
    for _ in range(40):
        step = solve(product, gradient(lambda: loss(model()), θ), damping=1e-2)
        for p in θ:
            update(p, step[p])
        natural.append(float(loss(model())))

    model, loss, ϕ = problem()
    opt, adam = ADAM(0.05), []
    for _ in range(41):
        adam.append(float(loss(model())))
        update(opt, ϕ, gradient(lambda: loss(model()), ϕ))
    print(f"after 40 steps: natural gradient {natural[-1]:.3f}, ADAM {adam[-1]:.3f}")

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.semilogy(natural, "k-", label="natural gradient")
    ax.semilogy(adam, "--", color="#0072b2", label="ADAM(0.05)")
    ax.set(xlabel="step", ylabel="loss")
    ax.legend()
    ax.figure.savefig("curvature.png", dpi=300)
    return natural, adam, problem, curvature_product


if __name__ == "__main__":
    main()
