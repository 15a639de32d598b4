"""Options of ``sida score`` as one object, which refuses contradictions between them."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.assets.cache import check_reachable
from sida.assets.registry import load_registry
from sida.cli.main import integer
from sida.config.families import EDM2_LATENTS
from sida.config.samplers import read_sampler
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.eval.commands._options import extractor_options, pairs
from sida.eval.results.identity import read_exposure
from sida.eval.results.sheet import check_cells
from sida.eval.tables.scores import row_columns, table_protocol
from sida.networks import network_latents

if TYPE_CHECKING:
    from sida.assets.registry import Asset
    from sida.eval.measuring.protocol import Protocol
    from sida.eval.measuring.score_plan import Scored
    from sida.eval.measuring.stores import Groups
    from sida.eval.results.identity import Identity


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The options, named as on the command line and described there.

    Raises:
        UserError: An option is missing, or contradicts another or the source.
    """

    source: str
    latent: str | None = None
    sampler: str | None = None
    protocol: str | None = None
    against: str | None = None
    like: str | None = None
    trials: int | None = None
    groups: Groups | None = None
    labels: str | None = None
    num_samples: int | None = None
    dataset: str | None = None
    reference: Sequence[str] = ()
    extractor_option: Sequence[str] = ()
    name: str | None = None
    family: str | None = None
    nfe: int | None = None
    saw: str | None = None
    device: str | None = None
    batch_size: int | None = None
    out: str | None = None
    json: bool = False
    origin: str | None = None
    verbose: bool = False
    latex: str | None = None

    def __post_init__(self) -> None:
        if not (self.protocol or self.like or self.against):
            fault = "name a table (--like table1) or a protocol (--protocol cifar10), or images (--against B)"
            raise UserError("score", fault)
        if self.origin is not None and (not self.json or not self.origin.strip() or not self.origin.isprintable()):
            raise UserError("--origin", "is a line of text for --json", 'say --json --origin "NAME, ADDRESS"')
        check_cells([self.name or "", self.family or ""], "--name, --family")
        if self.saw is not None:
            read_exposure(self.saw)
        self._check_network()
        if self.against and (self.like or self.latex):
            fault = "a comparison of two sets is not a row of a table"
            raise UserError("--against", fault, "leave --like and --latex out")

    def _check_network(self) -> None:
        """Refuses options of networks without a network, and programs without their latents."""
        network, program = self.network, self.program
        if str(network).endswith(".pt2") and not program:
            remedy = "for weights alone see docs/score.md, 'A function'"
            raise UserError(network, "is not a file of torch.export.save", remedy)
        if program and not self.latent:
            raise UserError(network, f"a file of {program} takes latents", "add --latent SHAPE, such as --latent 128")
        if self.latent and not program:
            raise UserError("--latent", "is for files of torch.export and TorchScript", "leave it out")
        if self.sampler and (program or not network):
            raise UserError("--sampler", "is for networks", "leave it out")

    @functools.cached_property
    def network(self) -> str | None:
        """The source if it names a network, else None."""
        from sida.eval.measuring.source import names_network

        return self.source if names_network(self.source) else None

    @functools.cached_property
    def program(self) -> str:
        """Format of a network's file that is a program, such as TorchScript; empty for other sources."""
        if not (self.network and os.path.isfile(self.network)):
            return ""
        from sida.eval.measuring.source import program_format

        return program_format(self.network)

    @functools.cached_property
    def protocol_name(self) -> str:
        """Name or file of the protocol: by default the table's, or ``pair`` for a second set."""
        return self.protocol or (table_protocol(self.like) if self.like else "pair")

    @functools.cached_property
    def _row_protocol(self) -> Protocol:
        """Protocol of a row of a table."""
        from sida.eval.measuring.score_plan import chosen_protocol

        return chosen_protocol(self.protocol_name, self.num_samples)

    def table_check(self) -> Callable[[Mapping[str, Identity]], object] | None:
        """Check that a table takes the identities of the values; None for a comparison, which is not a row.

        Raises:
            UserError: The table cannot take the row, as far as the protocol shows it.
        """
        if self.against:
            return None
        try:
            row_columns(self._row_protocol, self.like)
        except UserError as error:
            if self.like and self.num_samples:
                error.remedy = f"leave --like out: {self.own_number(self.num_samples)}"
            raise
        # Digests are known only when networks and references are loaded: a second check, before the first image.
        return lambda identities: row_columns(self._row_protocol, self.like, identities.get)

    @functools.cached_property
    def torch_device(self) -> str:
        """Device of the networks."""
        from sida.sampling.job import open_device

        return open_device(self.device)

    @functools.cached_property
    def images(self) -> Scored:
        """Images to score: the opened program, the file of the network, or the source itself."""
        from sida.eval.measuring.functions import ProgramFile
        from sida.eval.measuring.score_plan import NetworkFile
        from sida.sampling.job import network_file, sampler_for

        if self.network is None:
            return self.source
        if self.program:
            shape = [integer("--latent", 1)(part) for part in str(self.latent).split("x")]
            return ProgramFile(self.network, shape, self.torch_device)
        if self.network in load_registry() and not (self.against or self.reference or self.extractor_option):
            check_reachable([self.network, *self._row_protocol.assets(self._decoder(load_registry()[self.network]))])
        path = network_file(self.network)
        return NetworkFile(str(path), sampler_for(path, self.sampler or "one_step", "--sampler"))

    def _decoder(self, asset: Asset) -> tuple[str, ...]:
        """Files of the decoder that a registered network needs if it draws latents: EDM2's, if it is a pickle."""
        path, sampler = asset.architecture, read_sampler(self.sampler or "one_step", "--sampler")
        latents = network_latents(load_spec(str(path))) if path else None
        return (latents or EDM2_LATENTS).assets(sampler.decoder)

    @property
    def assumption(self) -> str:
        """Note on NFE and family of a table's row where nothing states them; empty elsewhere."""
        from sida.eval.measuring.score_plan import NetworkFile

        stated = self.nfe is not None or self.family is not None or isinstance(self.images, NetworkFile)
        return "" if stated or not self.like else "NFE 1 and family One Step are assumed (--nfe, --family)"

    def settings(self) -> dict[str, Any]:
        """Keywords of :func:`sida.eval.measuring.score_plan.plan_score`."""
        from sida.eval.measuring.score_plan import NetworkFile

        family, nfe, label = self.family, self.nfe, self.name
        device, images = self.torch_device, self.images
        if isinstance(images, NetworkFile):
            nfe = nfe or images.sampler.nfe
        elif self.program:
            label = label or Path(self.source).stem
        if self.like and family is None and (nfe or 1) == 1:
            family, nfe = "One Step", 1
        unchanged = ("trials", "num_samples", "against", "batch_size", "groups", "labels", "saw")
        return {key: getattr(self, key) for key in unchanged} | {
            "name": label,
            "device": device,
            "family": family or "",
            "nfe": nfe,
            "dataset": load_spec(self.dataset, "--dataset") if self.dataset else None,
            "references": pairs(self.reference, "--reference"),
            "extractors": extractor_options(self.extractor_option),
        }

    def own_number(self, num_samples: int) -> str:
        """The command that scores fewer images than a table's protocol takes."""
        words = ["sida", "score", self.source, "--protocol", self.protocol_name, "--num-samples", str(num_samples)]
        return f"`{shlex.join(words)}` (numbers of their own, for no table)"
