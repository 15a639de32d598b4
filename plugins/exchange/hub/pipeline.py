"""A diffusers pipeline for a generator; `sida export --to hf` copies this file. Needs diffusers and Pillow."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image


class OneStepPipeline(DiffusionPipeline):
    """Draws the images of seeds, equal to the images of ``sida sample``.

    >>> pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    >>> images = pipe(batch_size=16, seed=0).images
    """

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.register_modules(generator=generator)  # type: ignore[attr-defined]

    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        seed: int = 0,
        class_labels: int | Sequence[int] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images of the seeds ``seed … seed + batch_size − 1``, or of seeds that a generator draws.

        Args:
            batch_size: Number of images.
            generator: Source of the seeds instead of ``seed``; one for all images, or one for each.
            num_inference_steps: The generator's own number of steps, or None.
            output_type: ``pil``; ``np`` for uint8 ``(N, H, W, C)``; ``pt`` for a tensor uint8 ``(N, C, H, W)``, or the
                latents float32 of a latent network.
            return_dict: False returns a tuple.
            seed: First seed.
            class_labels: One class for all, or one for each; None draws classes by seed.
        """
        component: Any = self.generator  # type: ignore[attr-defined]
        if num_inference_steps not in (None, component.steps):
            takes = f"this generator takes {component.steps}"
            raise ValueError(f"num_inference_steps: {takes}, got {num_inference_steps}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type: must be pil, np or pt, got {output_type!r}")
        seeds = list(range(seed, seed + batch_size))
        if generator is not None:
            streams = [generator] * batch_size if isinstance(generator, torch.Generator) else list(generator)
            if len(streams) != batch_size:
                raise ValueError(f"generator: {len(streams)} of them for a batch_size of {batch_size}")
            seeds = [int(torch.randint(2**32, (), generator=one, device=one.device)) for one in streams]
        images: Any = component.sample(seeds, class_labels=class_labels)
        if output_type != "pt":
            images = self._pixels(images)
        if output_type == "pil":
            images = [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _pixels(self, images: torch.Tensor) -> Any:
        """Images as arrays; sida-repro decodes latents."""
        if images.dtype != torch.uint8:
            try:
                from sida.config.families import LATENTS
                from sida.sampling.generate import open_decoder
            except ImportError:
                raise ValueError("this network draws latents: take output_type='pt', or install sida-repro") from None
            net: Any = self.generator.net  # type: ignore[attr-defined]
            kind = net.family_of(net.init_config["kwargs"]).latents.name
            images = open_decoder(None, "cpu", LATENTS[kind])(images)
        return images.permute(0, 2, 3, 1).numpy()
