"""What a packet says about its pictures before anything is decoded.

Only the first bits are read: whether decoding may begin here, how many pictures are shown, whether the packet is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Coded:
    """Of one packet.

    Args:
        start: nothing decoded before is needed from here on: an IDR picture, a key frame of VP9. A container's word
            for it is not enough: many call any I frame a key frame.
        shown: pictures of it that are shown; -1 where the packet does not tell.
        whole: it is built as its codec demands.
        parameters: what decides size and colours, such as the sequence parameters of H.264; empty where it has none.
    """

    start: bool
    shown: int
    whole: bool = True
    parameters: bytes = b""


Look = Callable[[bytes], Coded]
BROKEN = Coded(False, -1, whole=False)


def look_into(codec: str, extradata: bytes, intra_only: bool) -> Look | None:
    """What reads the packets of `codec` (as libavcodec names it); None where nothing here can.

    Args:
        extradata: what the container keeps of the codec; tells how H.264 and HEVC mark their units.
        intra_only: every picture stands alone.
    """
    if intra_only:
        return lambda packet: Coded(True, -1)  # such codecs don't mark their frames in one way
    if codec in ("h264", "hevc"):
        kind = _h264 if codec == "h264" else _hevc
        length = _length_bytes(codec, extradata)
        return lambda packet: kind(list(_units(packet, length)))
    return {"vp8": _vp8, "vp9": _vp9, "av1": _av1, "mpeg4": _mpeg4, "mpeg2video": _mpeg, "mpeg1video": _mpeg}.get(codec)


# ------------------------------------------------------------------------------------------------ H.264 and HEVC


def _length_bytes(codec: str, extradata: bytes) -> int:
    """Bytes of the length before each unit; 0 where start codes stand between them."""
    at = 4 if codec == "h264" else 21
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def _units(packet: bytes, length: int) -> Iterator[bytes]:
    """The units of a packet; b"" at the end where lengths don't add up."""
    if not length:
        yield from (part.rstrip(b"\0") or b"\0" for part in packet.split(b"\0\0\1")[1:])
        return
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + length], "big")
        at += length
        if not size or at + size > len(packet):
            yield b""
            return
        yield packet[at : at + size]
        at += size


class _Bits:
    """Numbers of the first bytes of a slice."""

    def __init__(self, content: bytes) -> None:
        self.value, self.left = int.from_bytes(content, "big"), 8 * len(content)

    def bits(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError("too few bits")
        return self.value >> self.left & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)


def _h264(units: list[bytes]) -> Coded:
    start, shown, parameters = False, 0, b""
    for unit in units:
        if not unit or unit[0] & 0x80:
            return BROKEN
        kind = unit[0] & 31
        if kind == 7:
            parameters += unit
        if kind in (1, 2, 5):
            start |= kind == 5
            try:
                slice_ = _Bits(unit[1:17])
                first, type_, picture = slice_.golomb(), slice_.golomb(), slice_.golomb()
            except ValueError:
                return BROKEN
            if type_ > 9 or picture > 255 or (kind == 5 and type_ % 5 not in (2, 4)):
                return BROKEN
            shown += first == 0
    return Coded(start, shown, shown > 0, parameters)


def _hevc(units: list[bytes]) -> Coded:
    start, shown, parameters = False, 0, b""
    for unit in units:
        if len(unit) < 3 or unit[0] & 0x80 or not unit[1] & 7:
            return BROKEN
        kind, layer = unit[0] >> 1, (unit[0] & 1) << 5 | unit[1] >> 3
        if layer:
            continue
        if kind == 33:
            parameters += unit
        if (
            kind in (36, 37) or 16 <= kind <= 18
        ):  # an end inside of the stream, or a splice: what follows may be left out
            return Coded(False, -1)
        if kind < 32:
            start |= 19 <= kind <= 21
            shown += unit[2] >> 7
    return Coded(start, shown, shown > 0, parameters)


# ------------------------------------------------------------------------------------------------ VP8, VP9 and AV1


def _vp8(packet: bytes) -> Coded:
    if len(packet) < 3:
        return BROKEN
    tag = int.from_bytes(packet[:3], "little")
    key, size = not tag & 1, tag >> 5
    if size > len(packet) or (key and packet[3:6] != b"\x9d\x01\x2a"):
        return BROKEN
    return Coded(key, tag >> 4 & 1, parameters=packet[6:10] if key else b"")


def _vp9(packet: bytes) -> Coded:
    """A packet may hold several frames, all but one hidden: their sizes stand at its end."""
    frames = [packet]
    if packet and packet[-1] & 0xE0 == 0xC0:
        count, width = (packet[-1] & 7) + 1, (packet[-1] >> 3 & 3) + 1
        index = packet[-2 - count * width :]
        if len(index) == 2 + count * width and index[0] == packet[-1]:
            frames, at = [], 0
            for number in range(count):
                size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
                frames.append(packet[at : at + size])
                at += size
            if at + len(index) != len(packet):
                return BROKEN
    coded = [_vp9_frame(frame) for frame in frames]
    if not all(one.whole for one in coded):
        return BROKEN
    return Coded(coded[0].start, sum(one.shown for one in coded), parameters=b"".join(one.parameters for one in coded))


def _vp9_frame(frame: bytes) -> Coded:
    bits = _Bits(frame[:16])
    try:
        if bits.bits(2) != 2:
            return BROKEN
        profile = bits.bits(1) + 2 * bits.bits(1)
        if profile == 3:
            bits.bits(1)
        if bits.bits(1):  # a frame that is there already is shown
            return Coded(False, 1)
        key, shown = not bits.bits(1), bits.bits(1)
        bits.bits(1)
        if not key:
            return Coded(False, shown)
        if bits.bits(24) != 0x498342:
            return BROKEN
        depth, space = bits.bits(1) if profile >= 2 else 0, bits.bits(3)
        if space != 7:  # of RGB, which has no range
            bits.bits(1)
        if profile in (1, 3):
            bits.bits(1 if space == 7 else 3)
        return Coded(True, shown, parameters=bytes([depth, space]) + bits.bits(32).to_bytes(4, "big"))
    except ValueError:
        return BROKEN


def _av1(packet: bytes) -> Coded:
    """One packet is one temporal unit, and one picture of it is shown."""
    at, sequence, key = 0, b"", None
    while at < len(packet):
        header = packet[at]
        if header & 0x80 or not header & 2:  # forbidden bit; a unit without a length
            return BROKEN
        begin, at, size = at, at + 1 + (header >> 2 & 1), 0
        for place in range(8):
            if at >= len(packet):
                return BROKEN
            size |= (packet[at] & 0x7F) << 7 * place
            at += 1
            if not packet[at - 1] & 0x80:
                break
        if at + size > len(packet):
            return BROKEN
        kind = header >> 3 & 15
        if kind == 1:
            sequence = packet[begin : at + size]
        if kind in (3, 6) and key is None and size:
            key = packet[at] >> 4 == 0b0001  # not shown again, a key frame, shown
        at += size
    return Coded(bool(sequence and key), 1, key is not None, sequence)


# ------------------------------------------------------------------------------------------------ MPEG-1, -2 and -4


def _mpeg4(packet: bytes) -> Coded:
    """Only where decoding may begin: frames that repeat the last one are not told apart from others here."""
    pictures = packet.split(b"\0\0\1\xb6")[1:]
    return Coded(len(pictures) == 1 and len(pictures[0]) > 0 and pictures[0][0] >> 6 == 0, -1)


def _mpeg(packet: bytes) -> Coded:
    at = packet.find(b"\0\0\1\0")
    intra = at >= 0 and len(packet) > at + 5 and packet[at + 5] >> 3 & 7 == 1
    return Coded(intra and b"\0\0\1\xb3" in packet[:at], -1)
