"""One-step images of a UNet2DModel; `sida export --to hf` copies this file. Needs diffusers and Pillow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from PIL import Image


class OneStepUNetPipeline(DiffusionPipeline):
    """Draws the images of seeds, equal to the images of ``sida sample`` but for rounding.

    >>> pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    >>> images = pipe(batch_size=16, seed=0).images

    Args:
        unet: The generator, with the scheduler's kind of prediction.
        scheduler: The schedule of its teacher's training; no steps of it are taken.
        init_sigma: Noise level of the one step, in images of [-1, 1].
        num_classes: Number of classes; 0 is none.
    """

    def __init__(
        self, unet: UNet2DModel, scheduler: DDPMScheduler, init_sigma: float = 2.5, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)  # type: ignore[attr-defined]
        self.register_to_config(init_sigma=init_sigma, num_classes=num_classes)  # type: ignore[attr-defined]

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        seed: int = 0,
        class_labels: int | Sequence[int] | None = None,
        latents: torch.Tensor | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images of the seeds ``seed … seed + batch_size − 1``, of seeds that a generator draws, or of latents.

        Args:
            batch_size: Number of images.
            generator: Source of the seeds instead of ``seed``; one for all images, or one for each.
            num_inference_steps: 1.
            output_type: ``pil``; ``np`` for uint8 ``(N, H, W, C)``; ``pt`` for a tensor uint8 ``(N, C, H, W)``;
                ``float`` for the network's own images float32 ``(N, C, H, W)``, about [-1, 1].
            return_dict: False returns a tuple.
            seed: First seed.
            class_labels: One class for all, or one for each; None draws classes by seed.
            latents: Unit normal latents ``(batch_size, C, H, W)`` instead of the seeds' latents.
        """
        if num_inference_steps != 1:
            raise ValueError(f"num_inference_steps: this generator takes one step, got {num_inference_steps}")
        if output_type not in ("pil", "np", "pt", "float"):
            raise ValueError(f"output_type: must be pil, np, pt or float, got {output_type!r}")
        config: Any = self.config  # type: ignore[attr-defined]
        unet: Any = self.unet  # type: ignore[attr-defined]
        if class_labels is not None and not config.num_classes:
            raise ValueError("class_labels: this network has no classes")
        streams = self._streams(batch_size, generator, seed)
        side = unet.config.sample_size
        shape = (unet.config.in_channels, side, side)
        draws = torch.stack([torch.randn(shape, generator=one) for one in streams])
        z = (draws if latents is None else latents).to(unet.device, torch.float32)
        classes = None
        if config.num_classes:
            by_seed = torch.cat([torch.randint(config.num_classes, (1,), generator=one) for one in streams])
            classes = by_seed if class_labels is None else torch.as_tensor(class_labels).expand(batch_size)
            classes = classes.to(unet.device)
        images: Any = self._denoise(z, classes)
        if output_type in ("pil", "np", "pt"):
            images = torch.nan_to_num(images * 127.5 + 128, nan=0.0).clamp(0, 255).to(torch.uint8).cpu()
        if output_type in ("pil", "np"):
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _streams(self, count: int, generator: Any, seed: int) -> list[torch.Generator]:
        """A generator for each image."""
        seeds = list(range(seed, seed + count))
        if generator is not None:
            sources = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
            if len(sources) != count:
                raise ValueError(f"generator: {len(sources)} of them for a batch_size of {count}")
            seeds = [int(torch.randint(2**32, (), generator=one, device=one.device)) for one in sources]
        return [torch.Generator().manual_seed(one % 2**32) for one in seeds]

    def _denoise(self, z: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        """Images of unit normal latents: the U-Net's image of noise of level σ_init."""
        scheduler: Any = self.scheduler  # type: ignore[attr-defined]
        sigma = float(self.config.init_sigma)  # type: ignore[attr-defined]
        cumulative = (1 - scheduler.betas.double()).cumprod(0).numpy()
        cumulative = cumulative[cumulative > 0]
        # The step of this level, a fraction: linear in ln σ between two steps.
        step = np.interp(np.log(sigma), np.log((1 - cumulative) / cumulative) / 2, np.arange(len(cumulative)))
        scale = (1 + sigma**2) ** 0.5
        time = torch.tensor(step, dtype=torch.float32, device=z.device)
        output: torch.Tensor = self.unet(sigma / scale * z, time, class_labels=classes).sample  # type: ignore[attr-defined]
        kind = scheduler.config.prediction_type
        if kind == "sample":
            return output
        return sigma * (z - output) if kind == "epsilon" else sigma / scale * (z / scale - output)
