"""Why gradients are clipped: a recurrent network's loss has cliffs, and one step at a cliff undoes many.

The state of a tiny recurrence, h ← tanh(w·h + b) with w near 5, jumps between two values as b passes a
threshold: there the gradient is thousands of times what it is elsewhere.
"""

import numpy as np

from minidiff import gradient, param, params
from minidiff.optimise import ClipNorm, ClipValue, Descent, Optimiser, update


def final_state(w, b, steps=30):
    """Return the state after some steps of the recurrence, from 0.1."""
    h = 0.1
    for _ in range(steps):
        h = np.tanh(w * h + b)
    return h


def train(opt, epochs=200):
    """Return the parameters' way and the largest gradient met on it."""
    w, b = param(2.0), param(-0.3)
    θ = params(w, b)
    way, largest = [], 0.0
    for _ in range(epochs):
        grads = gradient(lambda: (final_state(w, b) - 0.3) ** 2, θ)
        largest = max(largest, grads.norm())
        update(opt, θ, grads)
        way.append((float(w), float(b)))
    return np.array(way), largest


def main():
    for name, opt in {
        "Descent(0.05)": Descent(0.05),
        "ClipValue(0.5), Descent(0.05)": Optimiser(ClipValue(0.5), Descent(0.05)),
        "ClipNorm(0.5), Descent(0.05)": Optimiser(ClipNorm(0.5), Descent(0.05)),
    }.items():
        way, largest = train(opt)
        jump = np.abs(np.diff(way, axis=0)).max()
        print(f"{name:32} largest gradient {largest:9.3g}  longest step {jump:9.3g}  ends at w, b = {way[-1]}")


if __name__ == "__main__":
    main()
