"""Print how jacobian, hvp and minimize stand to their peers: ``python benchmarks/minimisers.py``.

The first table counts how often each L-BFGS, as its library makes it, evaluates a loss and its gradient
until the loss is within 1e-10 of the minimum: the median over 21 starts, and the number from the usual one.
The second has times: JAX's are compiled, and those with differences are of plain NumPy functions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import machine

ROUNDS, SECONDS = 15, 0.01
CLOSE, STARTS = 1e-10, 21


def problems() -> dict[str, tuple[Callable[[Any, Any], Any], Any, float]]:
    """Give losses of a vector, written for any of the libraries, with their start and minimum."""
    import numpy as np
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 20)) * np.geomspace(0.2, 5, 20)
    y = (X @ rng.normal(size=20) + rng.normal(size=500) > 0) * 2.0 - 1

    def logistic(xp: Any, w: Any) -> Any:
        a, b = (X, y) if not hasattr(xp, "from_numpy") else (xp.from_numpy(X), xp.from_numpy(y))
        return xp.mean(xp.logaddexp(0 * b, -b * (a @ w))) + 1e-3 * xp.sum(w * w)

    def rosenbrock(xp: Any, w: Any) -> Any:
        return xp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)

    options = {"gtol": 1e-13, "maxiter": 10_000}
    exact = minimize(lambda w: logistic(np, w), np.zeros(20), method="BFGS", options={"maxiter": 10_000})
    from minidiff import optimise, param, params

    w = param(exact.x)
    least = optimise.minimize(lambda: logistic(np, w), params(w), "trust-exact", **options).fun
    return {
        "Rosenbrock, 2": (rosenbrock, np.array([-1.2, 1.0]), 0.0),
        "Rosenbrock, 10": (rosenbrock, np.tile([-1.2, 1.0], 5), 0.0),
        "logistic regression, 500 × 20": (logistic, np.zeros(20), least),
    }


def starts(first: Any) -> list[Any]:
    """Give the usual start and others about it."""
    import numpy as np

    rng = np.random.default_rng(1)
    return [first, *(first + rng.normal(size=(STARTS - 1, first.size)))]


def by_minidiff(loss: Callable[[Any, Any], Any], start: Any, least: float) -> float:
    """Count the evaluations of `minidiff.optimise.minimize`."""
    import numpy as np

    from minidiff import dropgrad, param, params
    from minidiff.optimise import minimize

    w, values = param(start), []

    def noted() -> Any:
        value = loss(np, w)
        values.append(float(dropgrad(value)))
        return value

    minimize(noted, params(w), ftol=0, gtol=1e-12, maxiter=10_000)
    return _first(values, least)


def by_torch(loss: Callable[[Any, Any], Any], start: Any, least: float, search: str | None) -> float:
    """Count those of PyTorch, with a line search or, as by default, without."""
    import torch

    w, values = torch.tensor(start, requires_grad=True), []
    opt = torch.optim.LBFGS(
        [w], max_iter=10_000, max_eval=100_000, line_search_fn=search, tolerance_grad=1e-12,
        tolerance_change=0,
    )  # fmt: skip

    def closure() -> Any:
        opt.zero_grad()
        value = loss(torch, w)
        value.backward()
        values.append(value.item())
        return value

    opt.step(closure)
    return _first(values, least)


def by_optax(loss: Callable[[Any, Any], Any], starts: list[Any], least: float) -> list[int]:
    """Count those of optax, whose line search says how many steps it took."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    f = lambda w: loss(jnp, w)
    opt = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(f)

    @jax.jit
    def step(w: Any, state: Any) -> Any:
        value, grad = value_and_grad(w, state=state)
        steps, state = opt.update(grad, state, w, value=value, grad=grad, value_fn=f)
        return optax.apply_updates(w, steps), state

    def count(w: Any) -> int:
        state, evaluations = opt.init(w), 1
        while float(f(w)) - least > CLOSE and evaluations < 10_000:
            w, state = step(w, state)
            evaluations += int(state[-1].info.num_linesearch_steps)
        return evaluations

    return [count(jnp.asarray(start)) for start in starts]


def _first(values: list[float], least: float) -> float:
    """Give the number of the first value that is close to the least: infinity if it is another minimum's."""
    return next((i for i, value in enumerate(values, 1) if value - least <= CLOSE), math.inf)


def works() -> dict[str, dict[str, Callable[[], Any]]]:
    """Give for each work what each library runs; all give the same answer."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.scipy import optimize as of_jax
    from scipy import optimize
    from scipy.optimize._numdiff import approx_derivative

    import minidiff
    from minidiff import param, params
    from minidiff.optimise import minimize

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    A = rng.normal(size=(100, 100)) / 10
    x, v = rng.normal(size=(2, 100))
    layer = lambda xp, x: xp.tanh(A @ xp.sin(A @ x))
    total = lambda xp, x: xp.sum(layer(xp, x) ** 2)
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    by_jax = jax.jit(jax.jacrev(lambda x: layer(jnp, x)))
    found["jacobian, 100 × 100"] = {
        "minidiff": lambda: minidiff.jacobian(lambda x: layer(np, x), x)[0],
        "JAX jit": lambda: by_jax(x).block_until_ready(),
        "differences": lambda: approx_derivative(lambda x: layer(np, x), x, method="2-point"),
    }
    product = jax.jit(lambda x, v: jax.jvp(jax.grad(lambda x: total(jnp, x)), (x,), (v,))[1])

    def by_differences() -> Any:
        slope = lambda x: minidiff.gradient(lambda x: total(np, x), x)[0]
        return (slope(x + 1e-6 * v) - slope(x - 1e-6 * v)) / 2e-6

    found["hvp, 100 elements"] = {
        "minidiff": lambda: minidiff.hvp(lambda x: total(np, x), x, v),
        "JAX jit": lambda: product(x, v).block_until_ready(),
        "differences": by_differences,
    }
    for name, (loss, start, _) in problems().items():
        w = param(start)

        def ours(loss: Any = loss, w: Any = w, start: Any = start) -> Any:
            w[...] = start
            return minimize(lambda: loss(np, w), params(w), "BFGS", gtol=1e-6).x

        theirs = jax.jit(
            lambda start, loss=loss: (
                of_jax.minimize(lambda v: loss(jnp, v), start, method="BFGS", options={"gtol": 1e-6}).x
            )
        )
        found[f"minimize by BFGS, {name}"] = {
            "minidiff": ours,
            "JAX jit": lambda theirs=theirs, start=start: theirs(start).block_until_ready(),
            "differences": lambda loss=loss, start=start: (
                optimize.minimize(lambda v: loss(np, v), start, method="BFGS", options={"gtol": 1e-6}).x
            ),
        }
    return found


def main() -> None:
    """Measure and show it."""
    machine.limit_threads()
    from growth import seconds
    from ratios import _calibrate, _time

    print(machine.describe())
    print("\n| evaluations | minidiff, L-BFGS-B | PyTorch | PyTorch, strong_wolfe | optax |")
    print("| --- | --- | --- | --- | --- |")
    for name, problem in problems().items():
        loss, first, least = problem
        ours = [by_minidiff(loss, start, least) for start in starts(first)]
        plain = [by_torch(loss, start, least, None) for start in starts(first)]
        wolfe = [by_torch(loss, start, least, "strong_wolfe") for start in starts(first)]
        optaxs = by_optax(loss, starts(first), least)
        counts = [f"{statistics.median(each):.0f} ({each[0]})" for each in (ours, plain, wolfe, optaxs)]
        print(f"| {name} | {' | '.join(counts)} |")
    print("\n| work | minidiff | JAX jit (ratio) | differences (ratio) |\n| --- | --- | --- | --- |")
    for title, runs in works().items():
        counts = {name: _calibrate(run, SECONDS) for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for first in range(ROUNDS):
            order = [*runs][first % len(runs) :] + [*runs][: first % len(runs)]
            for name in order:
                times[name].append(_time(runs[name], counts[name]))
        cells = []
        for name in runs:
            ratio = statistics.median(t / u for t, u in zip(times["minidiff"], times[name], strict=True))
            cells.append(
                seconds(statistics.median(times[name])) + (f" ({ratio:.2f})" if name != "minidiff" else "")
            )
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
