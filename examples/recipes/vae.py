"""A variational autoencoder: two numbers for each digit, and digits from two numbers.

An encoder gives each image a mean and a spread in a plane, a decoder makes an image of
a point of it. The loss is what the image is missed by, plus how far the points'
distribution is from a standard normal one (Kingma and Welling, 2013, arXiv:1312.6114).
The noise comes in as data: gradients go around it, through mean and spread.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from minidiff import DataLoader, param, params, train
from minidiff.functions import relu, sigmoid
from minidiff.losses import logitbinarycrossentropy
from minidiff.optimise import ADAM


def main(epochs=40):
    rng = np.random.default_rng(0)
    images, digits = load_digits(return_X_y=True)
    images = images / 16

    def layer(n, m):
        return param(rng.normal(size=(n, m)) * np.sqrt(2 / n)), param(np.zeros(m))

    (W1, b1), (W2, b2) = layer(64, 64), layer(64, 4)
    (V1, c1), (V2, c2) = layer(2, 64), layer(64, 64)

    def encode(x):
        h = relu(x @ W1 + b1) @ W2 + b2
        return h[..., :2], h[..., 2:]  # the mean, and the logarithm of the spread

    def decode(z):
        return relu(z @ V1 + c1) @ V2 + c2

    def loss(x):
        mean, log_spread = encode(x)
        z = mean + np.exp(log_spread) * rng.normal(size=mean.shape)
        missed = 64 * logitbinarycrossentropy(decode(z), x)
        divergence = 0.5 * np.sum(
            mean**2 + np.exp(2 * log_spread) - 2 * log_spread - 1, axis=-1
        )
        return missed + np.mean(divergence)

    loader = DataLoader((images,), batchsize=64, shuffle=True, rng=1)
    losses = train(
        loss, params(W1, b1, W2, b2, V1, c1, V2, c2), loader, ADAM(0.003), epochs=epochs
    )
    print(f"loss {losses[:20].mean():.1f} → {losses[-20:].mean():.1f}")

    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    mean, _ = encode(images)
    for digit in range(10):
        left.scatter(
            *mean[digits == digit].T,
            marker=f"${digit}$",
            s=18,
            color=f"C{digit}",
            linewidth=0,
        )
    left.set(title="where the encoder puts the digits", xlabel="z₁", ylabel="z₂")
    z = np.stack(np.meshgrid(np.linspace(-2, 2, 12), np.linspace(2, -2, 12)), axis=-1)
    made = sigmoid(decode(z)).reshape(12, 12, 8, 8).swapaxes(1, 2).reshape(96, 96)
    right.imshow(made, cmap="gray_r", extent=(-2, 2, -2, 2))
    right.set(title="what the decoder makes of the plane", xlabel="z₁", ylabel="z₂")
    fig.savefig("vae.png", dpi=300)
    return losses, mean, digits


if __name__ == "__main__":
    main()
