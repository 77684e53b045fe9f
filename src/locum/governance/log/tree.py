"""The Merkle tree kept in tiles of 256 hashes, as C2SP tlog-tiles serves them.

Tile (L, N) holds the hashes of tree level 8 L at positions 256 N to 256 N + 255. Only full subtrees have a place in a tile, so a tile
that is full never changes, and a proof in a log of a million entries reads at most three tiles on each side.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from locum.governance.log.merkle import EMPTY, LogError, node_hash, split

HEIGHT, WIDTH = 8, 256
_KEPT = 256


class Tiles(Protocol):
    """Where tiles are kept. A tile is up to 256 hashes of 32 bytes; the last one of each level grows."""

    def get(self, level: int, index: int) -> bytes:
        """The tile as far as it is filled; empty if there is none."""

    def put(self, level: int, index: int, tile: bytes) -> None: ...


class MemoryTiles(dict[tuple[int, int], bytes]):
    """Tiles in this process."""

    def get(self, level: int, index: int) -> bytes:  # type: ignore[override]
        return super().get((level, index), b"")

    def put(self, level: int, index: int, tile: bytes) -> None:
        self[level, index] = tile


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """The path that tlog-tiles gives a tile: 'tile/0/x001/x234/067', with '.p/W' where it has fewer than 256 hashes."""
    return f"tile/{level}/{_number(index)}" + ("" if width == WIDTH else f".p/{width}")


def entries_path(index: int, width: int = WIDTH) -> str:
    """The path of a bundle of up to 256 entries."""
    return f"tile/entries/{_number(index)}" + ("" if width == WIDTH else f".p/{width}")


def _number(n: int) -> str:
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03d}")
    return "/".join(groups)


class Tree:
    """A tree of `size` leaves over its tiles. `extend` appends; every proof may be asked for any earlier size too."""

    def __init__(self, tiles: Tiles, size: int = 0) -> None:
        self.tiles, self.size = tiles, size
        self._inner: OrderedDict[tuple[int, int, int], list[list[bytes]]] = OrderedDict()

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes; every tile that changed is put once."""
        level, start, hashes = 0, self.size, list(leaves)
        self.size += len(hashes)
        while hashes:
            tile, filled = start // WIDTH, start % WIDTH
            here = self.tiles.get(level, tile)[: 32 * filled] if filled else b""
            if len(here) != 32 * filled:
                raise LogError("The log's tiles are fewer than its size says.", fix="restore the coordinator's database from its last back-up")
            above: list[bytes] = []
            position = 0
            while position < len(hashes):
                room = WIDTH - len(here) // 32
                here += b"".join(hashes[position : position + room])
                position += room
                self.tiles.put(level, tile, here)
                if len(here) == 32 * WIDTH:
                    above.append(_fold([here[i : i + 32] for i in range(0, len(here), 32)]))
                    tile, here = tile + 1, b""
            level, start, hashes = level + 1, start // WIDTH, above

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves (default: all); raises `LogError`."""
        n = self._checked(self.size if size is None else size)
        return self._range(0, n) if n else EMPTY

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The siblings from leaf `index` to the root of the first `size` leaves (RFC 9162, 2.1.3.1); raises `LogError`."""
        n = self._checked(self.size if size is None else size)
        if not 0 <= index < n:
            raise LogError(f"There is no entry {index} in a log of {n} entries.")
        out: list[bytes] = []
        low, high = 0, n
        while high - low > 1:
            middle = low + split(high - low)
            if index < middle:
                out.append(self._range(middle, high))
                high = middle
            else:
                out.append(self._range(low, middle))
                low = middle
        return out[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the first `new` leaves begin with the first `old` (RFC 9162, 2.1.4.1); raises `LogError`."""
        n = self._checked(self.size if new is None else new)
        if not 0 <= old <= n:
            raise LogError(f"A log of {n} entries cannot continue one of {old}.")
        out: list[bytes] = []
        low, high, whole = 0, n, True
        while 0 < old - low < high - low:
            middle = low + split(high - low)
            if old <= middle:
                out.append(self._range(middle, high))
                high = middle
            else:
                out.append(self._range(low, middle))
                low, whole = middle, False
        if 0 < old < n and not whole:
            out.append(self._range(low, high))
        return out[::-1]

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise LogError(f"The log has {self.size} entries, not {size}.")
        return size

    def _range(self, low: int, high: int) -> bytes:
        """The root over leaves low..high-1, where low is a multiple of a power of two that is at least their number."""
        n = high - low
        if n & (n - 1) == 0:
            level = n.bit_length() - 1
            return self._node(level, low >> level)
        middle = low + split(n)
        return node_hash(self._range(low, middle), self._range(middle, high))

    def _node(self, level: int, index: int) -> bytes:
        """The hash of a full subtree of 2^level leaves."""
        tile_level, inside = divmod(level, HEIGHT)
        tile, place = divmod(index << inside, WIDTH)
        pyramid = self._pyramid(tile_level, tile, (place >> inside) + 1 << inside)
        return pyramid[inside][place >> inside]

    def _pyramid(self, level: int, index: int, need: int) -> list[list[bytes]]:
        """All hashes inside a tile, level by level, as far as it is filled; the last used are kept."""
        body = self.tiles.get(level, index)
        width = len(body) // 32
        if width < need:
            raise LogError("The log's tiles are fewer than its size says.", fix="restore the coordinator's database from its last back-up")
        key = (level, index, width)
        if key not in self._inner:
            rows = [[body[i : i + 32] for i in range(0, 32 * width, 32)]]
            while len(rows[-1]) > 1:
                below = rows[-1]
                rows.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
            self._inner[key] = rows
            while len(self._inner) > _KEPT:
                self._inner.popitem(last=False)
        self._inner.move_to_end(key)
        return self._inner[key]


def _fold(hashes: list[bytes]) -> bytes:
    """The root of a full subtree from its leaves."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]
