"""Trains the embedded digits feature network again: ``python tools/train_digits.py [--out FILE]``.

It takes a few seconds on one core, and gives bit for bit the same by seed on one machine.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sida.data import load_dataset
from sida.data.load import shuffled_digits
from sida.eval.features.digits import DIGITS_NETWORK, DigitsNet, weights_digest
from sida.eval.measuring.trial import cpu_threads
from sida.files.tensors import read_tensors, write_tensors
from sida.networks.discriminators import Backbone


@dataclass(frozen=True)
class FitSettings:
    """Settings of a small classifier's training.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        max_lr: Peak of the one-cycle learning rate.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Label smoothing of the cross-entropy.
        input_noise: Std of Gaussian noise on inputs in [-1, 1], since generated images have more grey levels.
        seed: Seed of the weights, the order, the noise and the dropout.
    """

    epochs: int = 30
    batch_size: int = 64
    max_lr: float = 5e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    input_noise: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class DigitsTraining(FitSettings):
    """Settings of the committed network; the split has the same seed.

    Attributes:
        held_out: Number of images that are not used for training.
    """

    held_out: int = 360


def split(settings: DigitsTraining) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (int64) of the training and the held-out images, determined by the seed."""
    order = shuffled_digits(settings.seed)
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
    # One thread fixes the order of sums; more do not speed up such small networks.
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(settings.seed)
        net = fit(DigitsNet(), *seen, settings)
        with torch.inference_mode():
            logits = net(unseen[0])[1]
    accuracy = round((logits.argmax(1) == unseen[1]).double().mean().item(), 6)
    state = {key: value.detach().contiguous() for key, value in net.state_dict().items()}
    metadata = {
        "format": "sida-digits-features/1",
        "settings": asdict(settings),
        "dataset_sha256": dataset.sha256,
        "train_images": len(train),
        "held_out_images": len(held_out),
        "held_out_accuracy": accuracy,
    }
    return state, metadata


class Classified(torch.nn.Module):
    """A backbone with the classifier that is only for its training; gives its maps and logits."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Returns the maps of images (N, 1, h, w), and logits (N, 10)."""
        maps = self.backbone(images)
        return maps, self.backbone.classifier(maps[-1])


def fit(net: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, settings: FitSettings) -> torch.nn.Module:
    """Trains a network that gives features and logits, by torch's random state; returns it.

    Args:
        net: The network.
        images: float32 (N, C, H, W) in [-1, 1].
        classes: int64 (N,).
        settings: Length, rates and noise.
    """
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


def main() -> None:
    """Prints the held-out accuracy, compares with the committed weights, and writes the file if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", help="file for the network (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and order (default: 0)")
    args = parser.parse_args()
    state, metadata = train_digits(DigitsTraining(seed=args.seed))
    total = metadata["held_out_images"] + metadata["train_images"]
    print(
        f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} % "
        f"({metadata['held_out_images']} of {total} images)"
    )
    same = weights_digest(state) == weights_digest(read_tensors(DIGITS_NETWORK)[0])
    print(f"weights {'equal to' if same else 'not bit-equal to'} the committed network")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)


if __name__ == "__main__":
    main()
