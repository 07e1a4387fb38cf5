"""Lines of a text file, with their places in bytes."""

from collections.abc import Iterator

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.places import Place

BLOCK_BYTES = 1 << 20

BOM = b"\xef\xbb\xbf"
"""Byte-order mark, which Windows programs put before UTF-8."""


class Lines(Iterator[bytes]):
    """Lines of a stream, each with its newline.

    Attributes:
        position: Place after the last line given, in bytes of the text, not compressed.
    """

    def __init__(self, place: Place, file: DataFile, position: int = 0) -> None:
        """Opens a file.

        Args:
            place: Where it is.
            file: The file; its name tells its compression.
            position: Place of the first line wanted.

        Raises:
            OSError: It cannot be opened, or is not compressed as its name says.
        """
        opened = place.open(file.path)
        packing = pa.Codec.detect(file.path.lower()).name if file.path.lower().endswith((".gz", ".zst", ".bz2")) else ""
        self._stream = pa.CompressedInputStream(opened, packing) if packing else opened
        self.position = position
        self._lines = self._split()
        if not packing:
            opened.seek(position)
        else:
            left = position
            while left and (block := self._stream.read(min(left, BLOCK_BYTES))):
                left -= len(block)

    def __next__(self) -> bytes:
        """The next line; raises :class:`OSError` where the file cannot be read on."""
        line = next(self._lines)
        self.position += len(line)
        return line.removeprefix(BOM) if self.position == len(line) else line

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _split(self) -> Iterator[bytes]:
        """Lines of the stream, from its place on."""
        begun: list[bytes] = []  # pieces of a line that ends in a later block
        while block := self._stream.read(BLOCK_BYTES):
            first, *lines = block.split(b"\n")
            begun.append(first)
            if lines:
                yield b"".join(begun) + b"\n"
                *whole, last = lines
                yield from (line + b"\n" for line in whole)
                begun = [last]
        if any(begun):
            yield b"".join(begun)
