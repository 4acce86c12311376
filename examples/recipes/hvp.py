"""A Hessian-vector product: curvature in one direction, without the Hessian.

The matrix of second derivatives of a network is too large to be made. Its product with
a vector v is a gradient: that of the number ∇L · v, since ∂(∇L · v) = H v. With such
products the power method finds the largest curvature, which says how large a rate
descent bears (2 / λ).
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient, hessian, param, params


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    y = np.sin(x[:, 0])
    W, v = param(rng.normal(size=(4, 6)) / 2), param(rng.normal(size=6) / 2)
    θ = params(W, v)

    def loss():
        return np.mean((np.tanh(x @ W) @ v - y) ** 2)

    def hvp(direction):
        """Give H · direction, both in the order of `to_vector`."""
        parts = np.split(direction, [W.size])
        parts = {W: parts[0].reshape(W.shape), v: parts[1]}

        def along():
            grads = gradient(loss, θ)
            return sum(np.sum(grads[p] * parts[p]) for p in θ)

        return gradient(along, θ).to_vector()

    u, found = rng.normal(size=30), []
    for _ in range(40):
        u = u / np.linalg.norm(u)
        product = hvp(u)
        found.append(float(u @ product))
        u = product

    def loss_of_vector(p):
        return np.mean((np.tanh(x @ p[:24].reshape(4, 6)) @ p[24:] - y) ** 2)

    exact = np.linalg.eigvalsh(hessian(loss_of_vector, θ.to_vector()))
    largest = exact[np.argmax(abs(exact))]
    print(
        f"largest curvature: {found[-1]:.6f} by products, {largest:.6f} by the Hessian"
    )

    _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.plot(found, "k.-", label="power method")
    ax.axhline(
        largest,
        linestyle="--",
        color="#0072b2",
        label="largest eigenvalue of the Hessian",
    )
    ax.set(xlabel="products", ylabel="curvature")
    ax.legend()
    ax.figure.savefig("hvp.png", dpi=150)
    return found, largest


if __name__ == "__main__":
    main()
