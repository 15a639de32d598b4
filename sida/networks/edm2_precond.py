"""EDM2 preconditioning with the log-variance head and the switch for forced weight normalisation."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast

from torch import Tensor

from sida.config.families import EDM2, EDM2_S, Family, WeightNorm
from sida.errors import UserError, suggestion
from sida.networks.edm2_unet import EDM2UNet, MPConv, MPFourier
from sida.networks.precond import Precond, edm_coefficients

_REWRITE: dict[str, Literal["never", "training", "always"]] = {
    "off": "never",
    "in_forward": "training",
    "pre_hook": "training",
    "always": "always",
}


def official_weight_norm(use_gan: bool, force_normalization: bool) -> WeightNorm:
    """Mode of weight normalisation for the two switches of SiDA's EDM2 networks, for a new network.

    Without the adversarial loss the layers normalise their weights in every training forward pass, regardless of
    ``force_normalization``; with it they do so before the forward pass if ``force_normalization`` is set
    (``mingyuanzhou/SiD@sida``, see ``tests/golden/README.md``, fact 21).
    """
    if not use_gan:
        return "in_forward"
    return "pre_hook" if force_normalization else "off"


def copied_weight_norm(mode: WeightNorm, training: bool) -> WeightNorm:
    """Mode of weight normalisation of a deep copy or pickle in the official code.

    There the pre-hook of a copy stays bound to the original, whose training flag is frozen at the time of the copy. So
    in the official loop the fake score (copied from a teacher in evaluation mode) is never rewritten, and the averaged
    generator and its pickles (copied from a generator in training mode) are rewritten in every forward pass. Copies in
    this package keep their mode; ``copy.weight_norm = copied_weight_norm(net.weight_norm, net.training)`` reproduces
    the official behaviour.

    Args:
        mode: Mode of the original.
        training: Whether the original is in training mode.
    """
    if mode != "pre_hook":
        return mode
    return "always" if training else "off"


class EDM2Precond(Precond):
    """EDM2's preconditioned denoiser, with the encoder logits of SiDA's variant.

    Args:
        img_resolution: Side of the square images or latents.
        img_channels: Channels of the images or latents.
        label_dim: Number of classes; 0 = unconditional.
        use_fp16: Whether the U-Net computes in float16 on CUDA.
        sigma_data: Standard deviation of the data.
        logvar_channels: Width of the log-variance head's embedding; None = no head (generators have none).
        weight_norm: Times at which normalised weights replace the stored ones. (Forward passes always use normalised
            weights.) ``off``: never. ``in_forward`` (EDM2) and ``pre_hook`` (SiDA): in training mode, when a layer
            runs; they differ only in copies by the official code, see `copied_weight_norm`. ``always``: when a layer
            runs, also in evaluation mode. Rewriting invalidates earlier graphs through the same weights: two forward
            passes in training mode before one backward pass fail with autograd's version error.
        **unet_kwargs: Further options of `EDM2UNet`.

    Raises:
        UserError: Unknown option.

    State-dict names equal those of ``NVlabs/edm2:training/networks_edm2.py``.
    """

    unet_name = "unet"
    family = EDM2

    @classmethod
    def family_of(cls, kwargs: Mapping[str, Any]) -> Family:
        """See `Precond.family_of`; networks of size S have other settings in SiDA."""
        size = inspect.signature(EDM2UNet).parameters["model_channels"].default
        return EDM2_S if kwargs.get("model_channels", size) == size else EDM2

    @classmethod
    def read_options(cls, kwargs: dict[str, Any], where: str) -> tuple[dict[str, Any], type[EDM2UNet]]:
        """See `Precond.read_options`; ``use_gan`` with ``force_normalization`` may replace ``weight_norm``."""
        flags = {name: kwargs.pop(name) for name in ("use_gan", "force_normalization") if name in kwargs}
        if not flags:
            return kwargs, EDM2UNet
        if len(flags) == 1 or "weight_norm" in kwargs:
            raise UserError(where, "give either 'weight_norm' or both 'use_gan' and 'force_normalization'")
        mode = official_weight_norm(**{name: bool(flag) for name, flag in flags.items()})
        return {**kwargs, "weight_norm": mode}, EDM2UNet

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int | None = 128,
        weight_norm: WeightNorm = "in_forward",
        **unet_kwargs: Any,
    ):
        super().__init__()
        self.sigma_data = sigma_data
        self._build(locals(), EDM2UNet, unet_kwargs)
        self.logvar_fourier = None if logvar_channels is None else MPFourier(logvar_channels)
        self.logvar_linear = None if logvar_channels is None else MPConv(logvar_channels, 1)
        self.weight_norm = weight_norm

    @property
    def weight_norm(self) -> WeightNorm:
        """Times at which normalised weights replace the stored ones (see the class); can be set at any time."""
        return cast(WeightNorm, self.init_config["kwargs"]["weight_norm"])

    @weight_norm.setter
    def weight_norm(self, mode: WeightNorm) -> None:
        if mode not in _REWRITE:
            raise UserError("weight_norm", f"unknown mode '{mode}'{suggestion(str(mode), _REWRITE)}")
        self.init_config["kwargs"]["weight_norm"] = mode
        for layer in self._layers():
            layer.rewrite = _REWRITE[mode]

    def _layers(self) -> list[MPConv]:
        return [module for module in self.modules() if isinstance(module, MPConv)]

    def stop_rewriting(self) -> None:
        """Turns ``always`` into ``off``, after one last normalisation of the weights."""
        if self.weight_norm == "always":
            for layer in self._layers():
                layer.normalize_weight()
            self.weight_norm = "off"

    def evaluation_copy(self) -> EDM2Precond:
        """See `Precond.evaluation_copy`; a copy is only needed in the mode ``always``.

        Repeated rewriting changes the weights by rounding (a relative 1e-7), so that an image would depend on the
        number of batches before.
        """
        if self.weight_norm != "always":
            return self
        evaluation_copy = copy.deepcopy(self)
        evaluation_copy.stop_rewriting()
        return evaluation_copy

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return edm_coefficients(sigma, self.sigma_data)

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Learned log-variance of the denoising loss at a noise level (EDM2, equation 15).

        Args:
            c_noise: Encoded noise levels: N entries in any shape.

        Returns:
            float32 (N, 1, 1, 1).

        Raises:
            ValueError: The network has no log-variance head.
        """
        if self.logvar_fourier is None or self.logvar_linear is None:
            raise ValueError("this network was built without log-variance head (logvar_channels: null)")
        return self.logvar_linear(self.logvar_fourier(c_noise.flatten())).reshape(-1, 1, 1, 1)
