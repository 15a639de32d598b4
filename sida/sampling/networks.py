"""Networks to sample from (files, pickles, registered ids), their evaluation copies, and the decoder of latents."""

from __future__ import annotations

from pathlib import Path

import torch

from sida.config.families import SD_VAE
from sida.data.archive import Files
from sida.data.latents import LatentDecoder, load_vae
from sida.errors import UserError
from sida.networks.precond import Precond


def evaluation_copy(net: torch.nn.Module) -> torch.nn.Module:
    """Returns ``net``, or a copy if an evaluation would rewrite its weights; so images do not depend on earlier draws.

    See :meth:`sida.networks.EDM2Precond.evaluation_copy`; modules of other packages are returned unchanged.
    """
    return net.evaluation_copy() if isinstance(net, Precond) else net


def network_file(source: str) -> Path:
    """Returns the path of a safetensors file for ``source``.

    Args:
        source: A ``.safetensors`` file; the folder of a run or of ``sida export``; a published ``.pkl``; or an id of
            ``config/assets.tsv`` or an address (:func:`sida.assets.registry.asset_at`), which is downloaded.
            Pickles are converted (never executed) once and cached under the digest of their bytes and the registry's
            network class, because the same bytes may be a network of EDM's or GDD's class.

    Raises:
        UserError: The source is neither a file nor a known id, or cannot be converted or downloaded.
    """
    from sida.assets import cache_dir, check_network, checked, fetch, find_asset, is_address, load_registry
    from sida.assets.cache import file_lock
    from sida.config.settings import load_spec
    from sida.files.atomic import sha256_file
    from sida.files.tensors import starts_as_pickle
    from sida.networks.official import import_official, import_state_dict

    path, url, network_class, architecture = checked(source), None, None, None
    if path.is_dir():
        files = [path / name for name in ("network.safetensors", "generator/network.safetensors")]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise UserError(source, "is a folder without network.safetensors", "name the network's file")
        return found
    if is_address(source) or not path.exists():
        check_network(source)
        asset = find_asset(load_registry(), source)
        path, url, network_class, architecture = fetch(source), asset.url, asset.network_class, asset.architecture
    # The name at the end of an address says little.
    pickled = starts_as_pickle(path) if is_address(source) else path.suffix in (".pkl", ".pt", ".pth")
    if not pickled and architecture is None:
        return path
    cache = cache_dir()
    variant = network_class or (architecture and architecture.stem)
    name = f"converted/{sha256_file(path)}{f'-{variant}' if variant else ''}.safetensors"
    target = cache / name
    with file_lock(cache, name):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if architecture is None:
                import_official(path, target, origin_url=url, network_class=network_class)
            else:
                import_state_dict(path, target, load_spec(str(architecture), f"asset '{source}'"), origin_url=url)
    return target


def open_decoder(vae: str | None, device: str | torch.device) -> LatentDecoder:
    """Opens the decoder that turns latents into uint8 images.

    Args:
        vae: Folder of the decoder; None downloads the registered decoder.
        device: Device of the decoder.

    Raises:
        UserError: The decoder cannot be downloaded or loaded.
    """
    if vae is None:
        from sida.assets import fetch_many

        vae = str(next(iter(fetch_many(list(SD_VAE.assets)).values())).parent)
    return LatentDecoder(load_vae(vae, device))


def decoder_digest(vae: str | None) -> str | None:
    """Identity of a decoder: the digest of its folder's files; None for the registered decoder.

    Args:
        vae: As for :func:`open_decoder`. If it is not a folder, it is a model's name, which is returned.
    """
    return Files(vae).digest() if vae is not None and Path(vae).is_dir() else vae
