"""The files of a network in a folder of diffusers, and the network file that they become."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sida.assets.registry import is_address
from sida.errors import say
from sida.files.atomic import sha256_file, sha256_json
from sida.files.ordinary import refuse_same
from sida.networks.file import architecture, fitting_network, shapes_of, write_state_dict
from sida.networks.folders import NetworkFolder
from sida.plugins.transformers.readings import LEVELS, percent, shares_left

#: Schedulers on discrete steps, all with the defaults of `DDPMScheduler`. Only the training counts, not the sampler.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    "EulerAncestralDiscreteScheduler",
)
#: Settings of a sampler that would change the levels of the schedule, with the values that do not.
PLAIN_SCHEDULE = {"use_flow_sigmas": False, "timestep_type": "discrete"}
#: A network ``{class, kwargs}`` and its state dict.
Network = tuple[dict[str, Any], dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class DiffusersFiles(NetworkFolder):
    """The files of a network and its scheduler.

    Attributes:
        where: Folder or address, named in errors.
        read: Function of the files and of whether the last class stands for no class.
        config, scheduler, weights: Paths.
        vae: Path of the settings of a decoder, or None.
        init_sigma, num_classes: σ_init and number of classes of a generator that `sida export` wrote, else None.
    """

    where: str
    read: Callable[[DiffusersFiles, bool], Network]
    config: Path
    scheduler: Path
    weights: Path
    vae: Path | None = None
    init_sigma: Any = None
    num_classes: Any = None

    @property
    def sha256(self) -> str:
        """See `NetworkFolder`."""
        paths = [path for path in (self.config, self.scheduler, self.weights, self.vae) if path]
        return sha256_json([*map(sha256_file, paths), self.init_sigma, self.num_classes])

    def write(self, out: str | os.PathLike[str], null_label: bool, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """See `NetworkFolder`."""
        refuse_same(self.weights, out)
        network, state = self.read(self, null_label)
        net = fitting_network(Path(self.where), network, shapes_of(state))
        sampler = {"sampler": {"kind": "one_step", "init_sigma": self.init_sigma}}
        if self.init_sigma is None:
            sampler = {}
            # The output of an exported generator is not a denoised image.
            _check_prediction(self.where, architecture(net), state)
        url = self.where if is_address(self.where) else None
        origin = {"file": Path(self.where).name, "url": url, "sha256": sha256_file(self.weights)}
        origin |= {f"{name}_sha256": sha256_file(getattr(self, name)) for name in ("config", "scheduler")}
        record = {**sampler, **metadata, "network": net.init_config, "origin": origin}
        return write_state_dict({name: state[name] for name in net.state_dict()}, out, record)


def _check_prediction(where: str, network: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Draws one step at two levels, and reports when the output is not a denoised image.

    Args:
        where: Folder or address named in the message.
        network: ``{class, kwargs}``, which fits the tensors.
        state: Its state dict.
    """
    shares = shares_left(network, state)
    if any(share >= most for share, (_, most) in zip(shares, LEVELS)):
        kind = network["kwargs"].get("prediction_type", network["class"])
        check = "prediction_type, and that its weights are trained" if kind != network["class"] else "its weights"
        fault = f"{where}: read as {kind}, its output is not a denoised image"
        say(f"{fault}: {percent(shares)} of the noise are left; check {check}")
