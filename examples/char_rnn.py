"""A recurrent network that learns to spell Python's own documentation, with and without clipped gradients.

The text is what ``help("class")`` and the like show. The network reads one character at a time and says how
likely each character is to be the next. Its gradient is a product of as many matrices as there are characters,
and now and then it explodes; `ClipNorm` before the rule keeps such a step from spoiling the ones before.

References
----------
On the difficulty of training Recurrent Neural Networks.
Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, 2012. arXiv:1211.5063.
"""

from dataclasses import dataclass

import numpy as np

from minidiff import Param, gradient, param, params, train
from minidiff.functions import softmax
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ClipNorm, Optimiser, RMSProp


def text():
    """Give some pages of the language reference, which every Python carries for its `help`."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in ("class", "function", "with", "try", "for", "while", "if"))


@dataclass
class RNN:
    """h ← tanh(E[character] + h U + b), scores = h V + c."""

    E: Param
    U: Param
    b: Param
    V: Param
    c: Param

    def __call__(self, characters):
        """Give the scores of what comes after each of the characters, of shape (time, batch)."""
        h = np.zeros((characters.shape[1], len(self.b)))
        states = []
        for now in characters:
            h = np.tanh(self.E[now] + h @ self.U + self.b)
            states.append(h)
        return np.stack(states) @ self.V + self.c


def network(alphabet, rng, width=64, gain=1.0):
    """Make a network; the larger the gain, the longer and the wilder its memory."""
    U = np.linalg.qr(rng.normal(size=(width, width)))[0] * gain
    E, V = rng.normal(size=(alphabet, width)), rng.normal(size=(width, alphabet)) / np.sqrt(width)
    return RNN(*map(param, (E, U, np.zeros(width), V, np.zeros(alphabet))))


def windows(numbers, rng, length=48, batch=24):
    """Give random pieces of the text without end, each with itself one character on."""
    while True:
        starts = rng.integers(0, len(numbers) - length, batch)
        pieces = numbers[starts + np.arange(length + 1)[:, None]]
        yield pieces[:-1], pieces[1:]


def main(steps=300):
    alphabet, numbers = np.unique(list(text()), return_inverse=True)
    print(len(numbers), len(alphabet), "".join(alphabet))
    for gain in (1.0,1.5,2.0):
      for rate in (0.003,0.01):
        for thresh in (None, 1.0, 0.25):
            rng = np.random.default_rng(0)
            model = network(len(alphabet), rng, gain=gain)
            norms = []
            def loss(x, y):
                return logitcrossentropy(model(x), y)
            rule = RMSProp(rate)
            opt = rule if thresh is None else Optimiser(ClipNorm(thresh), rule)
            import itertools, time
            t=time.time()
            losses = train(loss, params(model), itertools.islice(windows(numbers, rng), steps), opt)
            print(gain, rate, thresh, losses[[0,50,100,200]].round(2), losses[-50:].mean().round(3), losses[20:].max().round(2), time.time()-t)


if __name__ == "__main__":
    main()
