"""Handwritten digits with all that `train` offers, in sixty lines.

In a clone: .venv/bin/pip install -e '.[tutorials]'
python examples/digits_recipe.py
"""

import numpy as np
from sklearn.datasets import load_digits

import minidiff.optimise as mo
from minidiff import DataLoader, param, params, throttle, train
from minidiff.functions import relu
from minidiff.losses import logitcrossentropy
from minidiff.schedules import Scheduler, WarmupCos


def main(epochs=30, progress=True):
    """Train; give the accuracy of the network and of its average on unseen images."""
    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x, y = np.float32(images[order] / 16), labels[order]
    samples = [(x[i], y[i]) for i in range(1200)]  # put together batch by batch
    W = param(rng.normal(scale=64**-0.5, size=(64, 48)), "f4")
    V = param(rng.normal(scale=48**-0.5, size=(48, 10)), "f4")
    b, c = param(np.zeros(48), "f4"), param(np.zeros(10), "f4")
    θ, biases = params({"W": W, "b": b, "V": V, "c": c}), params(b, c)

    def predict(x):
        return relu(x @ W + b) @ V + c

    def loss(x, y):
        return logitcrossentropy(predict(x), y, smoothing=0.05)

    def validation_loss():
        return logitcrossentropy(predict(x[1200:1500]), y[1200:1500])

    def accuracy():
        return np.mean(predict(x[1500:]).argmax(-1) == y[1500:])

    loader = DataLoader(samples, batchsize=16, shuffle=True, rng=1)
    # No decay on the biases.
    groups = mo.Grouped((biases, mo.ADAMW(0.005)), rest=mo.ADAMW(0.005, decay=0.01))
    opt = Scheduler(WarmupCos(epochs * len(loader) // 2, 0.005, warmup=100), groups)
    average, best = mo.Average(θ, decay=0.99), mo.KeepBest(θ, validation_loss)

    def report(p):
        print(f"epoch {p.epoch:2}  loss {p.loss:.4f}  rate {opt.eta:.5f}")

    run = {
        "transform": [mo.skip_nonfinite(3), mo.clip_norm(1.0), mo.accumulate(2)],
        "cb": average,
        "each_epoch": [
            best,
            mo.early_stopping(validation_loss, 8),
            throttle(report, 1),
        ],
    }
    with best:  # at the end θ is as it was at its best
        train(loss, θ, loader, opt, epochs=epochs, progress=progress, **run)

    opt = mo.ADAM(0.001)
    plateau = mo.ReducePlateau(opt, validation_loss, factor=0.5, patience=2)
    weights = θ - biases  # the biases stay as they are
    train(loss, weights, loader, opt, cb=average, each_epoch=plateau, epochs=3)
    with average.swapped():
        averaged = accuracy()
    print(f"test accuracy {accuracy():.1%}, of the average {averaged:.1%}")
    return accuracy(), averaged


if __name__ == "__main__":
    main()
