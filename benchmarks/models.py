"""Larger models, as gradients and steps: for minidiff as it is and compiled, and for PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minidiff.optimise as mo
from minidiff import Params, compiled, gradient, param, params, withgradient
from minidiff.functions import relu, sigmoid, softmax
from minidiff.losses import logitcrossentropy

MINIDIFF, COMPILED, TORCH = "minidiff", "minidiff compiled", "PyTorch"


class _Model:
    """A loss of parameters and data: written with NumPy, and with PyTorch."""

    def __init__(
        self, start: list[Any], data: tuple[Any, ...], ours: Callable[..., Any], theirs: Callable[..., Any]
    ) -> None:
        self.start, self.data, self.ours, self.theirs = start, data, ours, theirs

    def gradients(self, contestant: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
        """Take the gradient by the parameters."""

        def minidiff(way: str) -> Any:
            θ = params([param(a) for a in self.start])
            loss = lambda *data: self.ours(*θ, *data)
            run = compiled(loss, θ) if way == COMPILED else lambda *data: withgradient(lambda: loss(*data), θ)
            return contestant(lambda: run(*self.data), lambda result: list(result.grad.values()))

        def pytorch() -> Any:
            import torch

            θ, data = _tensors(torch, self.start, True), _tensors(torch, self.data)
            run = lambda: torch.autograd.grad(self.theirs(*θ, *data), θ)
            return contestant(run, lambda gs: [g.numpy() for g in gs])

        return {MINIDIFF: lambda: minidiff(MINIDIFF), COMPILED: lambda: minidiff(COMPILED), TORCH: pytorch}

    def steps(self, contestant: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
        """Take a step of ADAM."""

        def minidiff(way: str) -> Any:
            θ, opt = params([param(a) for a in self.start]), mo.ADAM(0.001)
            loss = lambda *data: self.ours(*θ, *data)
            step: Any = compiled(loss, θ, opt)
            if way == MINIDIFF:
                step = lambda *data: mo.update(opt, θ, gradient(lambda: loss(*data), θ))
            return contestant(lambda: step(*self.data), lambda _: [p.value for p in θ])

        def pytorch() -> Any:
            import torch

            θ, data = _tensors(torch, self.start, True), _tensors(torch, self.data)
            opt = torch.optim.Adam(θ, lr=0.001)

            def run() -> None:
                opt.zero_grad()
                self.theirs(*θ, *data).backward()
                opt.step()

            return contestant(run, lambda _: [p.detach().numpy() for p in θ])

        return {MINIDIFF: lambda: minidiff(MINIDIFF), COMPILED: lambda: minidiff(COMPILED), TORCH: pytorch}


def _tensors(torch: Any, arrays: Any, trained: bool = False) -> list[Any]:
    return [torch.from_numpy(np.array(a)).requires_grad_(trained) for a in arrays]


def transformer() -> _Model:
    """Copy tokens through one block of attention, with layer norm and an embedding by index."""
    rng = np.random.default_rng(0)
    batch, length, words, d, heads = 8, 16, 16, 32, 4
    shapes = [(words, d), (length, d), (d, 3 * d), (d, d), (d,), (d,), (d, 4 * d), (4 * d, d), (d,), (d,),
        (d, words)]  # fmt: skip
    start = [rng.normal(size=shape) / 6 + (len(shape) == 1) for shape in shapes]
    tokens = rng.integers(0, words, (batch, length))
    split = (batch, length, 3, heads, d // heads)

    def ours(
        E: Any, P: Any, A: Any, M: Any, g1: Any, c1: Any, U: Any, D: Any, g2: Any, c2: Any, R: Any, t: Any
    ) -> Any:
        norm = lambda x, g, c: (
            (x - np.mean(x, -1, keepdims=True)) / np.sqrt(np.var(x, -1, keepdims=True) + 1e-5) * g + c
        )
        x = E[t] + P
        q, k, v = np.moveaxis((norm(x, g1, c1) @ A).reshape(split), (2, 3), (0, 2))
        weights = softmax(q @ np.swapaxes(k, -1, -2) / (d // heads) ** 0.5)
        x = x + np.swapaxes(weights @ v, 1, 2).reshape((batch, length, d)) @ M
        x = x + relu(norm(x, g2, c2) @ U) @ D
        return logitcrossentropy(x @ R, t)

    def theirs(
        E: Any, P: Any, A: Any, M: Any, g1: Any, c1: Any, U: Any, D: Any, g2: Any, c2: Any, R: Any, t: Any
    ) -> Any:
        from torch.nn import functional as F  # noqa: N812

        x = F.embedding(t, E) + P
        q, k, v = (F.layer_norm(x, (d,), g1, c1) @ A).reshape(split).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + mixed.transpose(1, 2).reshape((batch, length, d)) @ M
        x = x + F.relu(F.layer_norm(x, (d,), g2, c2) @ U) @ D
        return F.cross_entropy((x @ R).reshape(-1, words), t.reshape(-1))

    return _Model(start, (tokens,), ours, theirs)


def physics_informed() -> _Model:
    """Solve u'' = -u with a network whose second derivative is in the loss."""
    rng = np.random.default_rng(0)
    shapes = [(1, 32), (32,), (32, 32), (32,), (32, 1)]
    start = [rng.normal(size=shape) / 3 for shape in shapes]
    x = np.linspace(0, 3, 64)[:, None]

    def ours(A: Any, a: Any, B: Any, b: Any, C: Any, x: Any) -> Any:
        u = lambda x: np.tanh(np.tanh(x @ A + a) @ B + b) @ C
        slope = lambda x: gradient(lambda x: np.sum(u(x)), x)[0]
        (bend,) = gradient(lambda x: np.sum(slope(x)), x)
        return np.mean((bend + u(x)) ** 2)

    def theirs(A: Any, a: Any, B: Any, b: Any, C: Any, x: Any) -> Any:
        import torch

        x = x.clone().requires_grad_()
        u = torch.tanh(torch.tanh(x @ A + a) @ B + b) @ C
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return torch.mean((bend + u) ** 2)

    return _Model(start, (x,), ours, theirs)


def char_lstm() -> _Model:
    """Predict the next of 32 characters with an LSTM of 20 steps."""
    rng = np.random.default_rng(0)
    batch, length, words, d = 8, 20, 32, 64
    shapes = [(words, d), (d, 4 * d), (d, 4 * d), (4 * d,), (d, words)]
    start = [rng.normal(size=shape) / 8 for shape in shapes]
    text = rng.integers(0, words, (batch, length + 1))

    def ours(E: Any, A: Any, B: Any, b: Any, R: Any, t: Any) -> Any:
        h = c = np.zeros((batch, d))
        given = E[t[:, :-1]] @ A + b
        hs = []
        for i in range(length):
            z = given[:, i] + h @ B
            gates = sigmoid(z)
            c = gates[:, d : 2 * d] * c + gates[:, :d] * np.tanh(z[:, 2 * d : 3 * d])
            h = gates[:, 3 * d :] * np.tanh(c)
            hs.append(h)
        return logitcrossentropy(np.stack(hs, axis=1) @ R, t[:, 1:])

    def theirs(E: Any, A: Any, B: Any, b: Any, R: Any, t: Any) -> Any:
        import torch
        from torch.nn.functional import cross_entropy, embedding

        zeros = torch.zeros(1, batch, d, dtype=A.dtype)
        weights = [A.T.contiguous(), B.T.contiguous(), b, torch.zeros_like(b)]
        hs, _, _ = torch.lstm(
            embedding(t[:, :-1], E), (zeros, zeros), weights, True, 1, 0.0, True, False, True
        )
        return cross_entropy((hs @ R).reshape(-1, words), t[:, 1:].reshape(-1))

    return _Model(start, (text,), ours, theirs)


def convolution() -> _Model:
    """Convolve 16 images with 8 kernels, as a product of patches (im2col)."""
    rng = np.random.default_rng(0)
    images, kernels, size, k = 16, 8, 28, 5
    start = [rng.normal(size=(k * k, kernels)) / k, rng.normal(size=kernels)]
    x = rng.normal(size=(images, size, size))
    steps = np.arange(size - k + 1)
    corners = (steps[:, None] * size + steps).reshape(-1)
    patches = corners[:, None] + (np.arange(k)[:, None] * size + np.arange(k)).reshape(-1)

    def ours(K: Any, b: Any, x: Any) -> Any:
        return np.mean(relu(np.take(x.reshape(images, -1), patches, axis=1) @ K + b) ** 2)

    def theirs(K: Any, b: Any, x: Any) -> Any:
        import torch

        made = torch.nn.functional.conv2d(x[:, None], K.T.reshape(kernels, 1, k, k), b)
        return torch.mean(torch.relu(made) ** 2)

    return _Model(start, (x,), ours, theirs)


def recording() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Record the program of a gradient; take that gradient once as it is."""
    rng = np.random.default_rng(0)
    W, b, V, c = (param(rng.normal(size=shape) / 8) for shape in ((64, 32), 32, (32, 10), 10))
    θ, x, y = Params([W, b, V, c]), rng.normal(size=(32, 64)), rng.integers(0, 10, 32)
    loss = lambda x, y: logitcrossentropy(relu(x @ W + b) @ V + c, y)
    return lambda: compiled(loss, θ)(x, y), lambda: withgradient(lambda: loss(x, y), θ)
