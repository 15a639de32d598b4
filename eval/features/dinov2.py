"""DINOv2 ViT-L/14 for FD-DINOv2: the normalised class token, 1024 features.

Images are resized to 224×224 by antialiased bicubic interpolation in float, divided by 255 and normalised with
ImageNet's mean and std (NVlabs/edm2:calculate_metrics.py).

The network's code comes from a registered archive of one commit, which has a ``hubconf.py``. GitHub makes the archive
anew for each download, so its bytes have no registered hash; the hashes of its Python files have one.
"""

from pathlib import Path, PurePosixPath

import torch

from sida.assets.cache import fetch
from sida.assets.registry import find_asset, load_registry
from sida.config.lookup import check_code_path
from sida.data.archive import Files
from sida.errors import UserError, reason_of
from sida.eval.features.base import Extractor, as_rgb
from sida.eval.features.digits import weights_digest
from sida.eval.features.pixels import resized
from sida.eval.features.registry import EXTRACTORS
from sida.files.atomic import atomic_path, sha256_file, sha256_json
from sida.files.state_dicts import read_state_dict
from sida.files.tensors import read_errors

#: Largest number of Python files in an archive, and of their bytes; DINOv2 has about a hundred files, 0.7 MB.
_FILES, _BYTES = 2_000, 16_000_000


def load_hub_model() -> tuple[torch.nn.Module, str]:
    """Loads the network of the registered archive with the registered weights, and digests the archive's Python files.

    Code whose hash is not registered needs the user's permission.

    Raises:
        UserError: The code is not permitted, or code or weights cannot be loaded.
    """
    archive, weights = fetch(_CODE), fetch(_WEIGHTS)
    folder = unpack_code(archive)
    files = {file.relative_to(folder).as_posix(): sha256_file(file) for file in folder.rglob("*.py")}
    code = sha256_json({name: digest for name, digest in files.items() if _is_used(PurePosixPath(name))})
    if code != CODE_SHA256 and not find_asset(load_registry(), _CODE).sha256:
        check_code_path(archive, f"code whose Python files have the digest {code}, not the registered {CODE_SHA256}")
    try:
        net: torch.nn.Module = torch.hub.load(str(folder), MODEL, source="local", verbose=False, pretrained=False)
    except Exception as error:  # the repository's code may raise anything
        raise UserError(folder, f"cannot load '{MODEL}' ({reason_of(error)})", "fetch the archive again") from None
    with read_errors(weights, f"does not hold the weights of '{MODEL}'", "fetch it again"):
        net.load_state_dict(read_state_dict(weights))
    return net, code


def unpack_code(archive: Path) -> Path:
    """Writes the Python files of a GitHub archive into a folder beside it, where they are missing or differ.

    Raises:
        UserError: The file is not such an archive, or is too large.
    """
    folder = archive.with_suffix("")
    files = Files(archive)
    # GitHub puts all files into a folder, which is left out here.
    indices = {PurePosixPath(*PurePosixPath(name).parts[1:]): index for index, name in enumerate(files.names)}
    members = {name: index for name, index in indices.items() if _is_used(name)}
    if PurePosixPath("hubconf.py") not in members or any(".." in name.parts for name in members):
        raise UserError(archive, "is not an archive of a repository with hubconf.py", "fetch it again")
    contents: dict[Path, bytes] = {}
    for name, content in zip(members, files.read([*members.values()])):
        contents[folder / name] = content
        if len(contents) > _FILES or sum(map(len, contents.values())) > _BYTES:
            raise UserError(archive, f"holds more than {_FILES:,} Python files or {_BYTES:,} bytes of them")
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    return folder


def _is_used(name: PurePosixPath) -> bool:
    """Whether a file is ``hubconf.py`` or in a package; other files, such as ``setup.py``, are not needed."""
    return name.suffix == ".py" and (len(name.parts) > 1 or name.name == "hubconf.py")


MODEL = "dinov2_vitl14"
_WEIGHTS, _CODE = EXTRACTORS["dinov2"].assets
#: Digest of the SHA-256 of the 132 used Python files of the registered commit, by their paths
#: (facebookresearch/dinov2, commit e1277af2, git tree 546d021f).
CODE_SHA256 = "56c8b2765bbd158503e98fe100337ab30b28534338e3e85ac6f494ea2f15cecd"
_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2Extractor(Extractor):
    """The detector of FD-DINOv2.

    Args:
        device: Torch device of the network.

    Raises:
        UserError: Code or weights that cannot be loaded.
    """

    name = "dinov2"
    resize = "torch bicubic, antialiased, float"
    at_once = 16

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        net, code = load_hub_model()
        self._net = net.to(self.device).eval().requires_grad_(False)
        # Two files with equal tensors may differ in bytes, so the digest is of the tensors.
        self.sha256 = sha256_json([weights_digest(self._net.state_dict()), self.resize, code])
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        with torch.inference_mode():
            probe = torch.zeros(1, 3, _SIZE, _SIZE, dtype=torch.uint8, device=self.device)
            self.num_features = self._forward(probe, logits=False)[0].shape[1]

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        inputs = self._resize(as_rgb(images, self.name)).to(self.device, torch.float32)
        assert inputs.shape == (len(images), 3, _SIZE, _SIZE)
        features: torch.Tensor = self._net((inputs / 255 - self._mean) / self._std)
        return features.to(torch.float32), None

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(
            images.to(torch.float32), size=(_SIZE, _SIZE), mode="bicubic", antialias=True
        )


class DinoV2PillowExtractor(DinoV2Extractor):
    """DINOv2 after Pillow's resize, rounded to bytes (as dgm-eval); its numbers differ, so it has another name."""

    name = "dinov2_pil"
    resize = "Pillow bicubic, uint8"
    gradient = False

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return resized(images, _SIZE, rounded=True)
