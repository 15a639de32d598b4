"""Networks to sample from (files, pickles, registered ids), their evaluation copies, and the decoder of latents."""

from __future__ import annotations

from pathlib import Path

import torch

from sida.config.families import SD_VAE
from sida.data.latents import LatentDecoder, load_vae
from sida.errors import UserError, suggestion
from sida.files.archives import FolderFiles
from sida.networks.precond import Precond


def evaluation_copy(net: torch.nn.Module) -> torch.nn.Module:
    """``net``, or a copy where evaluating it would rewrite its weights, so that a seed's image has no history.

    See :meth:`sida.networks.EDM2Precond.evaluation_copy`; modules that are not ours are taken as they are.
    """
    return net.evaluation_copy() if isinstance(net, Precond) else net


def network_file(source: str) -> Path:
    """Path of a safetensors file for ``source``.

    Args:
        source: A ``.safetensors`` file; a published ``.pkl``; or an id of ``config/assets.tsv``, which is fetched.
            Pickles are converted (never executed) once, into the cache, under the digest of their bytes and, where the
            registry names one, the network class: equal bytes may be read as EDM's or as GDD's.

    Raises:
        UserError: Neither a file nor a known id, or the file cannot be converted or fetched.
    """
    from sida.assets import cache_dir, checked, fetch, load_registry
    from sida.assets.cache import file_lock
    from sida.files.atomic import sha256_file
    from sida.networks.checkpoint import import_official

    path, url, network_class = checked(source), None, None
    if not path.exists():
        registry = load_registry()
        if path.suffix or "/" in source or source not in registry:
            hint = "" if path.suffix else suggestion(source, registry)
            raise UserError(f"{source}: no such file, and no registered network has this id{hint[:200]}")
        asset = registry[source]
        path, url, network_class = fetch(source), asset.url, asset.network_class
    if path.suffix not in (".pkl", ".pt", ".pth"):
        return path
    cache = cache_dir()
    name = f"converted/{sha256_file(path)}{f'-{network_class}' if network_class else ''}.safetensors"
    target = cache / name
    with file_lock(cache, name):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            import_official(path, target, origin_url=url, network_class=network_class)
    return target


def open_decoder(vae: str | None, device: str | torch.device) -> LatentDecoder:
    """The decoder that turns what latent networks give into uint8 images.

    Args:
        vae: Its folder; None takes the registered one, which is fetched.
        device: Where it runs.

    Raises:
        UserError: It cannot be fetched or loaded.
    """
    if vae is None:
        from sida.assets import fetch_many

        vae = str(next(iter(fetch_many(list(SD_VAE.assets)).values())).parent)
    return LatentDecoder(load_vae(vae, device))


def decoder_digest(vae: str | None) -> str | None:
    """What tells one decoder from another: the digest of its folder's files; None for the registered one.

    Args:
        vae: As for :func:`open_decoder`. The name of a model that is no folder here stands for itself.
    """
    return FolderFiles(vae).digest() if vae is not None and Path(vae).is_dir() else vae
