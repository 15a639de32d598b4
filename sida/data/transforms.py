"""Transformations of source pictures to square images, by the exact rules of the published data sets.

| name | rule | used for |
|---|---|---|
| ``none`` | resize to the target with Lanczos if the size differs | FFHQ, AFHQv2, CIFAR-10 |
| ``center-crop`` | largest centred square, then Lanczos | ImageNet 64×64 |
| ``center-crop-dhariwal`` | halve with a box filter while ≥ 2×, bicubic to the target, centre crop | ImageNet 512×512 |

Source: NVlabs/edm:dataset_tool.py, NVlabs/edm2:dataset_tool.py; the third is guided diffusion's (arXiv:2105.05233).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from sida.config.datasets import Transform
from sida.data.pictures import MOST_PIXELS
from sida.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

TRANSFORMS: tuple[str, ...] = get_args(Transform)


def to_square(picture: Image, transform: str, resolution: int | None, channels: int, where: str) -> Image:
    """Applies a transform.

    Args:
        picture: 8 bits per channel, any mode.
        transform: One of :data:`TRANSFORMS`.
        resolution: Target height and width; None keeps the (cropped) size.
        channels: 3 makes everything RGB (as the originals; transparency is dropped), 1 makes it grey.
        where: File named in errors.

    Returns:
        RGB or grey, square.

    Raises:
        UserError: Without cropping, the picture is not square and has no target size; or it has more than 8 bits.
    """
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"{where}: has more than 8 bits per channel (mode {picture.mode}); convert it first")
    mode = "RGB" if channels == 3 else "L"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if transform == "center-crop-dhariwal":
        return _shrink_then_crop(picture, resolution or min(picture.size), where)
    if transform == "center-crop":
        picture = _centre_square(picture)
    width, height = picture.size
    if resolution is None and width != height:
        raise UserError(f"{where}: is {width}×{height}; give --resolution or --transform center-crop")
    if resolution is not None and (width, height) != (resolution, resolution):
        picture = picture.resize((resolution, resolution), _filters().LANCZOS)
    return picture


def _centre_square(picture: Image) -> Image:
    """Rows and columns ``(size - side) // 2 … (size + side) // 2``."""
    width, height = picture.size
    side = min(width, height)
    return picture.crop(((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))


def _shrink_then_crop(picture: Image, resolution: int, where: str) -> Image:
    while min(picture.size) >= 2 * resolution:
        picture = picture.resize((picture.width // 2, picture.height // 2), _filters().BOX)
    scale = resolution / min(picture.size)
    if max(picture.size) * scale * resolution > MOST_PIXELS:
        raise UserError(f"{where}: is {picture.width}×{picture.height}, too long for its width; remove it")
    # The long side is rounded as in the original: Python's round, halves to even.
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), _filters().BICUBIC)
    left, top = (picture.width - resolution) // 2, (picture.height - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def _filters() -> Any:
    from PIL import Image

    return Image.Resampling
