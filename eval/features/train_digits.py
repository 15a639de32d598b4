"""Trains the digits feature network: a few seconds on one core, bit for bit the same by seed on one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from eval.features.digits import DigitsNet
from sida.data import load_dataset
from sida.data.digits import shuffled


@dataclass(frozen=True)
class FitSettings:
    """Settings of the training of a small classifier.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        max_lr: Peak of the one-cycle learning rate.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Label smoothing of the cross-entropy.
        input_noise: Std of Gaussian noise on inputs in [-1, 1], since generated images have more than 17 grey levels.
    """

    epochs: int = 30
    batch_size: int = 64
    max_lr: float = 5e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    input_noise: float = 0.1


@dataclass(frozen=True)
class DigitsTraining(FitSettings):
    """Settings of the committed network.

    Attributes:
        seed: Seed of the split, the weights, the order, the noise and the dropout.
        held_out: Number of images that are not used for training.
    """

    seed: int = 0
    held_out: int = 360


def split(settings: DigitsTraining) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (int64) of the training and the held-out images, determined by the seed."""
    order = shuffled(settings.seed)
    return order[settings.held_out :], order[: settings.held_out]


def train_digits(settings: DigitsTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on the embedded digits and measures the held-out accuracy.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, data digest, ``held_out_accuracy``).
    """
    dataset = load_dataset({"name": "digits", "kind": "digits"})
    train, held_out = split(settings)
    seen, unseen = (
        (dataset.network_input(dataset.images(part)), dataset.class_indices[part]) for part in (train, held_out)
    )
    state, accuracy = fit_and_test(DigitsNet, seen, unseen, settings, settings.seed)
    metadata = {
        "format": "sida-digits-features/1",
        "settings": asdict(settings),
        "dataset_sha256": dataset.sha256,
        "train_images": len(train),
        "held_out_images": len(held_out),
        "held_out_accuracy": accuracy,
    }
    return state, metadata


def fit_and_test(
    make: Callable[[], torch.nn.Module],
    seen: tuple[torch.Tensor, torch.Tensor],
    unseen: tuple[torch.Tensor, torch.Tensor],
    settings: FitSettings,
    seed: int,
) -> tuple[dict[str, torch.Tensor], float]:
    """Trains a new network on one thread, reproducibly by a seed.

    Args:
        make: Makes the network, which gives features and logits.
        seen: Images float32 ``(N, C, H, W)`` to fit to, and their classes int64 ``(N,)``.
        unseen: Images and classes for the accuracy.
        settings: Settings of the training.
        seed: Seed of the weights, the order, the noise and the dropout.

    Returns:
        The float32 state dict, and the accuracy to six decimals.
    """
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        net = fit(make(), *seen, settings)
        with torch.inference_mode():
            logits = net(unseen[0])[1]
    accuracy = (logits.argmax(1) == unseen[1]).double().mean().item()
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, round(accuracy, 6)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one thread, which fixes the order of sums; more threads do not speed up such small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit(net: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, settings: FitSettings) -> torch.nn.Module:
    """Trains a network on images float32 (N, C, H, W) of classes int64 (N,) by torch's random state; returns it."""
    net.train()
    steps = -(-len(images) // settings.batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.max_lr, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_lr, epochs=settings.epochs, steps_per_epoch=steps
    )
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(images)).split(settings.batch_size):
            noisy = images[batch] + settings.input_noise * torch.randn_like(images[batch])
            loss = torch.nn.functional.cross_entropy(
                net(noisy)[1], classes[batch], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()
