"""SciPy's L-BFGS with our gradients: all parameters as one vector, and back.

Where the loss is the same at every step (no minibatches), a method that learns its
curvature from the gradients gets further with them than a first-order rule. SciPy asks
for a function of a vector that gives the loss and its gradient; `Params` and `Grads`
turn into such vectors.

    .venv/bin/pip install -e '.[tutorials]'
"""

import numpy as np

from minidiff import param, params, train, withgradient
from minidiff.losses import mse
from minidiff.optimise import ADAM


def network(rng, width=12):
    """Make a curve y(x) with a hidden layer of tanh, and its parameters."""
    W, b = param(rng.normal(size=(1, width))), param(rng.normal(size=width))
    V, c = param(rng.normal(size=(width, 1)) / np.sqrt(width)), param(np.zeros(1))
    return (lambda x: np.tanh(x @ W + b) @ V + c), params(W, b, V, c)


def minimise(loss, θ, evaluations=500):
    """Minimise a loss over its parameters; they are left at the minimum."""
    from scipy.optimize import minimize

    def loss_and_slope(v):
        θ.from_vector(v)
        value, grads = withgradient(loss, θ)
        return value, grads.to_vector()

    result = minimize(
        loss_and_slope,
        θ.to_vector(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxfun": evaluations,
            "maxiter": evaluations,
            "ftol": 0,
            "gtol": 1e-9,
        },
    )
    θ.from_vector(result.x)
    return result


def main():
    """Fit a curve with both methods; give their losses after as many gradients."""
    x = np.linspace(-3, 3, 60)[:, None]
    y = np.sin(2 * x) * np.exp(-(x**2) / 4)

    f, θ = network(np.random.default_rng(0))
    result = minimise(lambda: mse(f(x), y), θ)
    quasi_newton = mse(f(x), y)

    g, ϕ = network(np.random.default_rng(0))
    train(lambda x, y: mse(g(x), y), ϕ, [(x, y)], ADAM(0.01), epochs=result.nfev)
    first_order = mse(g(x), y)

    print(
        f"after {result.nfev} gradients: "
        f"L-BFGS {quasi_newton:.2e}, ADAM {first_order:.2e}"
    )
    return quasi_newton, first_order


if __name__ == "__main__":
    main()
