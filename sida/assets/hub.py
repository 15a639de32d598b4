"""The Hugging Face Hub: the network file of a repository, the user's token and cache; huggingface_hub does the work."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from sida.errors import UserError

#: Ends of the names of network files.
NETWORK_ENDS = (".safetensors", ".pkl", ".pt", ".pth")


def endpoint() -> str:
    """Address of the Hub, or of the mirror that ``$HF_ENDPOINT`` names."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether ``SIDA_OFFLINE`` forbids the network."""
    return os.environ.get("SIDA_OFFLINE", "") not in ("", "0", "false", "no")


def hub_offline() -> bool:
    """Whether ``SIDA_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the Hub."""
    return offline() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_token(netloc: str) -> str | None:
    """The user's token (``$HF_TOKEN``, ``hf auth login``) for a host; None for every host but the Hub's over https."""
    hub = urlsplit(endpoint())
    if hub.scheme != "https" or netloc != hub.netloc:
        return None
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def cached_file(repository: str, revision: str, name: str) -> Path | None:
    """The file in the Hub's own cache, which other programs fill; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def network_of(repository: str, revision: str) -> str:
    """Name of the one network file of a repository.

    Raises:
        UserError: The repository cannot be listed, or has no network file or several.
    """
    where = f"hf://{repository}" + (f"@{revision}" if revision != "main" else "")
    names = sorted(name for name in _files(repository, revision, where) if name.endswith(NETWORK_ENDS))
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(where, f"has no network file ({', '.join(NETWORK_ENDS)})", "name another repository")
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise UserError(where, f"has {len(names)} network files", f"name one, such as {where}/{names[0]} ({listed})")


def _files(repository: str, revision: str, where: str) -> list[str]:
    from huggingface_hub import HfApi

    if hub_offline():
        # The Hub's cache has the files that were asked for, which may be one of several networks.
        fault = "offline, so its files cannot be listed"
        raise UserError(where, fault, f"name one, such as {where}/network.safetensors")
    try:
        api = HfApi(endpoint(), token=hub_token(urlsplit(endpoint()).netloc) or False)
        return [file.rfilename for file in api.model_info(repository, revision=revision, timeout=10).siblings or []]
    except Exception as error:  # of several libraries
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
        remedy = "check the name; for a private one set HF_TOKEN or run `hf auth login`"
        raise UserError(where, f"cannot be listed ({reason})", remedy) from None
