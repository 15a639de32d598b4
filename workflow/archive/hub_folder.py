"""A run as a folder for the Hugging Face Hub: weights, model card with measurements, one-step diffusers pipeline.

One Python file that draws a network's images with torch and safetensors alone, made of this package's sources.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.measuring.protocol import load_protocol
from eval.results.published import cited_label
from eval.results.summary import Measurement, Measurements, measured_in
from eval.tables.render import markdown_cell
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.files.atomic import atomic_folder, write_json, write_text
from sida.machine import code_version
from sida.methods.registry import METHODS
from sida.networks.file import NETWORKS
from sida.networks.official import describe_file
from sida.networks.precond import Precond
from sida.networks.unet import check_options
from sida.sampling.samplers import one_step, to_uint8

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


#: Modules that stay behind, and the names by which the file does without them: its settings are checked here.
_LEFT_OUT = {
    "sida.config.settings": "def from_mapping(cls: type, mapping: Mapping[str, Any], where: str) -> Any:\n"
    "    return cls(**mapping)",
}
_TAIL = Path(__file__).parent / "hub" / "model_tail.py"


def model_source(network: Mapping[str, Any]) -> str | None:
    """Text of ``model.py``: the modules behind a network class in the order of their imports, then the sampler.

    Args:
        network: ``{"class", "kwargs"}`` of a network file.

    Returns:
        The text; None for a custom class, whose code is not this package's.

    Raises:
        UserError: Arguments that the class does not take.
    """
    entry = NETWORKS.get(str(network["class"]))
    cls = None if entry is None else entry.load()
    if cls is None or not issubclass(cls, Precond):
        return None
    options = dict(network["kwargs"])
    half = options.pop("half_dtype", None)
    options, inner = cls.read_options(options, "network")
    arguments = check_options(cls, options, "network", extra=inner)
    order: list[str] = []
    _visit(cls.__module__, order)
    tail = _TAIL.read_text(encoding="utf-8")
    trees = {name: _source(name) for name in order if name not in _LEFT_OUT}
    imports = _imports([*trees.values(), tail])
    parts = [f"# {'-' * 20} {name}\n\n{_LEFT_OUT.get(name) or _body(trees[name])}" for name in order]
    head = (
        f'"""{network["class"]}, a one-step generator, with everything that it needs from sida-repro {code_version()} '
        '(Apache-2.0).\n\nMade by `sida export`; needs torch and safetensors alone.\n"""\n\n'
    )
    text = f"{head}from __future__ import annotations\n\n{imports}\n\n"
    made = "\n\n".join(inspect.getsource(function) for function in (one_step, to_uint8)) + "\n\n"
    made += f"def build() -> Precond:\n    net = {cls.__name__}({_arguments(arguments)})\n"
    made += f"    net.half_dtype = torch.{half}\n" if half else ""
    made += "    return net"
    return text + "\n\n\n".join([*parts, f"# {'-' * 20} this network\n\n\n{made}", _body(tail)]) + "\n"


def _visit(name: str, order: list[str]) -> None:
    """Adds a module behind the modules of this package that it imports."""
    if name in order:
        return
    if name not in _LEFT_OUT:
        for node in ast.walk(ast.parse(_source(name))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sida"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    _visit(inner if _is_module(inner) else str(node.module), order)
    order.append(name)


def _is_module(name: str) -> bool:
    package, _, last = name.rpartition(".")
    home = importlib.import_module(package)
    return inspect.ismodule(getattr(home, last, None)) and not hasattr(home, "__getattr__")


def _source(name: str) -> str:
    return inspect.getsource(importlib.import_module(name))


def _imports(texts: Iterable[str]) -> str:
    """Import statements of modules for other packages, each name once."""
    plain: set[str] = set()
    named: dict[str, set[str]] = {}
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.Import):
            plain |= {ast.unparse(node)}
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(("sida", "__future__")):
            named.setdefault(str(node.module), set()).update(ast.unparse(alias) for alias in node.names)
    return "\n".join(
        [*sorted(plain), *(f"from {name} import {', '.join(sorted(named[name]))}" for name in sorted(named))]
    )


def _body(text: str) -> str:
    """A module without its docstring and its imports.

    Raises:
        UserError: An import inside a function, which would not find this package.
    """
    tree, lines = ast.parse(text), text.splitlines()
    for node in tree.body:
        docstring = node is tree.body[0] and isinstance(node, ast.Expr)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (int(node.end_lineno or 0) - node.lineno + 1)
    rest = "\n".join(lines).strip()
    if "from sida" in rest or "import sida" in rest:
        raise UserError(
            "model.py", "a module of sida/networks imports this package inside a function", "import it above"
        )
    return rest


def _arguments(values: Mapping[str, Any]) -> str:
    """Python text of keyword arguments with plain values; infinity, too."""
    return ", ".join(f"{k}=" + ('float("inf")' if v == float("inf") else repr(v)) for k, v in values.items())


_CODE = Path(__file__).parent / "hub"
_PICTURE = 8
_TASK = "unconditional-image-generation"


def write_hub_folder(
    run: str | Path, out: str | Path, licence: str = "other", base_model: str | None = None
) -> list[str]:
    """Writes the folder; ``hf upload`` stays the user's own command.

    Args:
        run: Folder of a training (``results/demo/students/sida-a1.0``), or a network file.
        out: Folder to make.
        licence: Identifier of the licence, as the Hub has them.
        base_model: The teacher's id on the Hub, for the card.

    Returns:
        Names of the files.

    Raises:
        UserError: No network there, or a target that exists.
    """
    run, out = Path(run), Path(out)
    network = run / "network.safetensors" if run.is_dir() else run
    if os.path.lexists(out):
        raise UserError(out, "exists already", "name another folder, or remove it")
    facts = describe_file(network)
    if facts["format"] == "pickle":
        raise UserError(network, "is a pickle", f"convert it first: sida convert {network} network.safetensors")
    name = run.name if run.is_dir() else str(facts.get("name") or network.stem)
    with atomic_folder(out) as part:
        _fill(part, network, name, facts, licence, base_model)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _fill(
    folder: Path, network: Path, name: str, facts: Mapping[str, Any], licence: str, base_model: str | None
) -> None:
    import torch

    from sida.sampling.job import load
    from sida.sampling.store import save_grid

    component = folder / "generator"
    component.mkdir()
    shutil.copyfile(network, component / "network.safetensors")
    write_json(component / "config.json", {"_class_name": "OneStepGenerator", **facts["network"]})
    model = model_source(facts["network"])
    if model is None:
        raise UserError(network, "its network class is not of this package", "export its code yourself")
    write_text(component / "model.py", model)
    shutil.copyfile(_CODE / "pipeline.py", folder / "pipeline.py")
    classes = {"_class_name": ["pipeline", "OneStepPipeline"], "generator": ["model", "OneStepGenerator"]}
    write_json(folder / "model_index.json", classes | {"_diffusers_version": "0.27.0"})
    generator = load(network)
    pictured = generator.net.img_channels in (1, 3)
    if pictured:
        images = torch.from_numpy(generator.sample(_PICTURE**2))
        save_grid(folder / "samples.png", images, _PICTURE, scale=max(1, 32 // images.shape[-1]))
    # Results of its preset: results/demo of results/demo/students/x/network.safetensors.
    results = (network.resolve().parents[2:3] or [network.parent])[0]
    spec = results / "specs" / "students" / f"{name}.json"
    if spec.is_file():
        text = json.dumps(load_spec(str(spec)), indent=1, sort_keys=True)
        write_text(folder / "recipe.json", text + "\n")
    measured = measured_in(results)
    write_text(folder / "README.md", model_card(name, facts, measured, licence, spec.is_file(), pictured, base_model))


def model_card(
    name: str,
    facts: Mapping[str, Any],
    measured: Measurements,
    licence: str,
    recipe: bool,
    pictured: bool,
    base_model: str | None = None,
) -> str:
    """The card: metadata with ``model-index``, then the same as text.

    Args:
        name: Id of the run.
        facts: :func:`sida.networks.official.describe_file` of the network.
        measured: Measurements of its preset; only those of this very file are taken, by its hash.
        licence: Identifier of the licence.
        recipe: Whether ``recipe.json`` is there.
        pictured: Whether ``samples.png`` is there.
        base_model: The teacher's id on the Hub.
    """
    from huggingface_hub import ModelCardData

    data, parents = facts.get("dataset"), facts.get("parents")
    dataset = plain(data.get("name") if isinstance(data, Mapping) else data)
    own = [row for row in measured.rows if row.network_sha256 == facts["sha256"]]
    results = eval_results(own, measured, dataset)
    method = plain(facts.get("method"))
    head = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag=_TASK,
        tags=["diffusion-distillation", "one-step", *([method, *_papers(method)] if facts.get("method") else [])],
        base_model=base_model,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return (
        (_CODE / "card.md")
        .read_text(encoding="utf-8")
        .format(
            head=head.to_yaml().strip(),
            name=plain(name),
            method=method,
            dataset=dataset,
            parameters=facts["parameters"],
            architecture=plain(facts["network"]["class"]),
            picture="\n![Samples of seeds 0 to 63](samples.png)\n" if pictured else "",
            measurements="".join([MEASURED, *map(result_line, results)])
            if results
            else "This file was not measured.\n",
            recipe="The settings are in [recipe.json](recipe.json).\n\n" if recipe else "",
            nimg=plain(facts.get("nimg")),
            config=plain(facts.get("config_sha256")),
            parents="".join(
                f"| {plain(role)} | `{plain(digest)}` |\n"
                for role, digest in (parents.items() if isinstance(parents, Mapping) else ())
                if digest
            ),
            sha256=facts["sha256"],
            made_by=plain(facts.get("code_version")),
            written_by=code_version(),
            licence="to be filled in" if licence == "other" else f"{licence}, as stated",
        )
    )


MEASURED = """Mean ± sample standard deviation over trials, each with seeds of its own, measured on this very file.

| metric | value | trials | images | protocol |
|---|---:|---:|---:|---|
"""


def _papers(method: str) -> list[str]:
    """Tags of the method's paper, by which the Hub links it."""
    entry = cited_label(METHODS[method].title if method in METHODS else method)[1]
    return [f"arxiv:{found}" for found in re.findall(r"\b\d{4}\.\d{5}\b", entry.bibtex)[:1]] if entry else []


def eval_results(lines: Iterable[Measurement], measured: Measurements, dataset: str) -> list[EvalResult]:
    """Values of the runs and metrics of some lines, rounded as in tables."""
    from huggingface_hub import EvalResult

    rows = {(row.run, row.metric): row for row in lines}
    results = []
    for (run, key), row in rows.items():
        estimate, label, decimals = measured.estimate(run, key), key, 4
        with contextlib.suppress(UserError):
            metric = load_protocol(row.protocol).metric(key)
            label, decimals = metric.label or key, metric.decimals
        args: dict[str, Any] = {"trials": estimate.trials, "images": row.n, "nfe": row.nfe, "protocol": row.protocol}
        args |= {"std": None if estimate.std is None else round(estimate.std, decimals)}
        args |= {"identity_sha256": row.identity.sha256}
        value = round(estimate.mean, decimals)
        task: dict[str, Any] = {
            "task_type": _TASK,
            "task_name": "Image generation",
            "dataset_type": dataset,
            "dataset_name": dataset,
        }
        results.append(EvalResult(**task, metric_type=key, metric_name=label, metric_value=value, metric_args=args))
    return results


def result_line(result: EvalResult) -> str:
    """A value as a line of the card's table."""
    args = result.metric_args or {}
    value = f"{result.metric_value:g}" + (f" ± {args['std']:g}" if args["std"] is not None else "")
    protocol = f"{plain(args['protocol'])} (`{args['identity_sha256'][:12]}`)"
    return f"| {plain(result.metric_name)} | {value} | {args['trials']} | {args['images']:,} | {protocol} |\n"


def plain(value: Any) -> str:
    """Text of a file's header: one line without HTML and links."""
    return markdown_cell(str("unknown" if value is None else value)[:200])
