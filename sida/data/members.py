"""Members of zip and tar archives by their places in the file."""

import os
import struct
import zipfile
import zlib

from sida.errors import UserError

#: Offset, packed and unpacked size, CRC (-1: none) and method of compression of a member.
Location = tuple[int, int, int, int, int]
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def unpacked(handle: int, offset: int, packed: int, size: int, crc: int, method: int) -> bytes:
    """Content of an archive's member, read together with a zip's local header, which rarely exceeds 256 bytes.

    Raises:
        UserError: The member is cut off, has a wrong checksum, or is packed by another method than deflate.
    """
    if crc < 0:  # of a tar, which has no checksums of contents
        content = os.pread(handle, size, offset)
    else:
        block = os.pread(handle, _LOCAL_HEADER.size + 256 + packed, offset)
        magic, name_size, extra_size = _LOCAL_HEADER.unpack_from(block)
        start = _LOCAL_HEADER.size + name_size + extra_size
        content = block[start : start + packed]
        if len(content) < packed:
            content = os.pread(handle, packed, offset + start)
        if magic != b"PK\x03\x04" or len(content) < packed:
            raise UserError("", "damaged (cut off)", "fetch or prepare the archive again")
        if method == zipfile.ZIP_DEFLATED:
            # A byte more than recorded is a fault, and the rest stays packed.
            content = zlib.decompressobj(-15).decompress(content, size + 1)
        elif method != zipfile.ZIP_STORED:
            raise UserError("", f"compression method {method} is not supported", "make the archive again, deflated")
    if len(content) != size or (crc >= 0 and zlib.crc32(content) != crc):
        raise UserError("", "damaged (wrong checksum or size)", "fetch or prepare the archive again")
    return content
