"""The base class of all networks, which are denoisers D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sida.config.families import CUSTOM, Family
from sida.config.registries import PACKAGE
from sida.errors import UserError
from sida.networks.body import Output, blocks_of, check_flags, option_fields, plain, plain_options


class StateReading(NamedTuple):
    """How the state dict of another program becomes a network.

    Attributes:
        kwargs: Constructor arguments.
        names: Name in the file of each tensor by its name in the network.
        left_out: Words for tensors of the file that the network does not need; empty if there are none.
        zero_rows: Number of rows of zeros by which the network's tensors are longer than the file's, by name.
        remarks: Words for arguments that neither the file nor the user gave, or that differ between the two.
    """

    kwargs: dict[str, Any]
    names: dict[str, str]
    left_out: str = ""
    zero_rows: Mapping[str, int] = {}
    remarks: tuple[str, ...] = ()


class Precond(nn.Module):
    """Base class of denoisers with any body F.

    A subclass has a constructor with annotated parameters, the coefficients and the body, and says what differs from
    the defaults here. Its code reads no values of tensors, so that plans can count its operations without computing.

    Args:
        options: The ``locals()`` of the subclass's constructor: its named parameters become attributes. Four of them
            are ``img_resolution``, ``img_channels``, ``label_dim`` and ``use_fp16``.
        constructor: Class whose constructor has these parameters; None is the class of the network.

    Attributes:
        img_resolution: Side of the square images in pixels.
        img_channels: Channels of the images.
        label_dim: Number of classes; 0 = unconditional.
        use_fp16: Whether the body computes in half precision on CUDA; parameters, input and output stay float32.
        augment_dim: Width of the augmentation labels; 0 = none, and given labels are ignored.
        drops_labels: Whether a body with label dropout of its own drops labels in training mode. Only the training of
            a teacher sets it: copies in a distillation never drop labels.
        sigma_min: Lowest noise level for samplers.
        sigma_max: Highest noise level for samplers.
        sigma_data: Standard deviation of the data, for the coefficients of EDM.
        init_config: ``{"class", "kwargs"}`` from which `build_network` builds the same architecture.
        family: Family, with the defaults of methods and samplers.
        fused: Whether kernels of U-Nets (:mod:`sida.config.kernels`) compute the body.
        adjustable: Options that no parameter depends on; a recipe changes them (``network_options``).
        landmarks: Names of tensors of which one marks the network in a state dict, from which :meth:`read_state`
            completes the constructor arguments; the first that is there counts. Empty: the arguments are given.
        state_check: ``module:object``, which refuses a state dict that fits and from which the class makes no denoiser:
            called with the file's path, ``{class, kwargs}``, the state dict, the arguments that the user names, and an
            opened data set of images as those of its training or None. Empty: the names of the tensors say all.
        long_options: Largest lengths of options that may be longer lists than the shape of a network needs.
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    use_fp16: bool
    _half_dtype: torch.dtype = torch.float16
    augment_dim: int = 0
    drops_labels: bool = False
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    sigma_data: float
    init_config: dict[str, Any]
    family: ClassVar[Family] = CUSTOM
    fused: ClassVar[bool] = False
    adjustable: ClassVar[frozenset[str]] = frozenset()
    landmarks: ClassVar[tuple[str, ...]] = ()
    state_check: ClassVar[str] = ""
    long_options: ClassVar[Mapping[str, int]] = {}

    def __init__(self, options: Mapping[str, Any], constructor: type | None = None):
        super().__init__()
        self.init_config = {"class": class_name(type(self)), "kwargs": {}}
        self.record(constructor or type(self), options)

    def record(self, constructor: type, options: Mapping[str, Any]) -> None:
        """Records the parameters of a constructor in `init_config`, and makes them attributes; see the class."""
        own = plain_options(constructor, options)
        self.init_config["kwargs"] |= own
        for name in own:
            setattr(self, name, options[name])

    @property
    def half_dtype(self) -> torch.dtype:
        """Type of half precision: float16 or bfloat16; can be set at any time.

        `init_config`, and so the network's files, record a type other than the class's, which is mostly float16.
        """
        return self._half_dtype

    @half_dtype.setter
    def half_dtype(self, dtype: torch.dtype) -> None:
        self._half_dtype = dtype
        self.init_config["kwargs"].pop("half_dtype", None)
        if dtype != type(self)._half_dtype:
            self.init_config["kwargs"]["half_dtype"] = str(dtype).removeprefix("torch.")

    def adjust(self, options: Mapping[str, Any]) -> None:
        """Changes adjustable options, which :func:`sida.networks.file.adjusted` has checked."""
        self.init_config["kwargs"] |= {name: plain(value) for name, value in options.items()}
        for name, value in options.items():
            setattr(self, name, value)

    @classmethod
    def family_of(cls, kwargs: Mapping[str, Any]) -> Family:
        """Family of the network with these constructor arguments."""
        return cls.family

    @classmethod
    def options_of(cls, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Options that the constructor takes together with ``kwargs``, as fields of a dataclass by name.

        Annotated types are the schema, against which files of strangers are checked before the network is built.
        """
        return option_fields(cls)

    @classmethod
    def read_state(
        cls, shapes: Mapping[str, tuple[int, ...]], kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None
    ) -> StateReading:
        """How the state dict of another program becomes a network of this class.

        Args:
            shapes: Shapes of the tensors by the names of the file, without a prefix before the landmark.
            kwargs: Constructor arguments that the user names.
            arguments: Arguments of the training that the file has beside the weights; None without an entry of them.

        Raises:
            SettingError: An argument is neither in the file nor named, or the file's arguments are of another network.
        """
        return StateReading(dict(kwargs), {name: name for name in shapes})

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """Returns c_skip, c_out, c_in and c_noise for float32 ``sigma`` (N or 1, 1, 1, 1); None means 1."""
        raise NotImplementedError

    def body(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
        return_flag: str,
        decode: int | None,
    ) -> Output:
        """Evaluates F.

        Args:
            x: Images c_in·x, (N, C, H, W), in half precision or float32; the body computes in this precision.
            noise_labels: c_noise, float32 (N or 1,).
            class_labels: float32 one-hot rows (N or 1, label_dim); a row of zeros means no class. None: unconditional.
            augment_labels: float32 (N or 1, augment_dim), or None.
            return_flag: See :meth:`forward`; all four are computed, ``encoder`` and ``features`` without the decoder.
            decode: See :meth:`forward`.

        Returns:
            Raw image (M, C, H, W), float32 logits (N, c, h, w), the pair of them, or for ``features`` a tuple of maps
            (N, C', h, h), of which the last is the encoder's last.
        """
        raise NotImplementedError

    def use_checkpointing(self) -> bool:
        """Turns on gradient checkpointing, see :func:`checkpoint_blocks`; returns whether the network has it.

        By default all :class:`~sida.networks.body.Block` of the network have it.
        """
        blocks = blocks_of(self)
        for block in blocks:
            block.checkpointed = True
        return bool(blocks)

    def evaluation_copy(self) -> Precond:
        """A network for sampling, whose weights do not change in evaluation; by default the network itself."""
        return self

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        return_flag: str = "decoder",
        return_logvar: bool = False,
        decode: int | None = None,
    ) -> Any:
        """Returns denoised images, discriminator logits, or both.

        Args:
            x: Noisy images, (N, C, H, W); computed in float32.
            sigma: Noise levels: a number, (N,), (N, 1, 1, 1) or one value for the batch.
            class_labels: One-hot rows (N, label_dim); one row is shared by the batch; None = a row of zeros.
            augment_labels: (N, augment_dim), or None; ignored by a network without augmentation layer.
            return_flag: ``decoder`` (default): D(x; σ). ``encoder``: discriminator logits only, without running the
                decoder. ``encoder_decoder``: both from one pass. ``features``: maps of the encoder, without running
                the decoder; see :meth:`body`.
            return_logvar: Whether to return the log-variance of the loss, too; only EDM2 networks have it.
            decode: With ``encoder_decoder``: denoise only this many leading samples; the logits still cover the whole
                batch. This is exact, because no layer mixes samples: one pass over fake and real images gives a
                denoising loss on the fakes and a discriminator loss on both. (In training mode dropout masks are drawn
                for the whole batch, so they differ from two passes.)

        Returns:
            float32 image (M, C, H, W), logits (N, c, h, w), or ``(image, logits)``; with ``return_logvar`` the
            log-variance (N or 1, 1, 1, 1) is appended.

        Raises:
            ValueError: Shapes do not fit the network, an unconditional network gets class labels, the flag is unknown
                or ``decode`` does not fit it, or the network has no log-variance head.
        """
        check_flags(return_flag, decode, len(x))
        sigma, class_labels = self._check(x, sigma, class_labels, augment_labels)
        x, (c_skip, c_out, c_in, c_noise) = x.float(), self.coefficients(sigma)
        half = self.use_fp16 and x.is_cuda
        scaled = (x if c_in is None else c_in * x).to(self.half_dtype if half else torch.float32)
        if augment_labels is not None:
            augment_labels = augment_labels.float()
        output: Any = self.body(scaled, c_noise.flatten(), class_labels, augment_labels, return_flag, decode)
        if return_flag in ("decoder", "encoder_decoder"):
            raw, *logits = output if isinstance(output, tuple) else (output,)
            if decode is not None:
                x, c_out = x[:decode], c_out[:decode]
                c_skip = None if c_skip is None else c_skip[:decode]
            image = torch.addcmul(x if c_skip is None else c_skip * x, c_out, raw.float())
            output = (image, *logits) if logits else image
        if not return_logvar:
            return output
        logvar = self.logvar(c_noise)
        return (*output, logvar) if isinstance(output, tuple) else (output, logvar)

    @functools.cached_property
    def noise_limit(self) -> tuple[float, float, float] | None:
        """Limits of c_skip·σ, c_out and c_noise for σ → ∞ where c_in·σ tends to 1, as a flow's do; None without limits.

        The denoised image of noise z at σ = ∞ is then ``(c_skip·σ) z + c_out F(z; c_noise)``.
        """
        device = next(iter(self.parameters())).device
        far = torch.tensor([2.0**40, 2.0**50], dtype=torch.float64, device=device).reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = self.coefficients(far)
        if c_skip is None or c_in is None:
            return None
        limits = torch.stack([value.double().flatten().cpu() for value in (c_in * far, c_skip * far, c_out, c_noise)])
        if not torch.allclose(limits[:, 0], limits[:, 1], rtol=0, atol=1e-9) or abs(float(limits[0, 1]) - 1) > 1e-9:
            return None
        skip, out, noise = (round(value, 9) for value in limits[1:, 1].tolist())
        return skip, out, noise

    def from_noise(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoised image of pure noise, D(σz; σ) for σ → ∞, float32 (N, C, H, W).

        Args:
            z: Unit normal noise (N, C, H, W).
            class_labels: See :meth:`forward`.

        Raises:
            UserError: The network has no such level.
        """
        limit = self.noise_limit
        if limit is None:
            raise no_noise_level(self)
        c_skip, c_out, c_noise = limit
        level = torch.full((1,), c_noise, dtype=torch.float32, device=z.device)
        return c_skip * z.float() + c_out * self.raw(z, level, class_labels)

    @functools.cached_property
    def is_flow(self) -> bool:
        """Whether F is the velocity of straight paths, as SiT's and REPA's, in either direction of time."""
        limit = self.noise_limit
        if limit is None or limit[0] != 1 or abs(limit[1]) != 1:
            return False
        sigma = torch.tensor([0.25, 4.0], dtype=torch.float64, device=next(iter(self.parameters())).device)
        c_skip, c_out, c_in, _ = self.coefficients(sigma.reshape(-1, 1, 1, 1))
        scale = (1 / (1 + sigma)).reshape(-1, 1, 1, 1)
        pairs = ((c_skip, scale), (c_in, scale), (c_out, limit[1] * (1 - scale)))
        return all(actual is not None and torch.allclose(actual.double(), expected) for actual, expected in pairs)

    def velocity(self, x: Tensor, time: float, class_labels: Tensor | None = None) -> Tensor:
        """Velocity n − y of a straight path x = (1 − t) y + t n from an image y to noise n, float32 (N, C, H, W).

        Args:
            x: Points (N, C, H, W) of the paths.
            time: t in [0, 1].
            class_labels: See :meth:`forward`.

        Raises:
            UserError: The network has no velocity.
        """
        limit = self.noise_limit
        if limit is None or not self.is_flow:
            raise UserError("sampler", f"'flow' needs a network of velocities, not {type(self).__name__}", "use heun")
        level = torch.full((1,), limit[2], dtype=torch.float32, device=x.device)
        if time < 1:
            sigma = torch.full((1, 1, 1, 1), time / (1 - time), dtype=torch.float32, device=x.device)
            level = self.coefficients(sigma)[3].flatten()
        return -limit[1] * self.raw(x, level, class_labels)

    def raw(
        self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, return_flag: str = "decoder"
    ) -> Tensor:
        """F(x; c_noise), computed in the precision of :meth:`forward`, float32 (N, C, H, W).

        Args:
            x: Scaled images c_in·x, (N, C, H, W).
            c_noise: float32 (1,).
            class_labels: See :meth:`forward`.
            return_flag: ``decoder``, or a word of the subclass's body.
        """
        _, class_labels = self._check(x, 1.0, class_labels, None)
        half = self.use_fp16 and x.is_cuda
        scaled = x.to(self.half_dtype if half else torch.float32)
        output: Any = self.body(scaled, c_noise, class_labels, None, return_flag, None)
        raw: Tensor = output.float()
        return raw

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Log-variance of the loss at encoded noise levels, float32 (N or 1, 1, 1, 1).

        Raises:
            ValueError: The network has no log-variance head.
        """
        raise ValueError(f"{type(self).__name__} has no log-variance output; use return_logvar=False")

    def _check(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Checks shapes; returns σ as (N or 1, 1, 1, 1) and the labels in float32."""
        n, shape = x.shape[0], (self.img_channels, self.img_resolution, self.img_resolution)
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(f"images must have shape (N, {shape[0]}, {shape[1]}, {shape[2]}), got {tuple(x.shape)}")
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        if sigma.shape[0] not in (1, n):
            raise ValueError(f"sigma must have one value or one per image ({n}), got {sigma.shape[0]}")
        if self.augment_dim and augment_labels is not None:
            _check_rows("augment_labels", augment_labels, n, self.augment_dim)
        if self.label_dim == 0:
            if class_labels is not None and class_labels.numel():
                raise ValueError(f"class_labels of shape {tuple(class_labels.shape)} given to an unconditional network")
            return sigma, None
        if class_labels is None:
            return sigma, torch.zeros([1, self.label_dim], device=x.device)
        _check_rows("class_labels", class_labels, n, self.label_dim)
        return sigma, class_labels.float()


def no_noise_level(net: nn.Module, where: str = "init_sigma") -> UserError:
    """The error of a network without a level of pure noise."""
    fault = f"'infinite' is a level of flows, and {type(net).__name__} has no image of pure noise"
    return UserError(where, fault, "give a number, such as 80")


def _check_rows(name: str, labels: Tensor, rows: int, width: int) -> None:
    if labels.ndim != 2 or labels.shape[1] != width or labels.shape[0] not in (1, rows):
        raise ValueError(f"{name} must have shape ({rows}, {width}), got {tuple(labels.shape)}")


def checkpoint_blocks(net: nn.Module, where: str) -> None:
    """Turns on gradient checkpointing: blocks keep only their inputs between forward and backward pass.

    Memory falls to about that of one block and the maps between blocks; a step with gradients takes about a third
    longer. Results are bit-identical, since dropout repeats its draws.

    Args:
        net: Network, changed in place without changing its state dict.
        where: Place named in errors.

    Raises:
        UserError: The network has no blocks of this package.
    """
    if not (isinstance(net, Precond) and net.use_checkpointing()):
        raise UserError(where, f"{type(net).__name__} has no blocks to which it could be applied", "turn it off")


def store_half(net: nn.Module) -> None:
    """Stores the parameters of blocks that say so (`Block.in_one_dtype`) in half precision, if a GPU computes in it.

    Passes then do not convert the parameters again, and results are bit-identical.

    Args:
        net: Network that is not trained any more, changed in place.
    """
    for part in parts_in_half(net):
        for block in blocks_of(part):
            for parameter in block.parameters() if block.in_one_dtype else ():
                parameter.data = parameter.data.to(part.half_dtype)


def parts_in_half(net: nn.Module) -> list[Precond]:
    """Networks in a network, itself included, that compute in half precision on a GPU."""
    preconds = [part for part in net.modules() if isinstance(part, Precond)]
    return [precond for precond in preconds if precond.use_fp16 and next(precond.parameters()).is_cuda]


def class_name(cls: type) -> str:
    """Name of a class for :func:`sida.networks.build_network`; ``module:object`` for a custom class."""
    ours = cls.__module__.startswith(("sida.networks.", f"{PACKAGE}."))
    return cls.__name__ if ours else f"{cls.__module__}:{cls.__qualname__}"
