"""Server-sent events (HTML Living Standard, 9.2.6) out of bytes that come in any pieces."""

from collections.abc import Iterator

_DATA = (b"data", b"\xef\xbb\xbfdata")
"""A byte order mark may come before the first field."""


class Events:
    """What came so far of the line and of the event that are not at their end."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of each event that the piece completes; names, ids and comments are left out."""
        for line in self._lines(piece):
            name, _, value = line.partition(b":")
            if name in _DATA:
                self._data.append(value.removeprefix(b" "))
            elif not line:
                if any(self._data):
                    yield b"\n".join(self._data)
                self._data.clear()

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        """Yield whole lines; one that ends with a CR is not kept back until it is known whether a LF follows."""
        if self._after_cr and piece:
            piece, self._after_cr = piece.removeprefix(b"\n"), False
        self._after_cr = piece.endswith(b"\r") or (self._after_cr and not piece)
        for line in piece.splitlines(keepends=True):
            self._line.append(line)
            if line.endswith((b"\r", b"\n")):
                yield b"".join(self._line).rstrip(b"\r\n")
                self._line.clear()
