"""A transformer on a copy task: after a gap, say what was said before it.

One block with causal attention: each place asks the places before it, takes a mean of
what they say, and a small network goes over that (Vaswani and others, 2017,
arXiv:1706.03762). To copy, a place has to look exactly n + 1 places back; the attention
it learns is a line beside the diagonal.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import param, params, train
from minidiff.functions import relu, softmax
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ADAM

# Letters in the alphabet, letters in a word, numbers for each place.
LETTERS, N, D = 8, 6, 32


def norm(h):
    σ = np.sqrt(h.var(axis=-1, keepdims=True) + 1e-5)
    return (h - h.mean(axis=-1, keepdims=True)) / σ


def main(steps=300):
    rng = np.random.default_rng(0)
    E = param(rng.normal(size=(LETTERS + 1, D)) / 4)
    P = param(rng.normal(size=(2 * N, D)) / 4)
    Q, K, V, Z = (param(rng.normal(size=(D, D)) / D**0.5) for _ in range(4))
    A, a = param(rng.normal(size=(D, 64)) / D**0.5), param(np.zeros(64))
    B = param(rng.normal(size=(64, D)) / 8)
    U = param(rng.normal(size=(D, LETTERS)) / D**0.5)
    later = np.triu(np.full((2 * N, 2 * N), -1e9), 1)  # nobody looks ahead

    def attention(h):
        return softmax((h @ Q) @ (h @ K).swapaxes(-1, -2) / D**0.5 + later, axis=-1)

    def scores(words):
        h = E[words] + P
        g = norm(h)
        h = h + attention(g) @ (g @ V) @ Z
        h = h + relu(norm(h) @ A + a) @ B
        return norm(h) @ U

    def batch():  # letters, a gap, the letters: at each place the next is asked for
        word = rng.integers(LETTERS, size=(32, N))
        words = np.concatenate([word, np.full((32, 1), LETTERS), word[:, :-1]], axis=1)
        return words, word

    θ = params(E, P, Q, K, V, Z, A, a, B, U)
    loss = lambda words, word: logitcrossentropy(
        scores(words)[:, N:].reshape(-1, LETTERS), word.ravel()
    )
    losses = train(loss, θ, (batch() for _ in range(steps)), ADAM(0.005))
    words, word = batch()
    right = float(np.mean(np.argmax(scores(words)[:, N:], axis=-1) == word))
    print(f"loss {losses[0]:.2f} → {losses[-1]:.3f}; {right:.0%} of the letters right")

    look = attention(norm(E[words] + P)).mean(axis=0)
    _, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
    ax.imshow(look, cmap="gray_r")
    ax.set(xlabel="looks at place", ylabel="place", title="attention")
    ax.figure.savefig("transformer.png", dpi=300)
    return losses, right, look


if __name__ == "__main__":
    main()
