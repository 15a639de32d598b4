"""Stand-ins of published files, with random weights and numbers, in the authors' formats."""

import contextlib
import itertools
import json
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.features.registry import EXTRACTORS, extractor_entry
from eval.measuring.protocol import Protocol
from sida.assets.registry import Asset
from sida.config.families import DECODERS
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.files.atomic import atomic_path
from sida.plugins.planner.small import (
    AUTOENCODER,
    small_network,
    trains,
)
from workflow.planning.costs import Costs
from workflow.preset import Preset

#: Images of a batch of references, and of a trial of pixels.
IMAGES = 100
#: Widths of the published decoders of latents.
VAE_WIDTHS = (128, 256, 512, 512)
#: Names of the suite's classes in the authors' files.
OFFICIAL_NAMES = {"EDM2Precond": "Precond", "EDM2UNet": "UNet"}


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


class EasyDict(dict[str, Any]):
    """Stands for ``dnnlib.util.EasyDict`` while a file is written."""


def _reconstruct_persistent_obj(meta: Any) -> Any:
    """Stands for the function of ``torch_utils.persistence``, which a file names; nothing calls it."""
    raise AssertionError("a reader called the persistence layer")


@contextlib.contextmanager
def foreign_modules() -> Iterator[None]:
    """``dnnlib.util`` and ``torch_utils.persistence``, present only while a file is written."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    names = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
    names |= {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.util": util}
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
    sys.modules.update(names)
    try:
        yield
    finally:
        _reconstruct_persistent_obj.__module__ = EasyDict.__module__ = __name__
        for name in names:
            del sys.modules[name]


class OfficialPickler(pickle.Pickler):
    """Pickles the modules of ``sida.networks`` as the authors' persistent objects, library modules as usual.

    Args:
        stream: Stream of the file.
        protocol: Protocol of pickle.
        network: Outermost network, whose constructor arguments are in the file.
        init: Its arguments by position and by name.
        source: Source text that travels with the classes.
        renamed: Names of classes in the file by their names here.
    """

    def __init__(
        self,
        stream: Any,
        protocol: int,
        network: Any,
        init: tuple[tuple[Any, ...], Mapping[str, Any]],
        source: str = "",
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(stream, protocol)
        self.network, self.init, self.source, self.renamed = network, init, source, renamed or {}
        self.states: dict[int, dict[str, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        """See :meth:`pickle.Pickler.reducer_override`."""
        state = self.persistent_state(obj)
        if state is None:
            return NotImplemented
        name, own = state
        # As in the originals, the state is one dictionary however often an object is met.
        first = self.states.setdefault(id(obj), own)
        meta = EasyDict(type="class", version=6, module_src=self.source, class_name=self.renamed.get(name, name))
        return _reconstruct_persistent_obj, (EasyDict(meta, state=first),)

    def persistent_state(self, obj: Any) -> tuple[str, dict[str, Any]] | None:
        """Class name and state of an object that the file holds as a persistent one; None for others."""
        import torch

        if not isinstance(obj, torch.nn.Module) or not type(obj).__module__.startswith("sida."):
            return None
        state = {key: value for key, value in obj.__dict__.items() if key not in ("init_config", "rewrite")}
        args, kwargs = self.init if obj is self.network else ((), {})
        return type(obj).__name__, {**state, "_init_args": args, "_init_kwargs": EasyDict(kwargs)}


def write_official(path: Path, network: Any) -> None:
    """Writes a network as the authors' training scripts do: a pickle whose classes travel with their source."""
    kwargs = {key: value for key, value in network.init_config["kwargs"].items() if key != "weight_norm"}
    value = {"ema": network, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}
    with atomic_path(path) as part, open(part, "wb") as stream, foreign_modules():
        OfficialPickler(stream, pickle.DEFAULT_PROTOCOL, network, ((), kwargs), renamed=OFFICIAL_NAMES).dump(value)


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
    return extractor_entry(extractor).assets == (asset,) and EXTRACTORS.find(extractor, "extractor").model is not None


def _write_judge(path: Path, extractor: str) -> None:
    """Random weights of a feature network of timm, without its head."""
    import timm
    import torch
    from safetensors.torch import save_file

    judge = EXTRACTORS.find(extractor, "extractor")
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
            if source is not None and source.asset == asset:
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
