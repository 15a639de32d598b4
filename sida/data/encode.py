"""Encoding of a data set of pixels to VAE moments, EDM2's training data."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sida.data.archive import dataset_json, image_name
from sida.data.batches import read_batches
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.files.atomic import atomic_path, zip_member
from sida.progress import Progress


def encode_dataset(
    dataset: Dataset,
    out: str,
    encode: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 8,
    device: str = "cpu",
    workers: int = 0,
) -> dict[str, Any]:
    """Writes ``00000/img-mean-std-00000000.npy`` … and ``dataset.json`` atomically to an archive.

    Args:
        dataset: Data set of RGB pixels.
        out: Zip to write.
        encode: Function from uint8 images to moments float32 ``(N, 2C, h, w)``, e.g. :class:`~sida.data.LatentEncoder`.
        batch_size: Images per call.
        device: Device of the images in the call.
        workers: Reading processes.

    Returns:
        Images, channels and resolution of the latents.

    Raises:
        UserError: The data set is not RGB pixels, or an image is damaged.

    Source: NVlabs/edm2:dataset_tool.py (``encode``).
    """
    if not dataset.is_pixels or dataset.num_channels != 3:
        raise UserError(f"{dataset.name}: must be RGB pixels to be encoded, has {dataset.num_channels} channels")
    progress = Progress(f"encode {dataset.name}", len(dataset))
    starts = range(0, len(dataset), batch_size)
    indices = (np.arange(start, min(start + batch_size, len(dataset))) for start in starts)
    names: list[str] = []
    shape: tuple[int, ...] = ()
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for images, _ in read_batches(dataset, indices, workers):
            for moments in encode(images.to(device)).cpu().numpy():
                names.append(image_name(len(names), ".npy", "img-mean-std-"))
                stream = io.BytesIO()
                np.save(stream, np.ascontiguousarray(moments, dtype=np.float32))
                archive.writestr(zip_member(names[-1]), stream.getvalue())
                shape = moments.shape
            progress.update(len(names))
        classes = dataset.class_indices.tolist() if dataset.label_dim else None
        archive.writestr(zip_member("dataset.json"), dataset_json(None if classes is None else zip(names, classes)))
    progress.update(len(names), force=True)
    return {"images": len(names), "channels": shape[0], "resolution": shape[1]}
