"""The one thing about H.264 that containers get wrong: which of their keyframes need no other picture."""

_IDR = 5
_START_CODES = 0


def nal_length_bytes(extradata: bytes | None) -> int:
    """Bytes of the length before each unit of a packet; 0 where start codes part them."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else _START_CODES


def holds_idr(packet: bytes, nal_length: int) -> bool:
    """Whether a packet holds a picture that needs no other one; the start of a gradual refresh does not."""
    if nal_length == _START_CODES:
        return any(unit[:1] and unit[0] & 31 == _IDR for unit in packet.split(b"\0\0\1"))
    place = 0
    while place + nal_length < len(packet):
        if packet[place + nal_length] & 31 == _IDR:
            return True
        place += nal_length + int.from_bytes(packet[place : place + nal_length])
    return False
