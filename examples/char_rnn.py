"""A recurrent network that learns to spell Python's documentation, clipped and not.

The text is what ``help("class")`` and the like show. The network reads one character at
a time and says how likely each character is to be the next. Its gradient is a product
of as many factors as there are characters in between, and now and then it explodes.
RMSProp divides each step by the size of the gradients of late, so that after an
explosion all steps are tiny for a while; `ClipNorm` before it keeps that from
happening.

References
----------
A Simple Way to Initialize Recurrent Networks of Rectified Linear Units.
Quoc V. Le, Navdeep Jaitly, Geoffrey E. Hinton, 2015. arXiv:1504.00941.

On the difficulty of training Recurrent Neural Networks.
Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, 2012. arXiv:1211.5063.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from minidiff import Param, param, params, train
from minidiff.functions import relu, softmax
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ClipNorm, Optimiser, RMSProp


def text():
    """Give some pages of the language reference, as Python's `help` has them."""
    from pydoc_data.topics import topics

    return "".join(
        topics[name]
        for name in ("class", "function", "with", "try", "for", "while", "if")
    )


@dataclass
class RNN:
    """h ← relu(E[character] + h U + b), scores = h V + c."""

    E: Param
    U: Param
    b: Param
    V: Param
    c: Param

    def step(self, h, characters):
        """Read one character of each text."""
        return relu(self.E[characters] + h @ self.U + self.b)

    def __call__(self, characters):
        """Give scores of what follows each character, of shape (time, batch)."""
        states = [np.zeros((characters.shape[1], len(self.b)))]
        for now in characters:
            states.append(self.step(states[-1], now))
        return np.stack(states[1:]) @ self.V + self.c

    def sample(self, character, length, rng):
        """Spell on from a character."""
        h, spelt = np.zeros((1, len(self.b))), [character]
        for _ in range(length):
            h = self.step(h, [spelt[-1]])
            p = softmax(h[0] @ self.V + self.c)
            spelt.append(rng.choice(len(p), p=p))
        return spelt


def network(alphabet, rng, width=64):
    """Make a network that at first keeps what it reads: U is the identity."""
    E = 0.1 * rng.normal(size=(alphabet, width))
    V = rng.normal(size=(width, alphabet)) / np.sqrt(width)
    return RNN(
        param(E),
        param(np.eye(width)),
        param(np.zeros(width)),
        param(V),
        param(np.zeros(alphabet)),
    )


def windows(numbers, rng, length=48, batch=24):
    """Give random pieces of the text, each with the same one character further on."""
    while True:
        starts = rng.integers(0, len(numbers) - length, batch)
        pieces = numbers[starts + np.arange(length + 1)[:, None]]
        yield pieces[:-1], pieces[1:]


def main(steps=250):
    """Train with and without clipping; give the median losses of the last steps."""
    alphabet, numbers = np.unique(list(text()), return_inverse=True)
    final = {}
    for name, opt in {
        "RMSProp": RMSProp(0.01),
        "ClipNorm, RMSProp": Optimiser(ClipNorm(0.1), RMSProp(0.01)),
    }.items():
        rng = np.random.default_rng(0)
        model = network(len(alphabet), rng)

        def loss(x, y, model=model):
            return logitcrossentropy(model(x), y)

        losses = train(loss, params(model), islice(windows(numbers, rng), steps), opt)
        final[name] = np.median(losses[-50:])
        print(f"{name:18} loss {losses[0]:.2f} → {final[name]:.2f}")
    print("".join(alphabet[model.sample(numbers[0], 200, rng)]))
    return final["ClipNorm, RMSProp"], final["RMSProp"]


if __name__ == "__main__":
    main()
