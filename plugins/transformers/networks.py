"""Transformers on patches as denoisers: SiT's and REPA's velocities, DiT's noise, with the official parameter names.

A token is a patch; blocks of attention and a perceptron are scaled, shifted and gated by the embedding of time and
class (adaLN-zero). The residual stream is float32, the blocks compute in the precision of the images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.config.families import Family
from sida.config.settings import Finite, Range
from sida.errors import SettingError
from sida.networks.body import (
    Block,
    Classes,
    Few,
    Init,
    Linear,
    Output,
    Share,
    Side,
    Size,
    attention,
    option_fields,
    without_content,
)
from sida.networks.precond import Precond, StateReading
from sida.plugins.transformers.families import DIT, FLOW
from sida.plugins.transformers.states import read_transformer
from sida.plugins.transformers.steps import BetweenSteps, NoiseSteps, linear_betas

Depth = Annotated[int, Range(least=1, most=256)]
Ratio = Annotated[float, Range(above=0, most=64)]
#: Form of a discriminator's logits, see `TransformerPrecond`.
Logits = Literal["maps", "tokens"]
_XAVIER, _ZERO = Init("xavier_uniform"), Init("xavier_uniform", weight=0.0)
_FREQUENCIES, _PERIOD = 256, 10_000


def small_normal(*shape: int) -> nn.Parameter:
    """Parameter of normal draws with a standard deviation of 0.02."""
    return nn.Parameter(torch.empty(shape) if without_content() else torch.randn(shape) * 0.02)


def position_table(width: int, side: int) -> Tensor:
    """Fixed positions of a square of patches, row by row: sines and cosines of the column, then of the row.

    Returns:
        float32 (1, side², width).
    """
    if without_content():
        return torch.empty(1, side**2, width)
    rates = _PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [positions.reshape(-1, 1) * rates for positions in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)[None].float()


class Stored(nn.Module):
    """Parameters under the name that the official networks give to a layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach())


class PatchEmbedding(nn.Module):
    """Tokens of patches: one linear map, which the official networks store as a convolution."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        weight, bias = _XAVIER.parameters((width, channels * patch**2))
        self.proj = Stored(weight.view(width, channels, patch, patch), bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to tokens (N, T, width)."""
        weight, bias = self.proj.weight.to(x.dtype), cast(Tensor, self.proj.bias).to(x.dtype)
        return F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Embedding of times: cosines and sines, and two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = Linear(_FREQUENCIES, width, _XAVIER), Linear(width, width, _XAVIER)
        for layer in layers:
            layer.weight = small_normal(*layer.weight.shape)
        self.mlp = nn.Sequential(layers[0], nn.SiLU(), layers[1])

    def forward(self, time: Tensor) -> Tensor:
        """Maps float32 (N,) to (N, width)."""
        half = _FREQUENCIES // 2
        rates = torch.exp(-math.log(_PERIOD) * torch.arange(half, dtype=torch.float32, device=time.device) / half)
        angles = time[:, None] * rates
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], 1))
        return embedded


class LabelEmbedding(nn.Module):
    """Embedding of classes, whose last row is that of no class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = Stored(small_normal(classes + 1, width))

    def forward(self, classes: Tensor) -> Tensor:
        """Maps int64 (N,) to (N, width)."""
        return F.embedding(classes, self.embedding_table.weight)


class Attention(nn.Module):
    """Attention of all tokens to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = Linear(width, 3 * width, _XAVIER), Linear(width, width, _XAVIER)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, width) to the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class Perceptron(nn.Module):
    """Two layers with a GELU, for each token."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, inner, _XAVIER), Linear(inner, width, _XAVIER)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, width) to the same."""
        mapped: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return mapped


def modulation(width: int, parts: int) -> nn.Sequential:
    """Layer that makes shifts, scales and gates of an embedding; it starts at zero."""
    return nn.Sequential(nn.SiLU(), Linear(width, parts * width, _ZERO))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation of tokens (N, T, width), with scale and shift (N or 1, 1, width)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class TransformerBlock(Block):
    """Residual attention and perceptron with adaLN-zero."""

    in_one_dtype = True

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Perceptron(width, int(width * mlp_ratio + 1e-6))
        self.adaLN_modulation = modulation(width, 6)

    def compute(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps float32 tokens (N, T, width); layers compute in the precision of ``emb`` (N or 1, width)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(emb)[:, None].chunk(6, 2)
        x = x + gate * self.attn(modulated(x, shift, scale).to(emb.dtype))
        return x + mlp_gate * self.mlp(modulated(x, mlp_shift, mlp_scale).to(emb.dtype))


class FinalLayer(nn.Module):
    """Last normalisation, and a linear map to the values of a patch; it starts at zero."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.linear, self.adaLN_modulation = Linear(width, values, _ZERO), modulation(width, 2)

    def normed(self, x: Tensor, emb: Tensor) -> Tensor:
        """Normalised tokens, float32 (N, T, width)."""
        shift, scale = self.adaLN_modulation(emb)[:, None].chunk(2, 2)
        return modulated(x, shift, scale)


class TransformerPrecond(Precond):
    """Base class of transformers on patches; subclasses say what the output means.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        patch_size: Side of a patch.
        hidden_size: Width of a token: a multiple of 4 and of ``num_heads``.
        depth: Number of blocks.
        num_heads: Heads of attention.
        mlp_ratio: Inner width of a perceptron in widths of a token.
        learn_sigma: Whether the output has a second half, as DiT's and SiT's published files have; a denoiser does not
            use it.
        label_dropout: Probability of dropping a label, only in the training of a teacher (`Precond.drops_labels`).
            No class, a row of zeros, always has an embedding of its own.
        logits: Discriminator's logits. ``maps``: the channel mean of the tokens after block ``encoder_depth`` (SiDA's
            rule), (N, 1, h, h). ``tokens``: the token mean of the last normalised tokens, (N, hidden_size, 1, 1), as
            in apple-aiml-research/ml-sid-dit; the encoder then is the network without its last layer.
        encoder_depth: Number of blocks before the logits; None is half of them.
        feature_blocks: Numbers of the blocks after which the tokens are maps (N, hidden_size, h, h) for heads of a
            discriminator; empty is only ``encoder_depth``.

    Raises:
        SettingError: Sizes do not fit each other, or a block does not exist.

    State-dict names equal those of willisma/SiT:models.py, facebookresearch/DiT:models.py and, without its alignment
    heads, sihyun-yu/REPA:models/sit.py. The positions, a fixed table, are a buffer with the values of the file.
    """

    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    label_dropout: float
    logits: Logits
    encoder_depth: int | None
    feature_blocks: tuple[int, ...]
    family: ClassVar[Family] = FLOW
    adjustable = frozenset({"logits", "encoder_depth", "feature_blocks"})
    landmarks: ClassVar[tuple[str, ...]] = ("x_embedder.proj.weight",)
    #: Values of arguments of a training that make the output another quantity, by name; in lower case.
    trained_as: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    state_check = "sida.plugins.transformers.readings:check_state"
    pos_embed: Tensor

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        patch_size: Side = 2,
        hidden_size: Size = 1152,
        depth: Depth = 28,
        num_heads: Few = 16,
        mlp_ratio: Ratio = 4.0,
        learn_sigma: bool = False,
        label_dropout: Share = 0.1,
        logits: Logits = "maps",
        encoder_depth: Depth | None = None,
        feature_blocks: tuple[Depth, ...] = (),
    ):
        super().__init__(locals(), TransformerPrecond)
        for name, value, divisor in (
            ("img_resolution", img_resolution, patch_size),
            ("hidden_size", hidden_size, num_heads),
            ("hidden_size", hidden_size, 4),
        ):
            if value % divisor:
                raise SettingError(name, f"{value} is not a multiple of {divisor}", f"use one of {divisor}")
        self.check_blocks()
        self.side = img_resolution // patch_size
        self.outputs = img_channels * (2 if learn_sigma else 1)
        self.x_embedder = PatchEmbedding(img_channels, hidden_size, patch_size)
        self.t_embedder, self.y_embedder = TimeEmbedding(hidden_size), LabelEmbedding(label_dim, hidden_size)
        self.register_buffer("pos_embed", position_table(hidden_size, self.side))
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.outputs)

    @classmethod
    def options_of(cls, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Precond.options_of`."""
        return option_fields(TransformerPrecond) | option_fields(cls)

    @classmethod
    def read_state(
        cls, shapes: Mapping[str, tuple[int, ...]], kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None
    ) -> StateReading:
        """See :func:`sida.plugins.transformers.states.read_transformer`."""
        return read_transformer(cls.__name__, cls.trained_as, shapes, kwargs, arguments)

    @property
    def encoder_blocks(self) -> int:
        """Number of blocks before the logits ``maps``."""
        return self.encoder_depth or (self.depth + 1) // 2

    def check_blocks(self) -> None:
        """Checks that the blocks at which a discriminator looks exist.

        Raises:
            SettingError: A block does not exist, or the order is another one.
        """
        if self.encoder_blocks > self.depth:
            raise SettingError("encoder_depth", f"{self.encoder_depth} of {self.depth} blocks", "take fewer")
        blocks = list(self.feature_blocks)
        if blocks != sorted({*blocks}) or (blocks and blocks[-1] > self.depth):
            fault = f"must be numbers from 1 to {self.depth} in ascending order, got {blocks}"
            raise SettingError("feature_blocks", fault)

    def embedding(self, noise_labels: Tensor) -> Tensor:
        """Maps times, float32 (N or 1,), to (N or 1, hidden_size)."""
        embedded: Tensor = self.t_embedder(noise_labels)
        return embedded

    def classes_of(self, class_labels: Tensor | None, samples: int) -> Tensor:
        """Rows of the label embedding, int64 (N or 1,); a row of zeros means no class."""
        if class_labels is None:
            return torch.zeros(1, dtype=torch.int64, device=self.pos_embed.device)
        classes = class_labels.argmax(1).where(class_labels.any(1), self.label_dim)
        if self.training and self.drops_labels and self.label_dropout:
            dropped = torch.rand(samples, device=classes.device) < self.label_dropout
            classes = torch.where(dropped, self.label_dim, classes)
        return classes

    def body(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
        return_flag: str,
        decode: int | None,
    ) -> Output:
        """See `Precond.body`; ``outputs`` is the raw image with the second half of a ``learn_sigma``."""
        emb = self.embedding(noise_labels) + self.y_embedder(self.classes_of(class_labels, len(x)))
        emb, tokens = emb.to(x.dtype), self.x_embedder(x).float() + self.pos_embed
        assert tokens.ndim == 3  # (N, h·w, hidden_size)
        if return_flag == "features":
            return self.features(tokens, emb)
        encoder = self.depth if self.logits == "tokens" else self.encoder_blocks
        for block in self.blocks[:encoder]:
            tokens = block(tokens, emb)
        logits = None
        if self.logits == "tokens":
            tokens = self.final_layer.normed(tokens, emb)
            logits = None if return_flag in ("decoder", "outputs") else tokens.mean(1)[:, :, None, None].float()
        elif return_flag not in ("decoder", "outputs"):
            logits = self.map_of(tokens.mean(2, keepdim=True).float())
        if return_flag == "encoder" and logits is not None:
            return logits
        tokens, emb = tokens[:decode], emb[:decode]
        if self.logits == "maps":
            for block in self.blocks[encoder:]:
                tokens = block(tokens, emb)
            tokens = self.final_layer.normed(tokens, emb)
        outputs = self.image(self.final_layer.linear(tokens.to(x.dtype)))
        image = outputs if return_flag == "outputs" else outputs[:, : self.img_channels]
        return image if logits is None else (image, logits)

    def features(self, tokens: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, hidden_size, h, h) after the chosen blocks."""
        numbers, maps = self.feature_blocks or (self.encoder_blocks,), []
        for number, block in enumerate(self.blocks[: numbers[-1]], start=1):
            tokens = block(tokens, emb)
            if number in numbers:
                maps.append(self.map_of(tokens))
        return tuple(maps)

    def map_of(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, channels) as a map (N, channels, h, h)."""
        return tokens.transpose(1, 2).unflatten(2, (self.side, self.side))

    def image(self, patches: Tensor) -> Tensor:
        """Image (N, outputs, H, W) of the values of its patches (N, T, values)."""
        side, patch = self.side, self.patch_size
        parts = patches.reshape(-1, side, side, patch, patch, self.outputs).permute(0, 5, 1, 3, 2, 4)
        return parts.reshape(-1, self.outputs, side * patch, side * patch)


#: Arguments of SiT's and REPA's trainings on straight paths.
_STRAIGHT = {"path_type": ("linear",), "prediction": ("v", "velocity")}


class SiTPrecond(TransformerPrecond):
    """SiT's velocity v = y − n on straight paths x_t = t y + (1 − t) n, at t = 1/(1 + σ): ``D = x_t + (1 − t) v``.

    Its time runs from noise (0) to data (1). A file does not say so: with the same names REPA's runs the other way.

    Options as `TransformerPrecond`.

    Source: SiT (arXiv:2401.08740); willisma/SiT:transport/path.py.
    """

    trained_as = _STRAIGHT

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        scale = 1 / (1 + sigma)
        return scale, sigma * scale, scale, scale


class REPAPrecond(TransformerPrecond):
    """REPA's velocity v = n − y on straight paths x_t = (1 − t) y + t n, at t = σ/(1 + σ): ``D = x_t − t v``.

    Its time runs from data (0) to noise (1). A file does not say so: with the same names SiT's runs the other way.

    Options as `TransformerPrecond`.

    Source: REPA (arXiv:2410.06940); sihyun-yu/REPA:loss.py.
    """

    trained_as = _STRAIGHT

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        scale = 1 / (1 + sigma)
        return scale, -sigma * scale, scale, sigma * scale


class DiTPrecond(TransformerPrecond):
    """DiT's noise ε on a diffusion of discrete steps, as a denoiser ``D = x − σ ε(x/√(1 + σ²); step of σ)``.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        learn_sigma: Whether the output has a second half, the variance of a step, which the sampler ``ddpm`` takes.
        num_steps: Number of steps.
        beta_start: β of step 0.
        beta_end: β of the last step.
        between_steps: Rule for levels between those of two steps: ``log-linear`` interpolates the step in ln σ,
            ``nearest`` takes the nearer step. Beyond the ends (0.01 and 157 for DiT) the step is that of the end.
        **options: Further options of `TransformerPrecond`.

    Source: DiT (arXiv:2212.09748); facebookresearch/DiT:diffusion/gaussian_diffusion.py.
    """

    family: ClassVar[Family] = DIT

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        learn_sigma: bool = True,
        num_steps: Size = 1000,
        beta_start: Finite = 1e-4,
        beta_end: Finite = 0.02,
        between_steps: BetweenSteps = "log-linear",
        **options: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, learn_sigma=learn_sigma, **options)
        self.record(DiTPrecond, locals())
        if not 0 < beta_start <= beta_end < 1:
            raise SettingError("beta_start, beta_end", f"must rise within 0 and 1, got {beta_start:g}, {beta_end:g}")
        self.steps = NoiseSteps(linear_betas(num_steps, beta_start, beta_end), between_steps)
        self.sigma_min, self.sigma_max = self.steps.sigma_min, self.steps.sigma_max
        if not math.isfinite(self.sigma_max):
            raise SettingError("beta_end", f"{beta_end:g} leaves nothing of the image at the last step", "lower it")

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return None, -sigma, (1 + sigma.square()).rsqrt(), self.steps(sigma)

    def at_step(self, x: Tensor, step: int, class_labels: Tensor | None = None) -> Tensor:
        """Predicted noise ε of ``x = √ᾱ y + √(1 − ᾱ) ε`` at a step, and after it the variance's share if it is learned.

        Args:
            x: (N, C, H, W).
            step: Number of the step; 0 has the least noise.
            class_labels: See `Precond.forward`.

        Returns:
            float32 (N, C, H, W), or (N, 2 C, H, W) with ``learn_sigma``.
        """
        level = torch.full((1,), float(step), dtype=torch.float32, device=x.device)
        return self.raw(x, level, class_labels, "outputs")
