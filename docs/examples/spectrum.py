"""An example of a custom feature extractor: the amplitudes of an image's Fourier transform.

    sida reference --images samples.zip --extractor docs.examples.spectrum:Spectrum --out spectrum.safetensors

In a protocol it stands as the extractor of a metric, like ours.
"""

from __future__ import annotations

import torch

from sida.config.lookup import source_sha256
from sida.eval.features import Extractor


class Spectrum(Extractor):
    """Logarithms of the amplitudes of all frequencies, averaged over channels; width by the size of the images."""

    num_features = 0

    def __init__(self, device: str | torch.device = "cpu", floor: float = 1e-3) -> None:
        super().__init__(device)
        self.floor = float(floor)
        # Everything that decides the features: this file and the option. A network's weights would belong to it.
        self.sha256 = f"{source_sha256(type(self))}-{self.floor:g}"

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        amplitudes = torch.fft.rfft2(images.to(torch.float32) / 127.5 - 1, norm="ortho").abs().mean(1)
        features = (amplitudes + self.floor).log().flatten(1)
        self.num_features = features.shape[1]
        return features, None
