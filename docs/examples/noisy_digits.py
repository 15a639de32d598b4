"""An example of someone else's generator: the mean digit of a class with noise on every pixel.

docs/score.md scores it, and docs/add.md puts it into a sheet. It stands for any method: the suite calls
``sample`` and knows nothing else about it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

NOISE = 2.0  # standard deviation, where black is 0 and white 16


def sample(seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image per seed; the same seed must always give the same image.

    Args:
        seeds: Image seeds of one batch.

    Returns:
        Images uint8 ``(N, C, H, W)`` and the classes int64 ``(N,)`` they were asked for. Without classes return the
        images alone.
    """
    images = np.empty((len(seeds), 1, 8, 8), np.uint8)
    classes = np.empty(len(seeds), np.int64)
    for row, seed in enumerate(seeds):
        random = np.random.default_rng(seed)
        classes[row] = random.integers(10)
        digit = class_means()[classes[row]] + random.normal(0, NOISE, (8, 8))
        images[row, 0] = np.clip(digit * (255 / 16), 0, 255)
    return images, classes


@functools.cache
def class_means() -> np.ndarray:
    """Mean image of every class, float64 ``(10, 8, 8)``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.stack([digits.images[digits.target == digit].mean(axis=0) for digit in range(10)])


if __name__ == "__main__":
    # python docs/examples/noisy_digits.py OUT.npz COUNT: the same images as a file (N, H, W, C), with their classes.
    path, count = sys.argv[1], int(sys.argv[2])
    drawn, asked = sample(range(count))
    np.savez(path, arr_0=drawn.transpose(0, 2, 3, 1), arr_1=asked)
