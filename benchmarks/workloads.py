"""What is timed: each piece of work, written once for minidiff and once for each of its peers.

A contestant is made of the same NumPy data as the others and then repeats the same arithmetic, in the same
dtype, in the form that its own documentation would choose for speed: data are arrays of its own library
beforehand, functions of JAX are compiled and waited for. A step of training is the whole step: the gradient
(in PyTorch with `zero_grad`) and the optimiser's update.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import models
import numpy as np
from growth import power
from models import COMPILED, MINIDIFF, TORCH

import minidiff.optimise as mo
from minidiff import Params, compiled, gradient, param, params
from minidiff.functions import relu
from minidiff.losses import logitcrossentropy, mse
from minidiff.optimise import step

# As in a training that has gone on for some seconds: large arrays do not wait for Numba any more.
step.PATIENCE = 0.0

NUMPY_ALONE, EAGERLY = "minidiff without Numba", "one gradient without"
NUMPY, AUTOGRAD, MYGRAD = "NumPy by hand", "autograd", "MyGrad"
TORCH_FUSED, TORCH_COMPILE, JAX = "PyTorch fused", "torch.compile", "JAX jit"
NEEDS = {
    TORCH_COMPILE: "torch",
    AUTOGRAD: "autograd",
    MYGRAD: "mygrad",
    TORCH: "torch",
    TORCH_FUSED: "torch",
    JAX: "optax",
}


class Contestant(NamedTuple):
    """A piece of work made ready: ``run()`` does it, ``answer(run())`` gives the result as NumPy arrays."""

    run: Callable[[], Any]
    answer: Callable[[Any], list[Any]]


Makers = dict[str, Callable[[], Contestant]]


@dataclass(frozen=True)
class Work:
    """A piece of work, and what is to be reached in it.

    Attributes
    ----------
    title : str
        The row of the table of goals that it belongs to.
    case : str
        Which of that row's: a size, a dtype, a rule.
    makers : dict
        By name, functions that make the contestants. The first is the one that the others are peers of.
    goals : dict
        For a peer, the ratio of times (the first contestant's / the peer's) to stay below.
    differs : str
        Where peers compute something else by the same name: what. Their answers are not compared.
    """

    title: str
    case: str
    makers: Makers
    goals: dict[str, float] = field(default_factory=dict)
    differs: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.title}, {self.case}" if self.case else self.title

    @property
    def contestants(self) -> list[str]:
        """The names of those whose libraries are installed."""
        has = [name for name in self.makers if name not in NEEDS or importlib.util.find_spec(NEEDS[name])]
        return [name for name in has if name != TORCH_COMPILE or shutil.which("g++")]


def works(largest: int = 10**7) -> Iterator[Work]:
    """Give every piece of work, with no array of more than `largest` elements in the optimisers' steps.

    What is small comes first, when no formula has been compiled yet: as in a program where all is small.
    """

    def up_to(*sizes: int) -> list[tuple[int, str]]:
        some = [n for n in sizes if n <= largest] or [largest]
        return [(n, dtype) for n in some for dtype in ("float32", "float64")]

    goals = {TORCH: 0.4, AUTOGRAD: 0.2, MYGRAD: 0.4, NUMPY: 4.0, JAX: 2.5}
    fast = {NUMPY: 1.4, JAX: 0.55, TORCH: 0.12, TORCH_COMPILE: 0.35}
    yield from _both("gradient, 2×5 linear regression", regression(), goals, fast)
    yield from _both(
        "gradient + ADAM, 2×5 linear regression", regression_step(), {TORCH: 0.3}, {JAX: 0.7, TORCH: 0.1}
    )
    yield from _mlp((64, 32, 10), 32, "float64", 0.6, 0.6, 0.25)
    yield from _both(
        "a turn of composed_decay.py", composed_decay(), {}, {TORCH: 0.35}, "each draws its own inputs"
    )
    for title, makers, eager, fast_ in [
        ("train step, transformer of one block", models.transformer().steps(Contestant), 1.0, 0.7),
        ("gradient, physics-informed network", models.physics_informed().gradients(Contestant), 1.0, 0.5),
        ("gradient, LSTM of 20 steps", models.char_lstm().gradients(Contestant), 1.0, 0.7),
        ("gradient, convolution by im2col", models.convolution().gradients(Contestant), 2.0, 1.5),
    ]:
        yield from _both(title, makers, {TORCH: eager}, {TORCH: fast_})
    yield Work("gradient, recording its program, MLP 64-32-10", "", recording(), {EAGERLY: 30})
    for n, dtype in up_to(10, 100, 1000):
        goals = {TORCH: 0.25, TORCH_FUSED: 0.4}
        yield Work("ADAM step, 10 to 1000 elements", _case(n, dtype), rule_step("ADAM", n, dtype), goals)
    yield from _other_rules("every other rule, 100 elements", min(100, largest), 0.25)

    yield from _mlp((784, 64, 10), 128, "float32", 0.8, 0.65, 0.25)
    yield from _mlp((784, 256, 10), 512, "float32", 0.95, 0.8, 0.3)
    for n, dtype in up_to(10**5, 10**6, 10**7):
        goals = {TORCH: 0.5, TORCH_FUSED: 1.0}
        yield Work("ADAM step, 10⁵ to 10⁷ elements", _case(n, dtype), rule_step("ADAM", n, dtype), goals)
    yield from _other_rules("every other rule, 10⁶ elements", min(10**6, largest), 0.6)
    for n, dtype in up_to(10**6):
        title = "ClipValue, WeightDecay, ADAM composed"
        yield Work(title, _case(n, dtype), composition(n, dtype), {JAX: 1.0})
    for n, dtype in up_to(10**5, 10**6, 10**7):
        title = "ADAM step without Numba, 10⁵ to 10⁷ elements"
        yield Work(title, _case(n, dtype), adam_without_numba(n, dtype), {TORCH: 1.0})


def _both(
    title: str, makers: Makers, eager: dict[str, float], fast: dict[str, float], differs: str = ""
) -> Iterator[Work]:
    """Give a work twice: for minidiff as it is, and compiled."""
    peers = {name: maker for name, maker in makers.items() if name not in (MINIDIFF, COMPILED)}
    slow = {name: maker for name, maker in peers.items() if name != TORCH_COMPILE}
    yield Work(title, "", {MINIDIFF: makers[MINIDIFF], **slow}, eager, differs)
    yield Work(f"{title}, compiled", "", {COMPILED: makers[COMPILED], **peers}, fast, differs)


def _mlp(
    sizes: tuple[int, ...], batch: int, dtype: str, eager: float, to_jax: float, to_torch: float
) -> Iterator[Work]:
    title = f"train step, MLP {'-'.join(map(str, sizes))}, batch {batch}, {dtype}"
    return _both(title, mlp_step(sizes, batch, dtype), {TORCH: eager}, {JAX: to_jax, TORCH: to_torch})


def _other_rules(title: str, n: int, goal: float) -> Iterator[Work]:
    for rule, pairing in RULES.items():
        if rule != "ADAM":
            goals = {TORCH: goal} if pairing.torch else {}
            yield Work(title, f"{rule}, float32", rule_step(rule, n, "float32"), goals, pairing.differs)


def _case(n: int, dtype: str) -> str:
    return f"{power(n)} {dtype}"


# --- Gradients ------------------------------------------------------------------------------------------


def regression() -> Makers:
    """Take ∂loss/∂W and ∂loss/∂b of loss = Σ(Wx + b − y)²."""
    rng = np.random.default_rng(0)
    W0, b0, x0, y0 = rng.random((2, 5)), rng.random(2), rng.random(5), rng.random(2)

    def minidiff() -> Contestant:
        W, b = param(W0), param(b0)
        θ = params(W, b)
        loss = lambda x, y: np.sum((W @ x + b - y) ** 2)
        return Contestant(lambda: gradient(lambda: loss(x0, y0), θ), lambda grads: [grads[W], grads[b]])

    def fast() -> Contestant:
        W, b = param(W0), param(b0)
        f = compiled(lambda x, y: np.sum((W @ x + b - y) ** 2), params(W, b))
        return Contestant(lambda: f(x0, y0), lambda result: [result.grad[W], result.grad[b]])

    def by_hand() -> Contestant:
        def run() -> Any:
            e = W0 @ x0 + b0 - y0
            loss = np.sum(e**2)
            g = 2 * e
            return loss, g[:, None] * x0, g

        return Contestant(run, lambda results: list(results[1:]))

    def autograd() -> Contestant:
        import autograd.numpy as anp
        from autograd import grad

        both = grad(lambda W, b: anp.sum((anp.dot(W, x0) + b - y0) ** 2), (0, 1))
        return Contestant(lambda: both(W0, b0), list)

    def mygrad() -> Contestant:
        import mygrad as mg

        W, b = mg.tensor(W0), mg.tensor(b0)

        def run() -> Any:
            mg.sum((mg.matmul(W, x0) + b - y0) ** 2).backward()
            return W.grad, b.grad

        return Contestant(run, list)

    def pytorch() -> Contestant:
        import torch

        W, b, x, y = _tensors(W0, b0, x0, y0)
        W.requires_grad_(), b.requires_grad_()
        loss = lambda x, y: torch.sum((W @ x + b - y) ** 2)
        return Contestant(lambda: torch.autograd.grad(loss(x, y), (W, b)), list)

    def jax() -> Contestant:
        jax = _jax()
        W, b, x, y = map(jax.numpy.asarray, (W0, b0, x0, y0))
        both = jax.jit(jax.grad(lambda W, b, x, y: ((W @ x + b - y) ** 2).sum(), (0, 1)))
        return Contestant(lambda: jax.block_until_ready(both(W, b, x, y)), list)

    def torch_compile() -> Contestant:
        import torch

        W, b, x, y = _tensors(W0, b0, x0, y0)
        loss = lambda W, b, x, y: torch.sum((W @ x + b - y) ** 2)
        both = torch.compile(torch.func.grad_and_value(loss, (0, 1)))
        return Contestant(lambda: both(W, b, x, y), lambda result: [g.numpy() for g in result[0]])

    return {
        MINIDIFF: minidiff, COMPILED: fast, NUMPY: by_hand, AUTOGRAD: autograd, MYGRAD: mygrad,
        TORCH: pytorch, TORCH_COMPILE: torch_compile, JAX: jax,
    }  # fmt: skip


def recording() -> Makers:
    """Record the program of a gradient, for as long as it takes to take the gradient so many times."""
    makers = dict(zip((MINIDIFF, EAGERLY), models.recording(), strict=True))
    return {
        name: lambda run=run: Contestant(run, lambda result: list(result.grad.values()))
        for name, run in makers.items()
    }


# --- Training -------------------------------------------------------------------------------------------


def regression_step() -> Makers:
    """Take a step of ADAM down the same loss."""
    rng = np.random.default_rng(0)
    W0, b0, x0, y0 = rng.random((2, 5)), rng.random(2), rng.random(5), rng.random(2)
    ours = lambda W, b, x, y: np.sum((W @ x + b - y) ** 2)
    return {
        MINIDIFF: lambda: _minidiff_training([W0, b0], ours, mo.ADAM(0.001), x0, y0),
        COMPILED: lambda: _compiled_training([W0, b0], ours, mo.ADAM(0.001), x0, y0),
        TORCH: lambda: _torch_training(
            [W0, b0, x0, y0], 2, lambda W, b, x, y: ((W @ x + b - y) ** 2).sum(), _torch_adam
        ),
        JAX: lambda: _jax_training([W0, b0, x0, y0], 2, lambda W, b, x, y: ((W @ x + b - y) ** 2).sum()),
    }


def mlp_step(sizes: tuple[int, ...], batch: int, dtype: str) -> Makers:
    """Train a classifier of two layers, with relu between, on class numbers: a step of ADAM."""
    rng = np.random.default_rng(0)
    inputs, hidden, classes = sizes
    start = [
        (rng.standard_normal((inputs, hidden)) / inputs**0.5).astype(dtype),
        np.zeros(hidden, dtype),
        (rng.standard_normal((hidden, classes)) / hidden**0.5).astype(dtype),
        np.zeros(classes, dtype),
    ]
    x0, y0 = rng.standard_normal((batch, inputs)).astype(dtype), rng.integers(0, classes, batch)

    ours = lambda W1, b1, W2, b2, x, y: logitcrossentropy(relu(x @ W1 + b1) @ W2 + b2, y)
    minidiff = lambda: _minidiff_training(start, ours, mo.ADAM(0.001), x0, y0)
    fast = lambda: _compiled_training(start, ours, mo.ADAM(0.001), x0, y0)

    def pytorch() -> Contestant:
        from torch.nn.functional import cross_entropy, linear, relu

        # As in its own layers, a weight's rows are outputs.
        loss = lambda W1, b1, W2, b2, x, y: cross_entropy(linear(relu(linear(x, W1, b1)), W2, b2), y)
        layout = [start[0].T, start[1], start[2].T, start[3], x0, y0]
        contestant = _torch_training(layout, 4, loss, _torch_adam)
        return contestant._replace(answer=lambda _: [a.T for a in contestant.answer(_)])

    def jax() -> Contestant:
        jax = _jax()
        import optax

        def loss(W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Any:
            scores = jax.nn.relu(x @ W1 + b1) @ W2 + b2
            return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()

        return _jax_training([*start, x0, y0], 4, loss)

    by_hand = lambda: _mlp_by_hand([a.copy() for a in start], x0, y0)
    return {MINIDIFF: minidiff, COMPILED: fast, NUMPY: by_hand, TORCH: pytorch, JAX: jax}


def _mlp_by_hand(θ: list[Any], x: Any, y: Any) -> Contestant:
    W1, b1, W2, b2 = θ
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in θ]
    η, β1, β2, ε, rows, t = 0.001, 0.9, 0.999, 1e-8, np.arange(len(y)), 0

    def run() -> Any:
        nonlocal t
        t += 1
        h = np.maximum(x @ W1 + b1, 0)
        scores = h @ W2 + b2
        scores -= scores.max(axis=1, keepdims=True)
        e = np.exp(scores)
        total = e.sum(axis=1)
        loss = np.mean(np.log(total) - scores[rows, y])
        g = e / total[:, None]
        g[rows, y] -= 1
        g /= len(y)
        g1 = (g @ W2.T) * (h > 0)
        for p, Δ, (m, v) in zip(θ, (x.T @ g1, g1.sum(0), h.T @ g, g.sum(0)), moments, strict=True):
            m *= β1
            m += (1 - β1) * Δ
            v *= β2
            v += (1 - β2) * (Δ * Δ)
            p -= (η / (1 - β1**t)) * m / (np.sqrt(v / (1 - β2**t)) + ε)
        return loss

    return Contestant(run, lambda _: θ)


def composed_decay() -> Makers:
    """Turn the loop of examples/composed_decay.py once: a fresh input, its gradient, a decayed descent."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((10, 10)), rng.standard_normal((10, 10))

    def minidiff() -> Contestant:
        w, w1 = map(param, start)
        loss = lambda x: mse(w @ x, w1 @ x)
        opt = mo.Optimiser(mo.ExpDecay(0.001, 0.1, 1000, 1e-4), mo.Descent())

        def run() -> None:
            θ = Params([w, w1])
            mo.update(opt, θ, gradient(lambda: loss(rng.random(10)), θ))

        return Contestant(run, lambda _: [w.value, w1.value])

    def pytorch() -> Contestant:
        import torch
        from torch.nn.functional import mse_loss

        t = 0

        def loss(w: Any, w1: Any) -> Any:
            x = torch.rand(10, dtype=torch.float64)
            return mse_loss(w @ x, w1 @ x)

        def optimiser(θ: Any) -> Any:
            opt = torch.optim.SGD(θ, lr=0.1 * 0.001)

            def step() -> None:
                nonlocal t
                t += 1
                if t % 1000 == 0:
                    opt.param_groups[0]["lr"] = 0.1 * 1e-4
                opt.step()

            return opt.zero_grad, step

        return _torch_training([*start], 2, loss, optimiser)

    def fast() -> Contestant:
        w, w1 = map(param, start)
        opt = mo.Optimiser(mo.ExpDecay(0.001, 0.1, 1000, 1e-4), mo.Descent())
        step = compiled(lambda x: mse(w @ x, w1 @ x), params(w, w1), opt)
        return Contestant(lambda: step(rng.random(10)), lambda _: [w.value, w1.value])

    return {MINIDIFF: minidiff, COMPILED: fast, TORCH: pytorch}


def _minidiff_training(
    start: list[Any], loss: Callable[..., Any], opt: mo.AbstractOptimiser, *data: Any
) -> Contestant:
    θ = params([param(a) for a in start])
    values = [*θ]

    def run() -> None:
        mo.update(opt, θ, gradient(lambda: loss(*values, *data), θ))

    return Contestant(run, lambda _: [p.value for p in θ])


def _compiled_training(
    start: list[Any], loss: Callable[..., Any], opt: mo.AbstractOptimiser, *data: Any
) -> Contestant:
    θ = params([param(a) for a in start])
    values = [*θ]
    step = compiled(lambda *data: loss(*values, *data), θ, opt)
    return Contestant(lambda: step(*data), lambda _: [p.value for p in θ])


def _torch_adam(θ: list[Any]) -> Any:
    import torch

    opt = torch.optim.Adam(θ, lr=0.001)
    return opt.zero_grad, opt.step


def _torch_training(arrays: list[Any], trained: int, loss: Callable[..., Any], optimiser: Any) -> Contestant:
    """Train the first few of the arrays; the others are data."""
    tensors = _tensors(*arrays)
    θ = tensors[:trained]
    for p in θ:
        p.requires_grad_()
    zero_grad, step = optimiser(θ)

    def run() -> None:
        zero_grad()
        loss(*tensors).backward()
        step()

    return Contestant(run, lambda _: [p.detach().numpy() for p in θ])


def _jax_training(arrays: list[Any], trained: int, loss: Callable[..., Any]) -> Contestant:
    jax = _jax()
    import optax

    θ, data = [jax.numpy.array(a) for a in arrays[:trained]], [jax.numpy.array(a) for a in arrays[trained:]]
    opt = optax.adam(0.001)
    state = opt.init(θ)

    def step(θ: Any, state: Any, data: Any) -> Any:
        updates, state = opt.update(jax.grad(lambda θ: loss(*θ, *data))(θ), state, θ)
        return optax.apply_updates(θ, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        nonlocal θ, state
        θ, state = jax.block_until_ready(step(θ, state, data))

    return Contestant(run, lambda _: θ)


# --- Steps of optimisers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """A rule and what its peers call it: names in `torch.optim` and `optax`, with their arguments."""

    minidiff: mo.AbstractOptimiser
    torch: tuple[str, dict[str, Any]] | None = None
    optax: tuple[str, dict[str, Any]] | None = None
    differs: str = ""


RULES = {
    "Descent": Pairing(mo.Descent(0.1), ("SGD", {"lr": 0.1})),
    "Momentum": Pairing(mo.Momentum(0.01), ("SGD", {"lr": 0.01, "momentum": 0.9})),
    "Nesterov": Pairing(mo.Nesterov(0.001), ("SGD", {"lr": 0.001, "momentum": 0.9, "nesterov": True})),
    "RMSProp": Pairing(mo.RMSProp(0.001), ("RMSprop", {"lr": 0.001, "alpha": 0.9})),
    "ADAM": Pairing(mo.ADAM(0.001), ("Adam", {"lr": 0.001})),
    "RADAM": Pairing(mo.RADAM(0.001), ("RAdam", {"lr": 0.001})),
    "AdaMax": Pairing(mo.AdaMax(0.001), ("Adamax", {"lr": 0.001})),
    "ADAGrad": Pairing(mo.ADAGrad(0.1), ("Adagrad", {"lr": 0.1, "eps": 1e-8})),
    "ADADelta": Pairing(mo.ADADelta(0.9), ("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-8})),
    "AMSGrad": Pairing(
        mo.AMSGrad(0.001), ("Adam", {"lr": 0.001, "amsgrad": True}), differs="PyTorch corrects the bias"
    ),
    "NADAM": Pairing(mo.NADAM(0.001), ("NAdam", {"lr": 0.001}), differs="PyTorch decays β₁"),
    "ADAMW": Pairing(mo.ADAMW(0.001, decay=0.01), ("AdamW", {"lr": 0.001, "weight_decay": 0.01})),
    "OADAM": Pairing(
        mo.OADAM(0.001),
        optax=(
            "optimistic_adam_v2",
            {"learning_rate": 1.0, "alpha": 0.001, "beta": 0.001, "b1": 0.5, "b2": 0.9, "nesterov": False},
        ),
        differs="optax begins with half a step",
    ),
    "AdaBelief": Pairing(mo.AdaBelief(0.001), optax=("adabelief", {"learning_rate": 0.001})),
}


def rule_step(rule: str, n: int, dtype: str) -> Makers:
    """Take a step of a rule on one array of n elements, with a gradient that is there already."""
    pairing = RULES[rule]
    arrays = partial(_parameter, n, dtype)
    makers: Makers = {MINIDIFF: lambda: _minidiff_step(pairing.minidiff, *arrays())}
    if pairing.torch:
        name, settings = pairing.torch
        makers[TORCH] = lambda: _torch_step(name, *arrays(), **settings)
        if rule == "ADAM":
            makers[TORCH_FUSED] = lambda: _torch_step(name, *arrays(), **settings, fused=True)
    if pairing.optax:
        maker, arguments = pairing.optax
        makers[JAX] = lambda: _optax_step(lambda optax: getattr(optax, maker)(**arguments), *arrays())
    return makers


def adam_without_numba(n: int, dtype: str) -> Makers:
    """Take a step of ADAM on one array of n elements, by NumPy alone."""
    makers = rule_step("ADAM", n, dtype)

    def without_numba() -> Contestant:
        contestant = makers[MINIDIFF]()

        def run() -> Any:
            with mo.engine("numpy"):
                return contestant.run()

        return contestant._replace(run=run)

    return {NUMPY_ALONE: without_numba, TORCH: makers[TORCH]}


def composition(n: int, dtype: str) -> Makers:
    """Take a step of ADAM after clipping by value and weight decay, on one array of n elements."""
    opt = mo.Optimiser(mo.ClipValue(0.5), mo.WeightDecay(0.01), mo.ADAM(0.001))
    chain = lambda optax: optax.chain(optax.clip(0.5), optax.add_decayed_weights(0.01), optax.adam(0.001))
    return {
        MINIDIFF: lambda: _minidiff_step(opt, *_parameter(n, dtype)),
        JAX: lambda: _optax_step(chain, *_parameter(n, dtype)),
    }


def _parameter(n: int, dtype: str) -> tuple[Any, Any]:
    """Make a parameter and its gradient."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(n, dtype), rng.standard_normal(n, dtype)


def _minidiff_step(opt: mo.AbstractOptimiser, x0: Any, g0: Any) -> Contestant:
    p = param(x0)
    return Contestant(lambda: mo.update(opt, p, g0), lambda _: [p.value])


def _torch_step(kind: str, x0: Any, g0: Any, **settings: Any) -> Contestant:
    import torch

    p, g = _tensors(x0, g0)
    p.requires_grad_()
    p.grad = g
    opt = getattr(torch.optim, kind)([p], **settings)
    return Contestant(opt.step, lambda _: [p.detach().numpy()])


def _optax_step(make: Callable[[Any], Any], x0: Any, g0: Any) -> Contestant:
    jax = _jax()
    import optax

    p, g = jax.numpy.array(x0), jax.numpy.array(g0)
    opt = make(optax)
    state = opt.init(p)

    def step(p: Any, state: Any, g: Any) -> Any:
        updates, state = opt.update(g, state, p)
        return optax.apply_updates(p, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        nonlocal p, state
        p, state = jax.block_until_ready(step(p, state, g))

    return Contestant(run, lambda _: [p])


# --- The peers' own ways --------------------------------------------------------------------------------


def _tensors(*arrays: Any) -> list[Any]:
    import torch

    return [torch.from_numpy(a.copy()) for a in arrays]


def _jax() -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax
