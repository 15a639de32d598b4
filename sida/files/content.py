"""Recognises files of another format, and placeholders for a file, by their first bytes.

Servers and tools write texts instead of a file: pointers of Git LFS, web pages, messages, lists of parts. Readers of
weights, arrays, references and archives check for them first, so that a message says how to get the file itself.
"""

import os
import re
from typing import NamedTuple

from sida.errors import UserError, one_line
from sida.files.ordinary import open_ordinary

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
    ".mp4": "a film", ".onnx": "ONNX", ".npz": "arrays", ".npy": "an array",
}  # fmt: skip
#: Kind of a file with weights, and its suffixes; kinds of files of arrays.
NETWORK, ARRAYS = "a network", ("arrays", "an array")
#: As those of LightningDiT, and what to do.
LATENTS, ENCODE = "latents of another program", "encode the pictures (sida data encode)"
_SUFFIXES |= dict.fromkeys((".pt", ".pt2", ".pth", ".ckpt", ".safetensors", ".pkl", ".pickle"), NETWORK)
#: Number of one of the files of a set, at the end of its name.
_PART = re.compile(r"-\d+-of-\d+$")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Placeholder(NamedTuple):
    """A text instead of a file: its kind, and how to get the file itself."""

    kind: str
    remedy: str

    @property
    def is_plain(self) -> bool:
        """Whether the text may also be a damaged file: JSON, or a text that no known tool writes."""
        return self.kind.startswith(("a text", "JSON"))


def placeholder_in(start: bytes) -> Placeholder | None:
    """Classifies the text at the start of a file; None for binary content."""
    plain = start.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").lstrip()
    if not plain or not plain[:16].isascii() or any(c < " " and c not in "\t\r\n\f" for c in plain):
        return None
    if re.match(r"\(?[dl]p\d|\([dl]p|c\w+\n", plain):  # a pickle of protocol 0
        return None
    if plain.startswith(("version https://git-lfs", "version https://hawser")):
        size = re.search(r"^size (\d{1,18})$", plain, re.MULTILINE)
        kind = "a pointer of Git LFS" + (f" to a file of {int(size[1]):,} bytes" if size else "")
        return Placeholder(kind, "fetch the file itself: git lfs pull in its clone, or download it from its page")
    if plain.startswith("/annex/objects/") or "/.git/annex/objects/" in plain[:500]:
        remedy = "fetch the file itself: git annex get (or datalad get) in its clone"
        return Placeholder("a pointer of git-annex", remedy)
    if re.match(r"(md5:|outs:\n)", plain):
        return Placeholder("a pointer of DVC", "fetch the file itself: dvc pull in its clone")
    if re.match(r"<(!doctype html|html|head|body|!--)", plain, re.IGNORECASE):
        title = re.search(r"<title[^>]*>([^<]{1,80})", plain, re.IGNORECASE)
        kind = "a web page" + (f" ('{title[1].strip()}')" if title else "")
        remedy = "a login, a licence or a warning comes before the download: open the address in a browser"
        return Placeholder(kind, remedy)
    begin = one_line(plain[:60].strip())
    if '"weight_map"' in plain:
        remedy = "give the files that it lists, joined into one: load each, then save all tensors together"
        return Placeholder("an index of shards, not weights", remedy)
    if re.match(r'\{\s*"_class_name"', plain):
        return Placeholder("JSON, settings of diffusers", "name the folder that save_pretrained wrote")
    if re.search(r"^(import \w|from [\w.]+ import |def \w+\()", plain, re.MULTILINE):
        return Placeholder("Python code", "name its function as MODULE:FUNCTION")
    kind = {"<": "a message in XML", "{": "JSON", "[": "JSON"}.get(plain[0], "a text")
    remedy = "is it the right file? Servers send texts instead of files: download it again"
    return Placeholder(f"{kind} ('{begin}')", remedy)


def refuse_text(path: str | os.PathLike[str], start: bytes) -> None:
    """Refuses a placeholder for a file, by its first bytes.

    Raises:
        UserError: The file is a placeholder; the message names its kind and says how to get the file itself.
    """
    if (text := placeholder_in(start[:START])) is not None:
        raise UserError(path, f"is {text.kind}", text.remedy)


def refuse_packed(path: str | os.PathLike[str], start: bytes) -> None:
    """Refuses a packed file, or a tar, where weights are expected.

    Raises:
        UserError: The file is packed or a tar.
    """
    packed = next((name for mark, name in _PACKED.items() if start.startswith(mark)), None)
    if packed is not None:
        raise UserError(path, f"is packed by {packed}", "unpack it first")
    if start[257:262] == b"ustar":
        raise UserError(path, "is a tar archive, not a network", "unpack it, and name the file of weights in it")


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the first :data:`START` bytes of a file, or no bytes if there is no such file.

    Raises:
        UserError: It cannot be read.
    """
    if not os.path.isfile(path):
        return b""
    with open_ordinary(path) as stream:
        return stream.read(START)


def holds_tensors(start: bytes) -> bool:
    """Whether a file is a pickle, of ``torch.save``, safetensors, or an npy of objects, by its first bytes."""
    is_object = start.startswith(b"\x93NUMPY") and b"'|O'" in start[:128]
    is_torch = start.startswith(b"PK") and b"/data.pkl" in start[:512]
    return is_object or is_torch or start[:1] == b"\x80" or start[8:10] == b'{"'


def kind_of_file(name: str | os.PathLike[str], start: bytes = b"") -> str:
    """Kind of a file that cannot be an archive of pictures, for a message; empty for any other file.

    Args:
        name: Name of the file.
        start: Its first bytes; a known beginning takes precedence over the suffix.
    """
    by_start = next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), "")
    by_name = _SUFFIXES.get(os.path.splitext(_PART.sub("", os.fspath(name)))[1].lower(), "")
    of_tensors = LATENTS if b'"latents"' in start else NETWORK
    return by_start or (of_tensors if holds_tensors(start) else by_name)
