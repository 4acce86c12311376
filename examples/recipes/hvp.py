"""A Hessian-vector product: curvature in one direction, without the Hessian.

The matrix of second derivatives of a network is too large to be made. Its product with
a vector v is a gradient: that of the number ∇L · v, since ∂(∇L · v) = H v, and costs
about two gradients. With such products, `hvp`, the power method finds the largest
curvature, which says how large a rate descent bears (2 / λ).
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import gradient, hessian, hvp, param, params


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    y = np.sin(x[:, 0])
    W, v = param(rng.normal(size=(4, 6)) / 2), param(rng.normal(size=6) / 2)
    θ = params(W, v)

    def loss():
        return np.mean((np.tanh(x @ W) @ v - y) ** 2)

    u, found = gradient(loss, θ), []  # any direction does to begin with
    for _ in range(40):
        u = u / u.norm()
        product = hvp(loss, θ, u)
        found.append(float(u.to_vector() @ product.to_vector()))
        u = product

    exact = np.linalg.eigvalsh(hessian(loss, θ))
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
    ax.figure.savefig("hvp.png", dpi=300)
    return found, largest


if __name__ == "__main__":
    main()
