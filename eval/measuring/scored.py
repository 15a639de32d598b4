"""Images that can be scored: files, a Python function, a network; and how each is drawn or read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sida.config.samplers import Sampler
from sida.eval.measuring.functions import callable_name
from sida.eval.measuring.images import names_function
from sida.sampling.job import LoadedGenerator


class NetworkFile(NamedTuple):
    """A network to score: its file and how images are drawn from it."""

    path: str
    sampler: Sampler = Sampler(kind="one_step")
    guide: str | None = None
    vae: str | None = None


#: Images to score: files, a function (or its name, ``module:function``), a network file, a loaded generator.
Scored = str | Path | Callable[..., Any] | NetworkFile | LoadedGenerator


def origin_of(images: Scored, allow_duplicates: bool) -> tuple[str, dict[str, Any]]:
    """Label of the images, and the fields of a :class:`MeasureSpec` for drawing or reading them."""
    if isinstance(images, LoadedGenerator):
        guide = None if images.guide is None else str(images.guide)
        label, fields = origin_of(NetworkFile(str(images.path), images.sampler, guide, images.vae), allow_duplicates)
        return label, fields | {"device": images.device}
    if isinstance(images, NetworkFile):
        path, sampler = Path(images.path), images.sampler
        # `sida export` writes the network into a folder `generator`.
        folder = path.parent.parent if path.parent.name == "generator" else path.parent
        label = folder.name if path.stem == "network" and folder.name else path.stem
        fields = {"method": "external", "sampler": sampler.explicit_settings(), "nfe": sampler.nfe}
        return label, fields | {"network": str(path), "guide": images.guide, "vae": images.vae}
    repeats = {"allow_duplicates": allow_duplicates}
    name = callable_name(images) if callable(images) else str(images)
    if callable(images) or names_function(name):
        sampler_spec = {"kind": "python", "callable": name, **repeats}
        return name.rpartition(":")[2], {"method": "external", "sampler": sampler_spec}
    return Path(name).name, {"method": "images", "sampler": {"kind": "images", "path": name, **repeats}}
