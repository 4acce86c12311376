"""SciPy's L-BFGS with our gradients.

Where the loss is the same at every step (no minibatches), a method that learns its curvature from the
gradients gets further with them than a first-order rule.

    .venv/bin/pip install -e '.[scipy]'
"""

import numpy as np

from minidiff import param, params, train
from minidiff.losses import mse
from minidiff.optimise import ADAM, minimize


def network(rng, width=12):
    """Make a curve y(x) with a hidden layer of tanh, and its parameters."""
    W, b = param(rng.normal(size=(1, width))), param(rng.normal(size=width))
    V, c = param(rng.normal(size=(width, 1)) / np.sqrt(width)), param(np.zeros(1))
    return (lambda x: np.tanh(x @ W + b) @ V + c), params(W, b, V, c)


def main():
    """Fit a curve with both methods; give their losses, each after as many evaluations of the gradient."""
    x = np.linspace(-3, 3, 60)[:, None]
    y = np.sin(2 * x) * np.exp(-(x**2) / 4)

    f, θ = network(np.random.default_rng(0))
    result = minimize(lambda: mse(f(x), y), θ, maxfun=500, maxiter=500, ftol=0, gtol=1e-9)
    quasi_newton = mse(f(x), y)

    g, ϕ = network(np.random.default_rng(0))
    train(lambda x, y: mse(g(x), y), ϕ, [(x, y)], ADAM(0.01), epochs=result.nfev)
    first_order = mse(g(x), y)

    print(f"after {result.nfev} gradients: L-BFGS {quasi_newton:.2e}, ADAM {first_order:.2e}")
    return quasi_newton, first_order


if __name__ == "__main__":
    main()
