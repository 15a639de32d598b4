"""Stand-ins of published files, with random weights and numbers, in the authors' formats."""

import itertools
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sida.assets.registry import Asset
from sida.config.families import DECODERS
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.eval.features.registry import extractor_class, extractor_entry
from sida.eval.measuring.protocol import Protocol
from sida.files.atomic import atomic_path
from sida.networks.official_pickles import write_official
from sida.plugins.planner.small import (
    AUTOENCODER,
    is_timm,
    small_network,
    trains,
)
from sida.workflow.planning.costs import Costs
from sida.workflow.preset import Preset

#: Images of a batch of references, and of a trial of pixels.
IMAGES = 100
#: Widths of the published decoders of latents.
VAE_WIDTHS = (128, 256, 512, 512)


def maker(asset: Asset, preset: Preset) -> Callable[[Path], None]:
    """Function that writes the stand-in of a file to a path.

    Raises:
        UserError: There is none.
    """
    small = trains(preset)
    if asset.architecture is not None:
        described = load_spec(str(asset.architecture), f"asset '{asset.id}'")
        described = small_network(described, f"asset '{asset.id}'") if small else described
        return lambda path: _write_state_dict(path, _random_network(described))
    if asset.kind in ("network", "teacher"):
        network = _architecture(asset, preset)
        network = small_network(network, f"asset '{asset.id}'") if small else network
        return lambda path: write_official(path, _random_network(network))
    makers: dict[str, Callable[[Path], None]] = {
        "inception": write_inception,
        "dinov2-vitl14": _write_dinov2_weights,
        "dinov2-code": _write_dinov2_code,
        **dict.fromkeys(itertools.chain(*DECODERS.values()), partial(_write_vae, AUTOENCODER if small else VAE_WIDTHS)),
    }
    protocols = [preset.rows[run].protocol for run in preset.measurable]
    if judge := next((name for p in protocols for name in p.extractors() if _is_judge(name, asset.id)), None):
        return lambda path: _write_judge(path, judge)
    kinds: dict[str, Callable[[Path], None]] = {
        "fid-reference": lambda path: _write_moments(path, asset.id, protocols),
        "reference-batch": lambda path: _write_batch(path, asset.id, protocols),
        "labels": lambda path: _write_labels(path, asset.id, preset),
    }
    maker = makers.get(asset.id) or kinds.get(asset.kind)
    if maker is None:
        raise UserError(f"--rehearse: asset '{asset.id}'", f"kind '{asset.kind}' has no stand-in", "name other rows")
    return maker


def _architecture(asset: Asset, preset: Preset) -> dict[str, Any]:
    """Architecture of a published network, as plans know it."""
    costs = Costs(preset)
    rows = [row for row in preset.runs.values() if row.checkpoint == asset.id]
    networks = (network for row in rows if (network := costs.network(row.teacher)))
    architecture = next(networks, None) or costs.like(asset.id)
    if architecture is None:
        raise UserError(f"--rehearse: asset '{asset.id}'", "its architecture is not known here", "name other rows")
    return architecture


def _random_network(network: Mapping[str, Any]) -> Any:
    import torch

    from sida.networks import build_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(dict(network))


def _write_state_dict(path: Path, network: Any) -> None:
    import torch

    with atomic_path(path) as part:
        torch.save(network.state_dict(), part)


def write_inception(path: Path) -> None:
    """Writes Inception-v3 with random weights as TorchScript, with the call signature of the published file."""
    import torch
    import torchvision
    from torch import nn

    class Inception(nn.Module):
        def __init__(self, layers: nn.Module) -> None:
            super().__init__()
            self.layers, self.output = layers, nn.Linear(2048, 1008)

        def forward(
            self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
        ) -> torch.Tensor:
            x = nn.functional.interpolate(img.to(torch.float32), size=(299, 299), mode="bilinear")
            features = self.layers((x - 128) / 128)
            if return_features:
                return features
            logits = nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
            return torch.softmax(logits, 1)

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"), torch.inference_mode():
        torch.manual_seed(0)
        layers = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
        layers.fc = nn.Identity()
        for module in layers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        traced = torch.jit.trace(layers, torch.randn(2, 3, 299, 299))
        with atomic_path(path) as part:
            torch.jit.script(Inception(traced).eval()).save(str(part))


_HUBCONF = '''\
"""One layer with the input and output of DINOv2 ViT-L/14, for a rehearsal."""

import torch


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 1024, 14, 14)

    def forward(self, images):
        return self.patches(images).mean(dim=(2, 3))


def dinov2_vitl14(pretrained=True):
    return OneLayer()
'''


def _write_dinov2_code(path: Path) -> None:
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        archive.writestr("dinov2/hubconf.py", _HUBCONF)


def _write_dinov2_weights(path: Path) -> None:
    import torch

    random = torch.Generator().manual_seed(0)
    weights = {"patches.weight": torch.randn(1024, 3, 14, 14, generator=random) / 24, "patches.bias": torch.zeros(1024)}
    with atomic_path(path) as part:
        torch.save(weights, part)


def _is_judge(extractor: str, asset: str) -> bool:
    """Whether a file has the weights of a feature network of timm."""
    return extractor_entry(extractor).assets == (asset,) and is_timm(extractor)


def _write_judge(path: Path, extractor: str) -> None:
    """Random weights of a feature network of timm, without its head."""
    import timm
    import torch
    from safetensors.torch import save_file

    judge: Any = extractor_class(extractor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(judge.model, num_classes=0, **judge.kwargs)
    with atomic_path(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, part)


def _write_vae(widths: Sequence[int], path: Path) -> None:
    """Both files of the decoder of latents, by diffusers."""
    import torch
    from diffusers import AutoencoderKL

    blocks = len(widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=tuple(widths),
            layers_per_block=2,
            sample_size=256,
        )
    vae.save_pretrained(path.parent)  # type: ignore[attr-defined]


def _write_moments(path: Path, asset: str, protocols: Sequence[Protocol]) -> None:
    """Mean and covariance for each feature network whose distance reads the file."""
    moments: dict[str | None, dict[str, np.ndarray]] = {}
    for protocol in protocols:
        for metric in protocol.metrics:
            source = protocol.sources.get(str(metric.reference))
            if source is not None and source.asset == asset and source.entry not in moments:
                size = 1024 if metric.extractor.startswith("dinov2") else 2048
                rows = np.random.default_rng(0).standard_normal((2 * size, size))
                moments[source.entry] = {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}
    with atomic_path(path) as part, open(part, "wb") as stream:
        if path.suffix == ".pkl":
            pickle.dump(moments, stream)
        else:
            np.savez(stream, **moments[None])  # type: ignore[arg-type]


def _write_batch(path: Path, asset: str, protocols: Sequence[Protocol]) -> None:
    """Images for precision and recall, and ADM's statistics beside them."""
    size = next(p.resolution for p in protocols for source in p.used_sources.values() if source.asset == asset)
    assert size is not None  # of published images
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    rows = np.random.default_rng(0).standard_normal((4096, 2048))
    with atomic_path(path) as part, open(part, "wb") as stream:
        np.savez(stream, arr_0=images, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))


def _write_labels(path: Path, asset: str, preset: Preset) -> None:
    """The class of each image, as many as the data set has."""
    datasets = [row.data for row in preset.rows.values() if row.protocol.labels == asset]
    images, classes = datasets[0]["num_images"], datasets[0]["label_dim"]
    with atomic_path(path) as part:
        part.write_text(
            json.dumps({"labels": [[f"{n // 1000:05d}/img{n:08d}.png", n % classes] for n in range(images)]})
        )
