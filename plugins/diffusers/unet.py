"""U-Nets of diffusers as denoisers: `UNet2DModel`, which predicts noise, velocity or image on a discrete schedule.

The package's own class computes; the levels of the schedule are those of its `DDPMScheduler`. A pass takes logits and
maps by hooks on the blocks, so that no line of the library's forward pass is repeated here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from sida.config.families import IMAGE_OPTIONS
from sida.config.settings import Finite, Range
from sida.errors import SettingError, reason_of
from sida.networks.body import Classes, Few, Output, Share, Side, Size
from sida.networks.precond import Precond
from sida.networks.saved_models import diffusers_library
from sida.plugins.diffusers.families import DIFFUSERS
from sida.plugins.transformers.steps import NoiseSteps

#: Largest number of steps of a schedule.
MOST_STEPS = 10_000
Steps = Annotated[int, Range(least=2, most=MOST_STEPS)]
Beta = Annotated[float, Range(above=0, most=1)]
DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]


class DiffusersPrecond(Precond):
    """A `UNet2DModel` with the schedule of its training as a denoiser of images in [-1, 1].

    On a step with the cumulative product ᾱ, σ² = (1 − ᾱ)/ᾱ and the library's noisy image is x/√(1 + σ²). The step of a
    level between two steps is a fraction, linear in ln σ. Levels outside the schedule have its first or last step.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`. With ``use_fp16`` layers run under autocast.
        null_label: Whether the table of classes has a further, last row for no class, which a row of zeros takes.
            Without it such a row adds nothing to the embedding of the step.
        prediction_type: Output of the U-Net: the noise ε, the velocity ε/√(1 + σ²) − σ·image/√(1 + σ²), or the image.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: The schedule,
            as in the file of a scheduler. A last step without signal (β = 1), whose σ is infinite, is left out.
        class_embed_type: None: a table of classes; ``timestep``: the class's number, embedded like a step. A row of
            zeros adds nothing, as in a table without ``null_label``.
        time_embedding_dim, center_input_sample, freq_shift, flip_sin_to_cos, down_block_types, up_block_types,
            block_out_channels, layers_per_block, mid_block_scale_factor, downsample_padding, downsample_type,
            upsample_type, dropout, act_fn, attention_head_dim, norm_num_groups, attn_norm_num_groups, norm_eps,
            resnet_time_scale_shift, add_attention: Options of `UNet2DModel`, with its defaults.

    Raises:
        SettingError: Options contradict each other. Their ranges are checked by `checked_network`.
        UserError: The package diffusers is not installed.

    Logits are the channel mean of the middle block's output, the encoder's last activation.

    State-dict names are those of ``huggingface/diffusers:src/diffusers/models/unets/unet_2d.py`` behind ``unet.``.
    """

    unet: Any
    family = DIFFUSERS
    long_options = {"trained_betas": MOST_STEPS}
    prediction_type: str

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        null_label: bool = False,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        num_train_timesteps: Steps = 1000,
        beta_start: Beta = 1e-4,
        beta_end: Beta = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear",
        trained_betas: tuple[Beta, ...] | None = None,
        rescale_betas_zero_snr: bool = False,
        class_embed_type: Literal["timestep"] | None = None,
        time_embedding_dim: Size | None = None,
        center_input_sample: bool = False,
        freq_shift: Annotated[int, Range(least=0, most=64)] = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", *3 * ("AttnDownBlock2D",)),
        up_block_types: tuple[UpBlock, ...] = (*3 * ("AttnUpBlock2D",), "UpBlock2D"),
        block_out_channels: tuple[Size, ...] = (224, 448, 672, 896),
        layers_per_block: Few = 2,
        mid_block_scale_factor: Finite = 1.0,
        downsample_padding: Annotated[int, Range(least=0, most=1)] = 1,
        downsample_type: Literal["conv", "resnet"] = "conv",
        upsample_type: Literal["conv", "resnet"] = "conv",
        dropout: Share = 0.0,
        act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu",
        attention_head_dim: Size | None = 8,
        norm_num_groups: Size = 32,
        attn_norm_num_groups: Size | None = None,
        norm_eps: Annotated[float, Range(above=0, most=1)] = 1e-5,
        resnet_time_scale_shift: Literal["default", "scale_shift"] = "default",
        add_attention: bool = True,
    ):
        super().__init__(locals())
        if label_dim == 0 and (null_label or class_embed_type):
            raise SettingError("label_dim", "no class, but null_label or class_embed_type", "set the number of classes")
        if null_label and class_embed_type:
            raise SettingError("null_label", "a class that is embedded by its number has no row for none", "remove it")
        lengths = [len(down_block_types), len(up_block_types), len(block_out_channels)]
        if not block_out_channels or len({*lengths}) > 1:
            fault = "the blocks down and up and their channels have {}, {} and {} entries".format(*lengths)
            raise SettingError("block_out_channels", fault, "give each block its entry in all three")
        halvings = len(block_out_channels) - 1
        if img_resolution % 2**halvings:
            fault = f"{img_resolution} cannot be halved {halvings} times"
            raise SettingError("img_resolution", fault, f"use a multiple of {2**halvings}")
        self.unet = make_unet(self)
        if label_dim and class_embed_type is None:
            self.unet.class_embedding = ClassTable(
                label_dim, null_label, self.unet.time_embedding.linear_2.out_features
            )
        self.steps = NoiseSteps(schedule_betas(self))
        self.sigma_min, self.sigma_max = self.steps.sigma_min, self.steps.sigma_max

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        c_in = (sigma.square() + 1).rsqrt()
        c_skip, c_out = {
            "epsilon": (None, -sigma),
            "v_prediction": (c_in.square(), -sigma * c_in),
            "sample": (torch.zeros_like(sigma), torch.ones_like(sigma)),
        }[self.prediction_type]
        return c_skip, c_out, c_in, self.steps(sigma)

    def body(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
        return_flag: str,
        decode: int | None,
    ) -> Output:
        """See `Precond.body`."""
        rows = classes = None if class_labels is None else class_labels.expand(len(x), -1)
        if rows is not None and not isinstance(self.unet.class_embedding, ClassTable):
            classes = rows.argmax(1)
        half = x.dtype != torch.float32
        precision = torch.autocast(x.device.type, x.dtype) if half else contextlib.nullcontext()
        with _hooked(self.unet, return_flag, decode, rows) as maps, precision, contextlib.suppress(_Stop):
            image = self.unet(x, noise_labels, class_labels=classes, return_dict=False)[0]
        if return_flag == "decoder":
            return cast(Tensor, image)
        if return_flag == "features":
            return tuple({tensor.shape[-1]: tensor for tensor in maps}.values())
        logits = maps[-1].mean(1, keepdim=True, dtype=torch.float32)
        return logits if return_flag == "encoder" else (image, logits)

    def use_checkpointing(self) -> bool:
        """See `Precond.use_checkpointing`."""
        self.unet.enable_gradient_checkpointing()
        return True


class ClassTable(nn.Module):
    """Table of class embeddings that takes one-hot rows.

    Args:
        label_dim: Number of classes.
        null_label: Whether a further row stands for no class, for rows of zeros.
        width: Width of an embedding.
    """

    def __init__(self, label_dim: int, null_label: bool, width: int) -> None:
        super().__init__()
        self.null_label = null_label
        self.weight = nn.Parameter(torch.randn(label_dim + null_label, width))

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings (N, width) of rows (N, label_dim)."""
        if self.null_label:
            rows = torch.cat([rows, 1 - rows.sum(1, keepdim=True)], 1)
        return rows @ self.weight


#: Options of a scheduler.
SCHEDULE = (
    *("prediction_type", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    "rescale_betas_zero_snr",
)
#: Options of `UNet2DModel`, with its defaults.
UNET_OPTIONS = {
    name: field[2]
    for name, field in DiffusersPrecond.options_of({}).items()
    if len(field) > 2 and name not in (*SCHEDULE, *IMAGE_OPTIONS, "use_fp16", "null_label")
}


def unet_options(net: DiffusersPrecond) -> dict[str, Any]:
    """Options of a network's `UNet2DModel`, those that have the library's default left out."""
    kwargs, plain = net.init_config["kwargs"], lambda value: list(value) if isinstance(value, tuple) else value
    options = {name: kwargs[name] for name, value in UNET_OPTIONS.items() if kwargs[name] != plain(value)}
    options |= {"sample_size": net.img_resolution, "in_channels": net.img_channels, "out_channels": net.img_channels}
    return options | ({"num_class_embeds": net.label_dim + kwargs["null_label"]} if net.label_dim else {})


def make_unet(net: DiffusersPrecond) -> Any:
    """The library's `UNet2DModel` of a network, with fresh weights.

    Raises:
        UserError: The package is not installed.
        SettingError: The options contradict each other.
    """
    library = diffusers_library(DiffusersPrecond.__name__)
    try:
        return library.UNet2DModel(**unet_options(net))
    except ValueError as error:  # such as channels that are no multiple of the groups
        fault = f"the options of UNet2DModel contradict each other ({reason_of(error)})"
        raise SettingError("block_out_channels", fault, "compare it with the config.json of the U-Net") from None


def make_scheduler(net: DiffusersPrecond) -> Any:
    """The library's `DDPMScheduler` of a network.

    Raises:
        UserError: The package is not installed.
    """
    kwargs = net.init_config["kwargs"]
    library = diffusers_library(DiffusersPrecond.__name__)
    return library.DDPMScheduler(**{name: kwargs[name] for name in SCHEDULE if kwargs[name] is not None})


def schedule_betas(net: DiffusersPrecond) -> Tensor:
    """β of the steps with a signal, float64 ``(steps,)``.

    Raises:
        SettingError: A step before the last one has β = 1, or fewer than two steps have a signal.
    """
    with torch.device("cpu"):
        betas: Tensor = make_scheduler(net).betas.double()
    if (betas[:-1] >= 1).any():
        key = "beta_start" if net.init_config["kwargs"]["trained_betas"] is None else "trained_betas"
        fault = f"β of step {int((betas >= 1).nonzero()[0])} is 1, so no later step has a signal"
        raise SettingError(key, fault, "only the last β may be 1")
    betas = betas[betas < 1]
    if len(betas) < 2:
        raise SettingError("num_train_timesteps", f"{len(betas)} steps have a signal", "at least two are needed")
    return betas


class _Stop(Exception):  # noqa: N818 - ends a pass, and is not an error
    """The rest of a pass is not wanted."""


@contextlib.contextmanager
def _hooked(unet: Any, return_flag: str, decode: int | None, rows: Tensor | None) -> Iterator[list[Tensor]]:
    """Lets a pass collect the encoder's maps, end behind the encoder, or go on with leading samples only.

    Rows of zeros add nothing to the embedding of the step where the class's number, which they have not, is embedded.

    Yields:
        The list in which the maps appear: those of all blocks for ``features``, and that of the middle block.
    """
    maps: list[Tensor] = []
    handles = []

    def after_class(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        assert rows is not None
        return torch.where(rows.any(1, keepdim=True), output, 0)

    def after_down(module: nn.Module, args: Any, output: Any) -> None:
        maps.extend(output[1])

    def after_middle(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        maps.append(output)
        if return_flag in ("encoder", "features"):
            raise _Stop
        return output[:decode]

    def before_up(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _leading(args, decode), {name: _leading(value, decode) for name, value in kwargs.items()}

    if rows is not None and not isinstance(unet.class_embedding, ClassTable):
        handles.append(unet.class_embedding.register_forward_hook(after_class))
    if return_flag == "features":
        handles += [block.register_forward_hook(after_down) for block in unet.down_blocks]
    if return_flag != "decoder":
        handles.append(unet.mid_block.register_forward_hook(after_middle))
    if decode is not None:
        handles += [block.register_forward_pre_hook(before_up, with_kwargs=True) for block in unet.up_blocks]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _leading(value: Any, count: int | None) -> Any:
    """The leading samples of all tensors in a value."""
    if isinstance(value, tuple):
        return tuple(_leading(one, count) for one in value)
    return value[:count] if isinstance(value, Tensor) else value
