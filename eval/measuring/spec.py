"""Spec of ``sida-eval measure``: a generator, its sampler, and the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sida.config.mapping import Settings
from sida.config.ranges import Count, Natural
from sida.errors import suggestion

NETWORK_SAMPLERS = ("one_step", "heun")
SAMPLERS = (*NETWORK_SAMPLERS, "data", "python", "images")


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(Settings):
    """A generator with its sampler and protocol (``docs/architecture.md``, "Generator to measure").

    Attributes:
        run: Id of the row.
        method: ``teacher``, ``sid``, ``sida``, ``sid2a``, ``data`` or the name of another method.
        sampler: ``{kind: one_step, init_sigma}``, ``{kind: heun, num_steps, ...}``, ``{kind: data}``,
            ``{kind: python, callable: "module:function", kwargs}`` or ``{kind: images, path}``.
        protocol: Name, path or content of the protocol.
        dataset: Data set for labels, image size, and references that are computed here.
        network: File of the network; None for other sources.
        guide: File of a guiding network, for samplers with guidance.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        label: Name for people.
        family: Group of rows in tables.
        nfe: Network evaluations per image.
        references: File by reference key (``"*"``: a folder to search).
        extractors: Options by extractor name, e.g. ``{"inception": {"path": ...}}``.
        batch_size: Images per batch; None chooses by device.
        threads: CPU threads; 0 keeps torch's choice.
        device: Torch device.
    """

    run: str
    method: str
    sampler: dict[str, Any]
    protocol: Any
    dataset: dict[str, Any] | None = None
    network: str | None = None
    guide: str | None = None
    vae: str | None = None
    label: str = ""
    family: str = ""
    nfe: Count | None = None
    references: dict[str, Any] = field(default_factory=dict)
    extractors: dict[str, Any] = field(default_factory=dict)
    batch_size: Count | None = None
    threads: Natural = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.sampler.get("kind")
        if kind not in SAMPLERS:
            raise ValueError(f"sampler.kind: no such sampler '{kind}'{suggestion(str(kind), SAMPLERS)}")
        if (kind in NETWORK_SAMPLERS) != (self.network is not None):
            raise ValueError(
                f"network: must be {'a file' if kind in NETWORK_SAMPLERS else 'null'} for sampler '{kind}'"
            )
        needed = {"python": "callable", "images": "path", "heun": "num_steps"}.get(str(kind))
        if needed and needed not in self.sampler:
            raise ValueError(f"sampler.{needed}: is missing; sampler '{kind}' needs it")
        if self.dataset is None and kind == "data":
            raise ValueError("dataset: is missing; sampler 'data' resamples it")
