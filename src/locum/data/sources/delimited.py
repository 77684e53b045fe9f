"""Delimited text (RFC 4180 and its relatives) as a stream of frames: every record is checked, and memory is bounded by a block.

A block of text is cut into records by looking, with numpy, for line ends and separators outside quotes; polars then parses the records that
have as many fields as the header. Where quotes are irregular, as in `5" wide`, the block is read by the slower `csv` module instead, in which
a quote is one only at the start of a cell. A record that cannot be read is refused and counted, never padded or cut.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.sources.base import ENCODING, Tally
from locum.data.sources.cells import no_twins
from locum.errors import DataError, TooLarge

BLOCK = 1 << 22
"""Bytes read at a time."""
MAX_RECORD = 1 << 24
MAX_HEADER = 1 << 20
MAX_COLUMNS = 1 << 16
SEPARATORS = (",", ";", "\t", "|")

NUL = "it holds a NUL byte"
FEW = "it has fewer fields than the header"
MANY = "it has more fields than the header"
QUOTE = "a quote in it is not closed where its cell ends"
BLANK = "no cell has a value"
UNENDED = "last line without a line end, as in a file that was cut off"


def texts(raw: BinaryIO, encoding: str, name: str) -> Iterator[str]:
    """The decoded text in blocks, with every line end as a line feed and without a byte order mark. A byte that is none of the encoding raises `DataError`."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("strict"), translate=True)
    lines, first, data = 1, True, raw.read(BLOCK)
    while True:
        more = raw.read(BLOCK) if data else b""
        try:
            text = decoder.decode(data, final=not more)
        except UnicodeDecodeError as error:
            line = lines + error.object[: error.start].decode(encoding, "ignore").count("\n")
            utf8 = codecs.lookup(encoding).name == "utf-8"
            how = "as UTF-8, which it should be unless the mapping says otherwise" if utf8 else f"as {encoding}, which the mapping names"
            raise DataError(f"{name} cannot be read {how}.", fix=ENCODING, local=f"near line {line}: {error.reason}") from None
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first, lines = False, lines + text.count("\n")
        if not more:
            return
        data = more


@dataclass
class Table:
    """One open delimited file, read past its header. Rows come from `frames`, once."""

    name: str
    columns: list[str]
    separator: str
    quote: str
    blocks: Iterator[str]
    rest: str
    line: int

    @classmethod
    def open(cls, raw: BinaryIO, name: str, *, encoding: str, separator: str | None, quote: str) -> Table:
        blocks, text, end = texts(raw, encoding, name), "", -1
        while end < 0 and len(text) <= MAX_HEADER:
            block = next(blocks, None)
            if block is None and not text.strip():
                raise DataError(f"{name} is empty.", fix="export the table again, with a header line")
            text = (text + (block or "\n")).lstrip("\n")
            if named := re.match(r"sep=(.)\n", text):  # a line that spreadsheets write for each other
                separator, text = separator or named[1], text[named.end() :]
            end = _record_end(text, quote)
            if block is None and end < 0:
                break
        if end < 0 or end > MAX_HEADER:
            if "\0" in text[:MAX_HEADER]:
                raise DataError(f"{name} has NUL bytes where its header line should be, so it is no table in the encoding that is expected.", fix=ENCODING)
            raise DataError(f"The header line of {name} does not end within {MAX_HEADER >> 20} MiB.", fix=_DAMAGE)
        if "\0" in text[:end]:
            raise DataError(f"{name} has NUL bytes in its header line, so it is no text in the encoding that is expected.", fix=ENCODING)
        if not text[:end].strip():
            raise DataError(f"{name} has no header line.", fix="export the table again, with a header line")
        sep = separator or _separator(text[:end], quote)
        return cls(name, _header(text[: end + 1], sep, quote, name), sep, quote, blocks, text[end + 1 :], 2 + text[:end].count("\n"))

    def frames(self, names: Sequence[str], tally: Tally) -> Iterator[pl.DataFrame]:
        """The named columns as text, null where a cell is empty; fills `tally`."""
        wanted = [self.columns.index(n) for n in names]
        data = self.rest.encode()
        self.rest = ""
        for text in self.blocks:
            data += text.encode()
            cut, frame = self._records(data, wanted, tally)
            if frame is not None:
                yield frame.rename(dict(zip(frame.columns, names, strict=True)))
            self.line += data.count(b"\n", 0, cut)
            data = data[cut:]
            if len(data) > MAX_RECORD:
                raise self._endless(data)
        if data:
            if not data.endswith(b"\n"):
                tally.notes[UNENDED] += 1
                data += b"\n"
            cut, frame = self._records(data, wanted, tally)
            if frame is not None:
                yield frame.rename(dict(zip(frame.columns, names, strict=True)))
            if cut < len(data):
                raise self._endless(data)

    def _records(self, data: bytes, wanted: list[int], tally: Tally) -> tuple[int, pl.DataFrame | None]:
        """How many bytes are whole records, and their wanted columns, or None where there is nothing."""
        found = _split(data, self.separator, self.quote)
        if found is None:
            return self._slowly(data, wanted, tally)
        ends, fields, marks = found
        if not len(ends):
            return 0, None
        width, count = len(self.columns), Counter[str]()
        starts = np.concatenate(([0], ends[:-1] + 1))
        length = ends - starts
        none = (length == 0) if width > 1 else np.zeros(len(ends), dtype=bool)  # a blank line is no record
        nul = _per_record(data, b"\0", ends) > 0
        whole = (fields == width) & ~nul & ~none
        empty = whole & (length == marks) & (width > 1)
        good = whole & ~empty
        count[NUL] = int(nul.sum())
        count[FEW] = int((~nul & ~none & (fields < width)).sum())
        count[MANY] = int((~nul & (fields > width)).sum())
        blank, used = int(empty.sum()), int(good.sum())
        body = data[: ends[-1] + 1] if used == len(ends) else _joined(data, starts, ends, good)
        if body.startswith(codecs.BOM_UTF8):  # a cell's here, and polars would take it for a file's
            return self._slowly(data, wanted, tally)
        frame = self._parse(body, wanted) if used else None
        if frame is not None and len(frame) != used:  # the two parsers must agree on every record
            return self._slowly(data, wanted, tally)
        _add(tally, used, count, blank)
        return int(ends[-1]) + 1, frame

    def _parse(self, body: bytes, wanted: list[int]) -> pl.DataFrame:
        every = {str(i): pl.String() for i in range(len(self.columns))}
        frame = pl.read_csv(
            io.BytesIO(body),
            has_header=False,
            schema=every,
            columns=sorted(set(wanted)),
            separator=self.separator,
            quote_char=self.quote or None,
        )
        return frame.select(pl.col(str(i)).replace("", None).alias(str(k)) for k, i in enumerate(wanted))

    def _slowly(self, data: bytes, wanted: list[int], tally: Tally) -> tuple[int, pl.DataFrame | None]:
        """The same by the `csv` module, for a block in which quotes are not where RFC 4180 has them."""
        csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_RECORD))  # a record's size is bounded here instead
        lines = _Lines(data.decode())
        reader = _reader(lines, self.separator, self.quote, strict=True)
        rows: list[list[str]] = []
        count, blank, done, width = Counter[str](), 0, 0, len(self.columns)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error:
                if lines.ended:
                    break  # the record goes on in the next block
                count[QUOTE] += lines.taken - done  # every line that the quote swallowed
                done = lines.taken
                continue
            done = lines.taken
            if not row and width > 1:
                continue  # a blank line is no record
            row = row or [""]
            if any("\0" in cell for cell in row):
                count[NUL] += 1
            elif len(row) != width:
                count[FEW if len(row) < width else MANY] += 1
            elif width > 1 and not any(cell.strip(self.quote) for cell in row):
                blank += 1
            else:
                rows.append(row)
        _add(tally, len(rows), count, blank)
        cut = sum(len(line.encode()) for line in lines.lines[:done])
        columns = {str(k): pl.Series([r[i] or None for r in rows], dtype=pl.String) for k, i in enumerate(wanted)}
        return cut, pl.DataFrame(columns) if rows else None

    def _endless(self, data: bytes) -> DataError | TooLarge:
        local = f"it starts at line {self.line}"
        if len(data) > MAX_RECORD:
            what = f"A record of {self.name} is longer than {MAX_RECORD >> 20} MiB."
            return TooLarge(what, why="A quote may be missing, or the file is damaged.", fix=_DAMAGE, local=local)
        what = f"{self.name} ends inside a quoted cell, so it cannot be read to its end."
        return DataError(what, why="The file was cut off, or a quote is missing.", fix=_DAMAGE, local=local)


_DAMAGE = 'export the table again; look for a stray quote, or set quote = "" under [source] if quotes have no meaning in this file'


class _Lines:
    """The whole lines of a text, which knows how many were taken and whether more were wanted."""

    def __init__(self, text: str) -> None:
        self.lines = [line + "\n" for line in text.split("\n")[:-1]]
        self.taken, self.ended = 0, False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.taken == len(self.lines):
            self.ended = True
            raise StopIteration
        self.taken += 1
        return self.lines[self.taken - 1]


Positions = NDArray[np.int64]


def _split(data: bytes, separator: str, quote: str) -> tuple[Positions, Positions, Positions] | None:
    """Of each whole record: where its line feed is, how many fields it has, and how many of its bytes are separators or quotes.

    None where a quote stands inside an unquoted cell, or something follows a closing quote.
    """
    array = np.frombuffer(data, dtype=np.uint8)
    lines, seps = array == 10, array == ord(separator)
    if not quote or quote.encode() not in data:
        ends = np.flatnonzero(lines)
        marks = np.searchsorted(np.flatnonzero(seps), ends)
        return ends, np.diff(marks, prepend=0) + 1, np.diff(marks, prepend=0)
    quotes = array == ord(quote)
    inside = np.bitwise_xor.accumulate(quotes.view(np.uint8)).view(np.bool_)  # from an opening quote up to before its closing one
    border = lines | seps | quotes
    before, after = np.concatenate(([True], border[:-1])), np.concatenate((border[1:], [True]))
    if not (np.where(inside, before, after) | ~quotes).all():
        return None
    ends = np.flatnonzero(lines & ~inside)
    marks = np.searchsorted(np.flatnonzero(seps & ~inside), ends)
    signs = np.searchsorted(np.flatnonzero(quotes), ends)
    return ends, np.diff(marks, prepend=0) + 1, np.diff(marks + signs, prepend=0)


def _per_record(data: bytes, byte: bytes, ends: Positions) -> Positions:
    if byte not in data:
        return np.zeros(len(ends), dtype=np.int64)
    places = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord(byte))
    return np.diff(np.searchsorted(places, ends), prepend=0)


def _joined(data: bytes, starts: Positions, ends: Positions, keep: NDArray[np.bool_]) -> bytes:
    """The kept records end to end, taken in runs."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], keep, [False])).astype(np.int8)))
    return b"".join(data[starts[a] : ends[b - 1] + 1] for a, b in zip(edges[::2], edges[1::2], strict=True))


def _add(tally: Tally, used: int, refused: Counter[str], blank: int) -> None:
    tally.read += used + refused.total() + blank
    tally.used += used
    tally.refused.update(+refused)
    if blank:
        tally.left_out[BLANK] += blank


def _record_end(text: str, quote: str) -> int:
    """Where the first record's line feed is, or -1 if it is not there yet."""
    end = text.find("\n")
    while quote and end >= 0 and text.count(quote, 0, end) % 2:
        end = text.find("\n", end + 1)
    return end


def _reader(lines: Iterator[str], separator: str, quote: str, *, strict: bool = False) -> Iterator[list[str]]:
    if not quote:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=strict)
    return csv.reader(lines, delimiter=separator, quotechar=quote, strict=strict)


def _separator(header: str, quote: str) -> str:
    bare = re.sub(f"{quote}[^{quote}]*{quote}", "", header) if quote else header
    found = Counter(c for c in bare if c in SEPARATORS).most_common(1)
    return found[0][0] if found else ","


def _header(text: str, separator: str, quote: str, name: str) -> list[str]:
    try:
        rows = list(_reader(_Lines(text), separator, quote))
    except csv.Error as error:
        raise DataError(f"The header line of {name} cannot be read.", fix=_DAMAGE, local=str(error)) from None
    columns = [n if n.strip() else f"column_{i}" for i, n in enumerate(rows[0] if rows else [""], 1)]
    if len(columns) > MAX_COLUMNS:
        raise TooLarge(f"{name} has more than {MAX_COLUMNS:,} columns.", fix="keep only the columns that the study needs")
    return no_twins(columns, name)
