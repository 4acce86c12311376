"""Handwritten digits: a network of dataclasses that can be stopped and go on.

The framework has no layers and needs none: a layer is a dataclass that holds parameters
and can be called. The data are scikit-learn's: 1797 images of 8×8 pixels. Run it with
``--checkpoint digits.npz``, press Ctrl-C, and run it again with ``--resume``: it ends
as if it had never been stopped.

    .venv/bin/pip install -e '.[tutorials]'
    python examples/digits.py --checkpoint digits.npz [--resume]
"""

import argparse
from dataclasses import dataclass

import numpy as np

from minidiff import DataLoader, Param, load, param, params, save, train
from minidiff.functions import relu
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ADAM


@dataclass
class Dense:
    """x W + b, for samples in rows."""

    W: Param
    b: Param

    def __call__(self, x):
        """Give the layer's output, shape (samples, n_out)."""
        return x @ self.W + self.b


@dataclass
class Network:
    """Two layers with a bend between them."""

    hidden: Dense
    output: Dense

    def __call__(self, x):
        """Give a score for each digit, shape (samples, 10)."""
        return self.output(relu(self.hidden(x)))


def dense(n_in, n_out, rng):
    """Make a layer with random weights that keeps the size of what passes through."""
    W = rng.normal(scale=np.sqrt(2 / n_in), size=(n_in, n_out))
    return Dense(param(W, np.float32), param(np.zeros(n_out), np.float32))


def digits(rng):
    """Give images of 64 brightnesses in [0, 1] and digits: for training, to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x, y = np.float32(images[order] / 16), labels[order]
    return (x[360:], y[360:]), (x[:360], y[:360])


def main(epochs=20, checkpoint=None, resume=False, progress=True):
    """Train, and give the network's accuracy on images it has not seen."""
    rng = np.random.default_rng(0)
    training, (x_test, y_test) = digits(rng)
    model = Network(dense(64, 32, rng), dense(32, 10, rng))
    θ, opt = params(model), ADAM(0.003)
    loader = DataLoader(training, batchsize=32, shuffle=True, rng=1)

    def loss(x, y):
        return logitcrossentropy(model(x), y)

    done = 0
    if resume:
        extra = load(checkpoint, θ, opt)
        done, loader.state = extra["epochs"], extra["loader"]
    while done < epochs:
        losses = train(loss, θ, loader, opt, progress=progress)
        done += 1
        if checkpoint:
            save(checkpoint, θ, opt, epochs=done, loader=loader.state)
        accuracy = np.mean(model(x_test).argmax(-1) == y_test)
        print(f"epoch {done:2}  loss {losses.mean():.4f}  test accuracy {accuracy:.1%}")
    return np.mean(model(x_test).argmax(-1) == y_test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn to read digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="where to save after each epoch"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint"
    )
    options = parser.parse_args()
    if options.resume and not options.checkpoint:
        parser.error("--resume needs --checkpoint FILE")
    main(options.epochs, options.checkpoint, options.resume)
