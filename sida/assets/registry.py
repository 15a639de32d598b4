"""Files that can be downloaded: the registry ``config/assets.tsv`` with one row per file, addresses, files of the Hub.

Plugins have further rows in ``plugins/NAME/assets.tsv``.

The package huggingface_hub gives the user's token, lists repositories, and finds files in the Hub's own cache.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sida.config.lookup import PLUGINS, ROOT
from sida.config.named_files import find_file
from sida.errors import UserError, errors_at, near_path, suggestion
from sida.files.text_files import MOST_LINES, check_amount, read_text

ASSET_COLUMNS = ("id", "kind", "url", "mirrors", "size", "sha256", "target", "license", "source", "note")
#: Kinds of files: generators (pickles; ``gdd-network`` for GDD's, which have another preconditioning;
#: ``state-dict:NAME`` for weights alone, with the name of their architecture in config/networks), diffusion networks
#: (``teacher:NAME`` for weights alone), statistics and images of a training set, feature networks and their code,
#: frozen networks of GDD's discriminator, the autoencoder of latent models, raw files of a data set, the classes of
#: its images.
ASSET_KINDS = (
    *("network", "gdd-network", "state-dict", "teacher", "fid-reference", "reference-batch"),
    *("extractor", "code", "backbone", "vae", "dataset", "labels"),
)
#: Suffixes of network files.
NETWORK_ENDS = (".safetensors", ".pkl", ".pt", ".pth")
#: Suffixes of files that ``sida score`` takes.
SCORED_ENDS = (*NETWORK_ENDS, ".pt2", ".npz", ".npy", ".zip", ".tar", ".gz")


def cache_dir() -> Path:
    """Cache folder: ``$SIDA_CACHE``, else ``sida`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("SIDA_CACHE") or f"{base}/sida"))


@dataclasses.dataclass(frozen=True)
class Asset:
    """One downloadable file.

    Attributes:
        id: Name used in configurations.
        kind: One of :data:`ASSET_KINDS`.
        url: Direct link; empty if there is none.
        mirrors: Further links, tried in order.
        size: Bytes; ``None`` if unknown.
        sha256: 64 hexadecimal digits; empty if unknown, then recorded on first use and enforced afterwards.
        target: Path inside the cache, with ``/``.
        license: Terms of use.
        source: Project that published the file.
        note: Remarks for users (mislabels, corrections).
        network: Name of the architecture of weights that are published alone (``config/networks``); the column ``kind``
            has it after a colon.
        hub: Repository, revision and file on the Hugging Face Hub; an empty file stands for the one network there.
    """

    id: str
    kind: str
    url: str
    target: str
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    sha256: str = ""
    license: str = ""
    source: str = ""
    note: str = ""
    network: str = ""
    hub: tuple[str, str, str] | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """All links, in order of use."""
        return ((self.url,) if self.url else ()) + self.mirrors

    @property
    def path(self) -> Path:
        """Path in the cache."""
        return cache_dir() / self.target

    @property
    def network_class(self) -> str | None:
        """The suite's network class, if the name in the file is ambiguous."""
        return "GDDPrecond" if self.kind == "gdd-network" else None

    @property
    def architecture(self) -> Path | None:
        """File with the architecture of weights that are published alone.

        Raises:
            UserError: There is no architecture of this name.
        """
        return find_file("networks", self.network, where=f"asset '{self.id}': kind") if self.network else None


def load_registry(path: str | os.PathLike[str] | None = None) -> dict[str, Asset]:
    """Reads and checks the registry.

    Args:
        path: Tab-separated file with the columns :data:`ASSET_COLUMNS`; by default ``$SIDA_ASSETS``, else the suite's
            own and those of its plugins.

    Returns:
        Assets by id, in file order.

    Raises:
        UserError: The file is missing or not UTF-8, a column is missing, an id is used twice, or a value is invalid
            (with line and column).
    """
    own = path or os.environ.get("SIDA_ASSETS")
    paths = [Path(own)] if own else [ROOT / "config/assets.tsv", *sorted(PLUGINS.glob("*/assets.tsv"))]
    return dict(_parsed(tuple((path, read_text(path)) for path in paths)))


@functools.lru_cache(4)
def _parsed(texts: tuple[tuple[Path, str], ...]) -> dict[str, Asset]:
    """Assets of a registry's files; cached, since the start of a workflow reads the registry hundreds of times."""
    assets: dict[str, Asset] = {}
    by_target: dict[str, Asset] = {}
    for path, text in texts:
        check_amount(text, str(path), "\n", MOST_LINES, "lines")
        rows = [line.split("\t") for line in text.split("\n")]
        if tuple(rows[0]) != ASSET_COLUMNS:
            raise UserError(f"{path}:1", f"the columns must be {' '.join(ASSET_COLUMNS)} (separated by tabs)")
        for number, row in enumerate(rows[1:], start=2):
            if not any(row):
                continue
            if len(row) != len(ASSET_COLUMNS):
                fault = f"{len(row)} fields instead of {len(ASSET_COLUMNS)}"
                raise UserError(f"{path}:{number}", fault, "separate them by single tabs")
            with errors_at(f"{path}:{number}"):
                asset = _asset(dict(zip(ASSET_COLUMNS, row)))
                if asset.id in assets:
                    raise UserError("", f"id '{asset.id}' is used twice", "ids must differ")
                assets[asset.id] = asset
            # Several ids may name one file, but one target cannot hold two files.
            other = by_target.setdefault(asset.target, asset)
            if other.url != asset.url:
                raise UserError(path, f"'{asset.id}' and '{other.id}' have the same target but different URLs")
    return assets


def is_address(text: str) -> bool:
    """Whether a text is an address for :func:`asset_at`, not an id or path."""
    return text.startswith(("https://", "http://", "hf://"))


def check_network(source: str) -> str:
    """Returns ``source`` if it is an existing file or folder, a registered id or an address; opens nothing.

    Raises:
        UserError: The text is not an address, nothing is at this path, and no registered network has this id.
    """
    path = Path(os.path.expanduser(source))
    if is_address(source) or path.exists():
        return source
    registry = load_registry()
    if source in registry:
        return source
    if "/" in source or source.endswith(SCORED_ENDS):
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.isdir(path.parent)
        hint = f"; a repository of the Hub is named hf://{source}" if on_hub else ""
        raise UserError(source, "no such file or folder", f"{near_path(path)}{hint}")
    if re.fullmatch(r"[\w.]+:\w+", source):
        raise UserError(source, "is a function, not a network", f"measure its images: sida score {source}")
    remedy = f"{near_path(path, registry)} (ids: sida assets list)"
    raise UserError(source, "no such file or folder, and no registered network has this id", remedy)


def asset_at(address: str) -> Asset:
    """The file at an address, as an asset: fetched, checked and recorded like a registered one.

    Args:
        address: ``https://HOST/PATH``, or ``hf://OWNER/REPOSITORY[@REVISION][/FILE]`` on the Hugging Face Hub
            (``$HF_ENDPOINT`` names a mirror); without FILE its one network file. ``#sha256=DIGITS`` at the end is the
            hash that the file must have; without it the hash of the first use is enforced from then on. ``http://``
            needs the hash.

    Raises:
        UserError: The address does not have that form.
    """
    location, _, sha256 = address.partition("#sha256=")
    hub = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?(?:/([\w.+-]+(?:/[\w.+-]+)*))?", location, re.ASCII)
    url, hub_file = location, None
    if location.startswith("hf://"):
        if not hub or (not hub[3] and hub[1].endswith(NETWORK_ENDS)) or {".", ".."} & set(re.split("[/@]", location)):
            raise UserError(f"'{address}'", "must be hf://OWNER/REPOSITORY/FILE or hf://OWNER/REPOSITORY@REVISION/FILE")
        hub_file = (hub[1], hub[2] or "main", hub[3] or "")
        url = f"{endpoint()}/{hub[1]}/resolve/{hub_file[1]}/{hub_file[2] or 'network'}"
    if fault := address_fault(url):
        raise UserError(f"'{address}'", fault)
    if "#" in address and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"'{address}'", "sha256 must be 64 lower-case hexadecimal digits")
    if location.startswith("http://") and not sha256:
        raise UserError(f"'{address}'", "http:// does not protect a file", "use https://, or add #sha256=DIGITS")
    # The file keeps a readable name, which other addresses may have as well.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(url.partition("?")[0]).name).lstrip(".")[-80:] or "file"
    target = f"addresses/{hashlib.sha256(url.encode()).hexdigest()[:16]}/{name}"
    return Asset(id=address, kind="network", url=url, target=target, sha256=sha256, source=url, hub=hub_file)


_HOST = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_ADDRESS = re.compile(rf"https?://{_HOST}(?:\.{_HOST})*(?::[0-9]{{1,5}})?/[!-\"$-~]+")


def address_fault(url: str) -> str | None:
    """Fault of a URL, in words that follow it; None for a valid one."""
    with contextlib.suppress(ValueError):
        if _ADDRESS.fullmatch(url) and urlsplit(url).port != 0:
            return None
    return "must be https://HOST/PATH with a valid host and port, without user name, spaces and '#'"


def find_asset(registry: dict[str, Asset], asset_id: str) -> Asset:
    """Returns the asset with this id, or the file at this address (:func:`asset_at`).

    Raises:
        UserError: The id is unknown; the message suggests the closest one.
    """
    if is_address(asset_id):
        return asset_at(asset_id)
    if asset_id not in registry:
        hint = suggestion(asset_id, registry, "; see sida assets list")
        raise UserError("", f"there is no asset '{asset_id}'{hint}")
    return registry[asset_id]


#: Regular expression of a column, and its description.
_FORMS = {
    "id": (r"[a-z0-9][a-z0-9._-]*", "made of a-z, 0-9, '.', '_' and '-'"),
    "target": (r"(?!/)(?!(.*/)?\.\.(/|$)).+", "a relative path inside the cache"),
    "size": (r"([1-9][0-9]{0,17})?", "a number of bytes or empty"),
    "sha256": (r"([0-9a-f]{64})?", "64 lower-case hexadecimal digits or empty"),
}


def _asset(row: dict[str, str]) -> Asset:
    for column, (form, words) in _FORMS.items():
        if not re.fullmatch(form, row[column]):
            raise UserError("", f"{column} '{row[column]}' must be {words}")
    kind, _, network = row["kind"].partition(":")
    if (kind == "state-dict" and not network) or (network and kind not in ("state-dict", "teacher")):
        words = "state-dict:NAME and teacher:NAME name an architecture, other kinds have none"
        raise UserError("", f"kind '{row['kind']}': {words}")
    if kind not in ASSET_KINDS:
        raise UserError("", f"kind '{row['kind']}' is unknown{suggestion(row['kind'], ASSET_KINDS)}")
    mirrors = tuple(row["mirrors"].split())
    for url in (*mirrors, *filter(None, [row["url"]])):
        if reason := address_fault(url):
            raise UserError("", f"'{url}' {reason}")
    size = int(row["size"]) if row["size"] else None
    converted: dict[str, Any] = {"kind": kind, "network": network, "mirrors": mirrors, "size": size}
    return Asset(**{**row, **converted})


def is_counted(name: Any) -> bool:
    """Whether class counts of this name come from a registered asset: ``labels-imagenet``."""
    return isinstance(name, str) and name in load_registry()


# The Hugging Face Hub: its address, the user's token, networks of a repository, and files in its own cache


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

    path = try_to_load_from_cache(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def network_of(repository: str, revision: str) -> str:
    """Name of the one network file of a repository.

    Raises:
        UserError: The repository cannot be listed, or has no network file or several.
    """
    where = _repository_name(repository, revision)
    names = [name for name in names_on_hub(repository, revision) if name.endswith(NETWORK_ENDS)]
    if len(names) != 1:
        raise UserError(where, f"has {len(names)} network files{suggestion('', names[:10])}", f"name one: {where}/FILE")
    return names[0]


def _repository_name(repository: str, revision: str) -> str:
    return f"hf://{repository}" + (f"@{revision}" if revision != "main" else "")


def names_on_hub(repository: str, revision: str) -> list[str]:
    """Names of a repository's files, sorted.

    Raises:
        UserError: The repository cannot be listed.
    """
    from huggingface_hub import HfApi

    where = _repository_name(repository, revision)
    if hub_offline():
        # The Hub's cache has only files that were fetched, perhaps one of several networks.
        raise UserError(where, "offline, so its files cannot be listed", f"name one: {where}/FILE")
    try:
        api = HfApi(endpoint(), token=hub_token(urlsplit(endpoint()).netloc) or False)
        files = api.model_info(repository, revision=revision, timeout=10).siblings or []
    except Exception as error:  # of several libraries
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
        remedy = "check the name; for a private one set HF_TOKEN or run `hf auth login`"
        if getattr(error, "response", None) is None and not isinstance(error, ValueError):
            remedy = "check the connection, then run it again"
        raise UserError(where, f"cannot be listed ({reason})", remedy) from None
    return sorted(file.rfilename for file in files)
