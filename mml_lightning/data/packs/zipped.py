"""ZIP with stored members, written by hand so that an interrupted file can be continued.

The format is PKWARE's APPNOTE 6.3: a local header before each member (4.3.7), at the end the central directory (4.3.12)
and its ZIP64 form (4.3.14, 4.3.15) where a file outgrows 32 bits. Nothing is compressed, flagged or dated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64, LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
PLAIN, ZIP64 = 20, 45  # versions needed to extract
FIRST_DAY = 0x21  # 1980-01-01, the zero of the format's clock: equal content makes equal files
MOST16, MOST32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One stored file: `offset` is that of its local header."""

    name: str
    offset: int
    length: int
    crc32: int


def local_header(name: str, length: int, crc32: int) -> bytes:
    """What stands before the bytes of a member.

    Raises:
        ValueError: the member is larger than 4 GiB.
    """
    if length >= MOST32:
        raise ValueError(f"{name}: a member of a pack is smaller than 4 GiB")
    encoded = name.encode("ascii")
    return struct.pack("<4s5H3L2H", LOCAL, PLAIN, 0, 0, 0, FIRST_DAY, crc32, length, length, len(encoded), 0) + encoded


def directory(members: Iterable[Member], start: int) -> bytes:
    """The central directory of `members` and the end of the file, to stand at `start`."""
    parts, count = [], 0
    for member in members:
        parts.append(_central(member))
        count += 1
    body = b"".join(parts)
    end64 = b""
    if count >= MOST16 or start >= MOST32 or len(body) >= MOST32:
        record = struct.pack("<4sQ2H2L4Q", END64, 44, ZIP64, ZIP64, 0, 0, count, count, len(body), start)
        end64 = record + struct.pack("<4sLQL", LOCATOR64, 0, start + len(body), 1)
    short = min(count, MOST16)
    end = struct.pack("<4s4H2LH", END, 0, 0, short, short, min(len(body), MOST32), min(start, MOST32), 0)
    return body + end64 + end


def _central(member: Member) -> bytes:
    encoded, large = member.name.encode("ascii"), member.offset >= MOST32
    extra = struct.pack("<2HQ", 1, 8, member.offset) if large else b""
    version = ZIP64 if large else PLAIN
    return (
        struct.pack(
            "<4s6H3L5H2L",
            *(CENTRAL, version, version, 0, 0, 0, FIRST_DAY),
            *(member.crc32, member.length, member.length),
            *(len(encoded), len(extra), 0, 0, 0),
            *(0, min(member.offset, MOST32)),
        )
        + encoded
        + extra
    )
