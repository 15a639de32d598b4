"""The content of a file by its first bytes, for messages: another format, or a text that stands for the file.

Servers and tools put texts instead of a file: pointers of Git LFS, web pages, messages, lists of parts. Each door
for weights, arrays, references and archives asks here before it reads, and says how to get the file itself.
"""

import os
import re
from typing import NamedTuple

from sida.errors import UserError, one_line

#: Bytes that :func:`refuse_text` looks at.
START = 4096
#: Formats by the first bytes of a file, and by the suffix of its name.
_STARTS = {
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\x89HDF": "HDF5", b"Rar!": "RAR", b"7z\xbc\xaf": "7z",
    b"\x89PNG": "one picture", b"\xff\xd8\xff": "one picture", b"\x93NUMPY": "an array", b"GGUF": "GGUF",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd", b"MATLAB 5": "MATLAB",
}  # fmt: skip
_SUFFIXES = {
    ".parquet": "Parquet", ".arrow": "Arrow", ".tfrecord": "TFRecord", ".tfrecords": "TFRecord", ".h5": "HDF5",
    ".hdf5": "HDF5", ".mat": "MATLAB", ".rar": "RAR", ".7z": "7z", ".lmdb": "LMDB", ".mdb": "LMDB", ".beton": "FFCV",
    ".mp4": "a film", ".npz": "arrays", ".npy": "an array",
}  # fmt: skip
#: Kind of a file with weights, and its suffixes.
NETWORK = "a network"
_SUFFIXES |= dict.fromkeys((".pt", ".pt2", ".pth", ".ckpt", ".safetensors", ".pkl"), NETWORK)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Text(NamedTuple):
    """A text instead of a file: its kind, and how to get the file itself."""

    kind: str
    remedy: str

    @property
    def is_plain(self) -> bool:
        """Whether it may be a damaged file as well: JSON, or a text that no tool is known to write."""
        return self.kind.startswith(("a text", "JSON"))


def text_in_place(start: bytes) -> Text | None:
    """Classifies the text at the start of a file; None for binary content."""
    plain = start.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").lstrip()
    if not plain or not plain[:16].isascii() or any(c < " " and c not in "\t\r\n\f" for c in plain):
        return None
    if re.match(r"\(?[dl]p\d|\([dl]p|c\w+\n", plain):  # a pickle of protocol 0
        return None
    if plain.startswith(("version https://git-lfs", "version https://hawser")):
        size = re.search(r"^size (\d{1,18})$", plain, re.MULTILINE)
        kind = "a pointer of Git LFS" + (f" to a file of {int(size[1]):,} bytes" if size else "")
        return Text(kind, "fetch the file itself: git lfs pull in its clone, or download it from its page")
    if plain.startswith("/annex/objects/") or "/.git/annex/objects/" in plain[:500]:
        return Text("a pointer of git-annex", "fetch the file itself: git annex get (or datalad get) in its clone")
    if re.match(r"(md5:|outs:\n)", plain):
        return Text("a pointer of DVC", "fetch the file itself: dvc pull in its clone")
    if re.match(r"<(!doctype html|html|head|body|!--)", plain, re.IGNORECASE):
        title = re.search(r"<title[^>]*>([^<]{1,80})", plain, re.IGNORECASE)
        kind = "a web page" + (f" ('{title[1].strip()}')" if title else "")
        return Text(kind, "a login, a licence or a warning stands before the download: open the address in a browser")
    begin = one_line(plain[:60].strip())
    if '"weight_map"' in plain:
        remedy = "give the files that it lists, joined into one: load each, then save all tensors together"
        return Text("an index of shards, and no weights", remedy)
    kind = "a message in XML" if plain.startswith("<") else "JSON" if plain[0] in "{[" else "a text"
    return Text(f"{kind} ('{begin}')", "is it the right file? Servers send texts instead of files: download it again")


def refuse_text(path: str | os.PathLike[str], start: bytes) -> None:
    """Refuses a file that is a text instead of the file's content, by its first bytes.

    Raises:
        UserError: It is one; the message names it and says how to get the file itself.
    """
    if (text := text_in_place(start[:START])) is not None:
        raise UserError(path, f"is {text.kind}", text.remedy)


def refuse_packed(path: str | os.PathLike[str], start: bytes) -> None:
    """Refuses a packed file, or a tar, where weights are expected.

    Raises:
        UserError: It is one.
    """
    packed = next((name for mark, name in _PACKED.items() if start.startswith(mark)), None)
    if packed is not None:
        raise UserError(path, f"is packed by {packed}", "unpack it first")
    if start[257:262] == b"ustar":
        raise UserError(path, "is a tar archive, and no network", "unpack it, and name the file of weights in it")


def kind_of_file(name: str | os.PathLike[str], start: bytes = b"") -> str:
    """Names the kind of a file that holds no archive of pictures, for a message; empty for any other file.

    Args:
        name: Name of the file.
        start: Its first bytes, which decide if they are known.
    """
    known = next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), "")
    return known or _SUFFIXES.get(os.path.splitext(os.fspath(name))[1].lower(), "")
