"""One-step images in the way of diffusers; `sida export --to hf` copies this file. Needs sida-repro and diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image


class OneStepPipeline(DiffusionPipeline):
    """Draws the images of seeds, equal to those of ``sida sample``.

    >>> pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    >>> images = pipe(num_images=16, seed=0).images
    """

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.register_modules(generator=generator)  # type: ignore[attr-defined]

    def __call__(
        self,
        num_images: int = 1,
        seed: int = 0,
        class_labels: int | Sequence[int] | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Images of the seeds ``seed … seed + num_images − 1``.

        Args:
            num_images: Number of images.
            seed: First seed.
            class_labels: One class for all, or one for each; None draws classes by seed.
            output_type: ``pil``, or ``np`` for uint8 ``(N, H, W, C)``.
        """
        component: Any = self.generator  # type: ignore[attr-defined]
        images = component.generator.sample(num_images, seed, class_labels).transpose(0, 2, 3, 1)
        if output_type == "np":
            return ImagePipelineOutput(images=images)
        return ImagePipelineOutput(
            images=[Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in images]
        )
