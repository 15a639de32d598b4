"""U-Nets in folders of diffusers: `UNet2DModel` with the schedule of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError, one_line
from sida.networks.saved_models import check_class, check_values, json_line, read_config, read_state
from sida.plugins.diffusers.files import PLAIN_SCHEDULE, SCHEDULERS, DiffusersFiles, Network
from sida.plugins.diffusers.unet import SCHEDULE, UNET_OPTIONS, DiffusersPrecond

#: Options of `UNet2DModel` that are read only with these values; and what else its file may have.
_PLAIN = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "num_train_timesteps": None,
}
_IMAGES = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
#: Facts of an average of weights that `EMAModel` adds to the file of a U-Net.
_AVERAGE = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
    "foreach",
)


def read_unet(files: DiffusersFiles, null_label: bool) -> Network:
    """Network and state dict of a U-Net's files; see `DiffusersFiles.read`.

    Raises:
        UserError: A setting that is not read, or a label for no class where there are no classes.
    """
    unet, schedule = read_config(files.config), read_config(files.scheduler)
    check_class(files.scheduler, schedule, SCHEDULERS)
    check_values(files.config, unet, _PLAIN)
    check_values(files.scheduler, schedule, PLAIN_SCHEDULE)
    kwargs = {name: schedule[name] for name in SCHEDULE if name in schedule}
    options = {
        key: value for key, value in unet.items() if key[:1] != "_" and key not in (*_PLAIN, *_IMAGES, *_AVERAGE)
    }
    if unknown := [key for key in options if key not in UNET_OPTIONS]:
        raise UserError(files.config, f"{one_line(unknown[0], 80)}: not read", "a UNet2DModel is read")
    images = {**_size(files.config, unet), **_classes(files, unet, null_label)}
    network = {"class": DiffusersPrecond.__name__, "kwargs": {**images, **kwargs, **options}}
    return network, read_state(files.weights, "unet.")


def _size(path: Path, unet: Mapping[str, Any]) -> dict[str, Any]:
    """Size and channels of the images.

    Raises:
        UserError: They are not square, or the U-Net predicts further channels.
    """
    side = unet.get("sample_size")
    if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
        side = side[0]
    if not isinstance(side, int):
        raise UserError(
            path, f"sample_size: {json_line(side)}", "images are square: give the number of pixels of a side"
        )
    channels, outputs = unet.get("in_channels", 3), unet.get("out_channels", 3)
    if outputs != channels:
        fault = f"out_channels: {json_line(outputs)}, but in_channels is {json_line(channels)}"
        raise UserError(path, fault, "a U-Net that also predicts a variance is not read")
    return {"img_resolution": side, "img_channels": channels}


def _classes(files: DiffusersFiles, unet: Mapping[str, Any], null_label: bool) -> dict[str, Any]:
    """Number of classes, and whether the last row of their table stands for no class.

    Raises:
        UserError: Classes of a kind that is not read, or a label for no class where there are no classes.
    """
    classes, kind = unet.get("num_class_embeds") or 0, unet.get("class_embed_type")
    if not isinstance(classes, int):
        raise UserError(files.config, f"num_class_embeds: {json_line(classes)}", "give the number of classes")
    if kind not in (None, "timestep") or (kind and not classes):
        remedy = "null is read, and 'timestep' with num_class_embeds, the number of classes"
        raise UserError(files.config, f"class_embed_type: {json_line(kind)}", remedy)
    if null_label and not classes:
        raise UserError(files.where, "has no classes", "leave out --null-label")
    if null_label or (files.num_classes is not None and files.num_classes == classes - 1):
        return {"label_dim": classes - 1, "null_label": True}
    return {"label_dim": classes}
