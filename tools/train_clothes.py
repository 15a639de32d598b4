"""Trains the feature networks of studies again: ``python -m tools.train_clothes NAME [--out FILE]``.

The feature networks `clothes_plain` and `clothes_residual` measure; `discriminator` is the frozen network of GDD's
discriminator. `clothes_plain` and `discriminator` learn from one half of Fashion-MNIST's training images,
`clothes_residual` from the other half, so that no image is known to the discriminator and to `clothes_residual`.
`colour` learns from one half of the training pictures of `mechanisms-colour`, whose page says how to make archives.
Minutes on one core; the same seed on the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from sida.config.datasets import dataset_spec
from sida.data import load_dataset
from sida.eval.measuring.trial import cpu_threads
from sida.files.tensors import write_tensors
from sida.plugins.judges.clothes import ClothesBackbone, ClothesNet
from tools.train_digits import Classified, FitSettings, fit

RATE = 4e-3
#: Architecture, half of the training images (0 or 1), seed, epochs and data set of each network.
NETWORKS = {
    "clothes_plain": ("plain", 0, 0, 6, "fashion"),
    "clothes_residual": ("residual", 1, 1, 6, "fashion"),
    "discriminator": (None, 0, 2, 6, "fashion"),
    "colour": ("colour", 1, 3, 12, "colour"),
}
_ZIP = {"name": "colour", "kind": "zip", "resolution": 16, "channels": 3, "label_dim": 10}
#: Training and held-out images of each data set.
DATA = {
    "fashion": (dataset_spec("fashion", "tools"), dataset_spec("fashion-heldout", "tools")),
    "colour": ({**_ZIP, "path": "datasets/colour-16x16.zip"}, {**_ZIP, "path": "datasets/colour-16x16-heldout.zip"}),
}


def train_clothes(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains a network of :data:`NETWORKS`.

    Returns:
        The float32 state dict, and metadata (settings, data digest, accuracy on the held-out images).
    """
    architecture, half, seed, epochs, images = NETWORKS[name]
    data, heldout = map(load_dataset, DATA[images])
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    part = order[half::2]
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(seed)
        net = ClothesBackbone() if architecture is None else ClothesNet(architecture)
        classified = Classified(net) if isinstance(net, ClothesBackbone) else net
        settings = FitSettings(epochs=epochs, max_lr=RATE)
        fit(classified, data.network_input(data.images(part)), data.class_indices[part], settings)
        unseen = torch.arange(len(heldout)).split(1000)
        with torch.inference_mode():
            logits = torch.cat([classified(heldout.network_input(heldout.images(some)))[1] for some in unseen])
    accuracy = (logits.argmax(1) == heldout.class_indices).double().mean().item()
    metadata = {
        "format": "sida-clothes/1",
        "architecture": architecture,
        "half": half,
        "seed": seed,
        "epochs": epochs,
        "dataset_sha256": data.sha256,
        "train_images": len(part),
        "held_out_accuracy": round(accuracy, 6),
    }
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, metadata


def main() -> None:
    """Prints the held-out accuracy and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--out", required=True, metavar="FILE", help="file for the network (safetensors)")
    args = parser.parse_args()
    state, metadata = train_clothes(args.name)
    write_tensors(args.out, state, metadata)
    print(f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} %")


if __name__ == "__main__":
    main()
