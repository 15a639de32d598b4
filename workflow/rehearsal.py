"""Rehearsal of a preset of published files: all steps from files to tables at true size, with random networks.

The published files are replaced by stand-ins in the authors' formats: pickles and state dicts of networks of the same
architecture, Inception and other judges, the decoder of latents, statistics, class lists and data sets of references.
Networks have random weights; DINOv2 is one layer. A trial has few images, a sampler of hundreds of steps two. A wrong
path, a missing package and a full disk show in minutes, before a card is rented.
No number means anything: titles, captions and rows say so, and the protocols are marked as a rehearsal, which is part
of a value's identity, so that it is comparable with no measurement.
"""

import contextlib
import itertools
import json
import os
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.features.registry import EXTRACTORS, extractor_entry
from eval.measuring.protocol import Protocol, load_protocol, read_protocol
from eval.results.extended import read_extended
from eval.results.sheet import read_runs
from sida.assets.registry import ASSET_COLUMNS, Asset, load_registry
from sida.config.datasets import dataset_entry
from sida.config.families import DECODERS
from sida.config.settings import load_spec
from sida.errors import UserError, say
from sida.files.atomic import atomic_path, sha256_file, write_json, write_text
from sida.files.text_files import yaml_text
from workflow.planning.costs import Costs
from workflow.preset import Preset, load_preset
from workflow.preset.checks import check_preset
from workflow.preset.measuring import measurement
from workflow.preset.networks import imports
from workflow.preset.rows import dataset_of, protocol_of, protocol_path

#: Images of a trial: of pixels, and of latents, whose decoder takes minutes for a hundred on a processor.
IMAGES, DECODED = 100, 4
#: Steps of a sampler above which a rehearsal takes two; and images of a data set of references.
MOST_STEPS, REFERENCES = 100, 8
MARK = "REHEARSAL with random networks: no number means anything"
#: Names of the suite's classes in the authors' files.
OFFICIAL_NAMES = {"EDM2Precond": "Precond", "EDM2UNet": "UNet"}


def write_rehearsal(files: Sequence[Path], targets: Sequence[str] = ()) -> tuple[Path, dict[str, str]]:
    """Writes stand-ins of the published files, and a preset on top of another one that measures them.

    Args:
        files: Files of the preset.
        targets: Rows, of which alone the files are made; none or other targets: all rows.

    Returns:
        The file of the preset, to be given after the others, and environment variables for its run.

    Raises:
        UserError: The preset trains or measures no network, or a published file has no stand-in.
    """
    base = load_preset(*files)
    if base.students or base.trained_teachers:
        raise UserError(f"--rehearse {base.name}", "trains networks", "rehearse a preset of published files")
    if not base.measurable:
        raise UserError(f"--rehearse {base.name}", "measures no network", "rehearse a preset of published files")
    folder = Path("results") / f"rehearsal-{base.name}" / "rehearsal"
    rows = [name for name in targets if name in base.measurable] or list(base.measurable)
    registry = load_registry()
    needed = dict.fromkeys(asset for row in rows for asset in _assets(base, row) if asset in registry)
    makers = [(registry[name], _maker(registry[name], base)) for name in needed]
    _write_preset(base, folder, _write_datasets(base, folder))
    check_preset(load_preset(*files, folder / "preset.yaml"))
    for asset, make in makers:
        path = folder / "cache" / asset.target
        if not path.exists():
            say(f"[rehearsal] {asset.id}: random, in the format of {asset.source or asset.kind}")
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
    _write_registry(registry, folder)
    paths = {"SIDA_CACHE": folder / "cache", "SIDA_ASSETS": folder / "assets.tsv"}
    return folder / "preset.yaml", {name: str(path.absolute()) for name, path in paths.items()}


def _assets(preset: Preset, row: str) -> list[str]:
    """Published files for the measurement of a row, also of the networks that it imports."""
    needs = measurement(preset, row).needs
    return [*needs.get("downloads", []), *(imports(preset)[name] for name in needs.get("imports", []))]


def _write_datasets(base: Preset, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes archives of random images for the data sets that are references of every row; returns their settings."""
    from sida.data.pictures import encode_png
    from sida.data.prepare import write_archive

    fixed = {
        name: at for row in base.measurable.values() for at, name in protocol_of(base, row).fixed_datasets().items()
    }
    made = {}
    for name, where in sorted(fixed.items()):
        entry = dict(dataset_entry(name, where, base.settings.datasets))
        if entry.get("path") is None:
            continue
        path, classes = (folder / "datasets" / f"{name}.zip").absolute(), int(entry.get("label_dim") or 0)
        shape = (REFERENCES, entry["resolution"], entry["resolution"], entry["channels"])
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        labels = np.linspace(0, classes - 1, REFERENCES).astype(int).tolist() if classes else None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_archive(path, map(encode_png, images), labels)
        facts = ("kind", "resolution", "channels", "label_dim")
        made[name] = {key: entry[key] for key in facts if key in entry} | {"path": str(path), "num_images": REFERENCES}
    return made


def _write_preset(base: Preset, folder: Path, datasets: Mapping[str, Any]) -> None:
    """Writes preset, sheet, protocols and layouts, all marked."""
    paths = dict.fromkeys([base.settings.protocol, *(protocol_path(base, row) for row in base.runs.values())])
    marked = {path: os.fspath(folder / "protocols" / Path(path).name) for path in paths}
    for path in paths:
        protocol, content = load_protocol(path), read_protocol(Path(path))
        count = DECODED if protocol.decodes else IMAGES
        content |= {"name": f"rehearsal of {protocol.name}", "title": f"{MARK}; {protocol.title}"}
        content |= {"num_samples": count, "trials": 1, "rehearsal": True}
        for metric in content["metrics"]:
            if metric.get("splits", 1) > count:
                metric["splits"] = 1
        for reference in content.get("references", {}).values():
            if reference.get("kind") == "images":
                reference["num_images"] = IMAGES
        write_text(marked[path], yaml_text(content))
    for kind, layouts in base.layouts.items():
        for name in layouts:
            layout = read_extended(base.layout(kind, name))
            layout["caption"] = re.sub(r"\s*\bBold:[^.]*\.", "", str(layout.get("caption", "")))
            layout |= {key: f"{MARK}. {layout.get(key, '')}" for key in ("title", "caption")}
            if layout.get("kind") == "samples":
                layout |= {"rows": 1, "columns": 2}
            layout.pop("bold", None)  # no value is the best
            if kind == "tables" and "rows" in layout:
                # Rows that are only published have no place in a table of measured values.
                layout["rows"] = [row for row in layout["rows"] if row.get("run") in (None, *base.runs)]
            write_text(folder / kind / f"{name}.yaml", yaml_text(layout))
    rows = []
    for row in read_runs(base.sheet):
        known = base.runs[row.run]
        cells = row.cells | {"label": f"rehearsal: {row.label}", "protocol": marked[protocol_path(base, known)]}
        # The preset names second protocols by the name of the first one, which has changed.
        rows.append(cells | ({"second_protocol": marked[known.second_protocol]} if known.second_protocol else {}))
    write_json(folder / "runs.json", {"runs": rows})
    changes = {
        "preset": f"rehearsal-{base.name}",
        "title": f"{MARK}. {base.settings.title}",
        "runs": os.fspath(folder / "runs.json"),
        "protocol": marked[base.settings.protocol],
        "claims": None,
        "device": "cpu",
        "gpus": 0,
        "threads": 1,
        "paper": False,
        "table_mode": "measured",
        "datasets": datasets,
        "samplers": {
            name: {**sampler, "num_steps": 2}
            for name, sampler in base.settings.samplers.items()
            if (sampler.get("num_steps") or 0) > MOST_STEPS
        },
    }
    write_text(folder / "preset.yaml", yaml_text(changes))


def _write_registry(registry: Mapping[str, Asset], folder: Path) -> None:
    """Writes the registry without sizes and hashes, but for code, whose hash is its permission."""
    lines = ["\t".join(ASSET_COLUMNS)]
    for asset in registry.values():
        path = folder / "cache" / asset.target
        code = asset.kind == "code" and path.exists()
        cells = {name: str(getattr(asset, name)) for name in ASSET_COLUMNS if name not in ("size", "mirrors")}
        cells |= {"kind": f"{asset.kind}:{asset.network}" if asset.network else asset.kind}
        cells |= {"mirrors": "", "size": "", "sha256": sha256_file(path) if code else "", "note": MARK}
        lines.append("\t".join(cells[name] for name in ASSET_COLUMNS))
    write_text(folder / "assets.tsv", "\n".join(lines) + "\n")


# Stand-ins by kind of file.


def _maker(asset: Asset, preset: Preset) -> Callable[[Path], None]:
    """Function that writes the stand-in of a file to a path.

    Raises:
        UserError: There is none.
    """
    if asset.architecture is not None:
        described = load_spec(str(asset.architecture), f"asset '{asset.id}'")
        return lambda path: _write_state_dict(path, _random_network(described))
    if asset.kind in ("network", "teacher"):
        network = _architecture(asset, preset)
        return lambda path: write_official(path, _random_network(network))
    makers: dict[str, Callable[[Path], None]] = {
        "inception": write_inception,
        "dinov2-vitl14": _write_dinov2_weights,
        "dinov2-code": _write_dinov2_code,
        **dict.fromkeys(itertools.chain(*DECODERS.values()), _write_vae),
    }
    protocols = [protocol_of(preset, row) for row in preset.measurable.values()]
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
    trained = (network for row in rows if (network := costs.network(row.teacher)))
    architecture = next(trained, None) or costs.like(asset.id)
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
    from eval.features.judges import TimmExtractor

    return extractor_entry(extractor).assets == (asset,) and issubclass(
        EXTRACTORS.find(extractor, "extractor"), TimmExtractor
    )


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


def _write_vae(path: Path) -> None:
    """Both files of the decoder of latents, by diffusers."""
    import torch
    from diffusers import AutoencoderKL

    blocks = len(widths := (128, 256, 512, 512))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=widths,
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
    datasets = [dataset_of(preset, row) for row in preset.runs.values() if protocol_of(preset, row).labels == asset]
    images, classes = datasets[0]["num_images"], datasets[0]["label_dim"]
    with atomic_path(path) as part:
        part.write_text(
            json.dumps({"labels": [[f"{n // 1000:05d}/img{n:08d}.png", n % classes] for n in range(images)]})
        )
