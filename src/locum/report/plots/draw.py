"""SVG pieces that stand alone: no script, no font, no link, nothing loaded; every text escaped, every number rounded.

Colours are Okabe and Ito's (Color Universal Design, 2008), which people with any colour vision tell apart; their yellow is left out,
since it does not show on white.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from locum.errors import LocumError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4a86", "#56a0d3", "#b8860b", "#333333")
INK, QUIET, GRID, ALERT = "#112233", "#4a5a6a", "#e6ebea", "#a11111"
NO_DATA = "no data"
MANY = 100_000
"""More points than this are no plot that people read, and no small file."""
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class PlotError(LocumError):
    """Something that cannot be drawn: a text where a number belongs, lists of different lengths."""

    code = "plot"


def clean(text: object) -> str:
    """Text for XML: escaped, on one line, without the characters that XML forbids."""
    return escape(" ".join(_UNPRINTABLE.sub("\ufffd", str(text)).split()))


def px(value: float) -> str:
    """A length in pixels with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def wide(text: str, size: float) -> float:
    """About how wide a text is in pixels; letters of East Asia count double."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.58 for c in text)


def cut(text: str, width: float, size: float) -> str:
    """The text, or as much as fits the width with three dots."""
    text = str(text)
    if wide(text, size) <= width:
        return text
    while text and wide(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrap(text: str, width: float, size: float, most: int = 3) -> list[str]:
    """The text on lines that fit the width; a word too long for one is cut, and so is what `most` lines cannot hold."""
    lines: list[str] = []
    for word in str(text).split():
        if lines and wide(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [cut(line, width, size) for line in lines]


def text(
    x: float, y: float, words: object, *, anchor: str = "start", size: float = 12, fill: str = INK, bold: bool = False, turn: bool = False, width: float = 1e9
) -> str:
    """Words at (x, y); with `width`, cut to it and whole in a tooltip. turn: upwards, as along a y axis."""
    shown = cut(str(words), width, size)
    whole = f"<title>{clean(words)}</title>" if shown != str(words) else ""
    more = (' font-weight="600"' if bold else "") + (f' transform="rotate(-90 {px(x)} {px(y)})"' if turn else "")
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{px(x)}" y="{px(y)}"{end} font-size="{px(size)}" fill="{fill}"{more}>{whole}{clean(shown)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, *, stroke: str = INK, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}" stroke="{stroke}" stroke-width="{px(width)}"{dashed}/>'


def rect(x: float, y: float, width: float, height: float, fill: str, *, opacity: float = 1.0, tip: str = "", stroke: str = "") -> str:
    faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    edge = f' stroke="{stroke}"' if stroke else ""
    body = f"><title>{clean(tip)}</title></rect>" if tip else "/>"
    return f'<rect x="{px(x)}" y="{px(y)}" width="{px(max(0.0, width))}" height="{px(max(0.0, height))}" fill="{fill}"{faint}{edge}{body}'


def circle(x: float, y: float, r: float, fill: str, *, stroke: str = "", tip: str = "") -> str:
    edge = f' stroke="{stroke}" stroke-width="1.5"' if stroke else ""
    body = f"><title>{clean(tip)}</title></circle>" if tip else "/>"
    return f'<circle cx="{px(x)}" cy="{px(y)}" r="{px(r)}" fill="{fill}"{edge}{body}'


def path(points: Iterable[tuple[float, float]], *, stroke: str = "none", width: float = 2, fill: str = "none", opacity: float = 1.0, dash: str = "") -> str:
    """A line through the points; points that fall on the last pixel are left out. '' without any."""
    points = list(points)
    apart = 0.1 if len(points) <= 1000 else 0.7
    steps: list[str] = []
    last = (math.inf, math.inf)
    for x, y in points:
        if abs(x - last[0]) + abs(y - last[1]) >= apart:
            steps.append(f"{px(x)} {px(y)}")
            last = (x, y)
    if not steps:
        return ""
    end = "Z" if fill != "none" else ""
    more = (f' fill-opacity="{opacity:g}"' if opacity < 1 else "") + (f' stroke-dasharray="{dash}"' if dash else "")
    pen = f' stroke="{stroke}" stroke-width="{px(width)}" stroke-linejoin="round"' if stroke != "none" else ""
    return f'<path d="M{"L".join(steps)}{end}" fill="{fill}"{pen}{more}/>'


def svg(width: float, height: float, title: str, drawn: Iterable[str]) -> str:
    """The picture, on white; `title` is what a screen reader says."""
    name = clean(title) or "figure"
    size = f'viewBox="0 0 {px(width)} {px(height)}" width="{px(width)}" height="{px(height)}" style="max-width:100%;height:auto"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" role="img" aria-label="{name}"><title>{name}</title>'
    return f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}</svg>\n'


def heading(title: str, width: float, left: float = 12.0) -> tuple[list[str], float]:
    """The title over a picture, on as many lines as it needs, and how many pixels it takes."""
    lines = wrap(title, width - 2 * left, 14.5)
    return [text(left, 22 + 18 * k, words, size=14, bold=True) for k, words in enumerate(lines)], 10.0 + 18.0 * max(1, len(lines))


def empty(title: str, width: float = 520, height: float = 140) -> str:
    """A picture that says that there is nothing to draw."""
    drawn, top = heading(title, width)
    middle = top + (height - top) / 2.0
    return svg(width, height, f"{title}: {NO_DATA}" if title else NO_DATA, [*drawn, text(width / 2.0, middle, NO_DATA, anchor="middle", size=14, fill=QUIET)])


def dashed(k: int) -> str:
    """How the k-th line is dashed: not, until the colours are used up."""
    return ("", "7 3", "2 3", "9 3 2 3")[k // len(COLOURS) % 4]


def key(names: Sequence[str], y: float, left: float, width: float) -> tuple[list[str], float]:
    """A legend of colours on as many lines as it needs, and how many pixels it takes."""
    drawn, x, row = [], left, 0
    for k, name in enumerate(names):
        shown = cut(name, width - 30, 12)
        if x > left and x + wide(shown, 12) + 26 > left + width:
            x, row = left, row + 1
        drawn += [line(x, y + 18 * row + 6, x + 20, y + 18 * row + 6, stroke=COLOURS[k % len(COLOURS)], width=4, dash=dashed(k))]
        drawn.append(text(x + 26, y + 18 * row + 10.5, shown, size=12))
        x += wide(shown, 12) + 44
    return drawn, 18.0 * (row + 1) + 4.0


def number(value: Any, what: str) -> float:
    """A float; NaN for None, infinite beyond 1e15, 0 below 1e-100. Raises `PlotError` for anything that is no number."""
    if value is None:
        return math.nan
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        out = float(value)
        return math.copysign(math.inf, out) if abs(out) > 1e15 else 0.0 if abs(out) < 1e-100 else out
    except (TypeError, ValueError, OverflowError):
        raise PlotError(f"The plot's {what} holds something that is no number.", fix="give numbers, and None where a value is missing") from None


def numbers(values: Any, what: str) -> list[float]:
    """Floats; NaN for None. Raises `PlotError` for what is no list of numbers, or too long a list."""
    if values is None:
        return []
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise PlotError(f"The plot's {what} is no list of numbers.", fix="give a list, one number each")
    out = [number(v, what) for v in values]
    if len(out) > MANY:
        raise PlotError(f"The plot's {what} has {len(out):,} points; at most {MANY:,} are drawn.", fix="summarise them first")
    return out


def same(what: str, *lists: Sequence[Any]) -> None:
    """Raises `PlotError` unless all lists are as long as the first."""
    if len({len(x) for x in lists}) > 1:
        raise PlotError(f"The plot's {what} has lists of different lengths: {', '.join(str(len(x)) for x in lists)}.", fix="give one number for each point")


def field(row: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """A row as a mapping, whether it came as one or as a tuple in the order of `names`."""
    if isinstance(row, Mapping):
        return {name: row.get(name) for name in names}
    if isinstance(row, Sequence) and not isinstance(row, str | bytes) and 0 < len(row) <= len(names):
        return dict.fromkeys(names) | dict(zip(names, row, strict=False))
    raise PlotError(f"A row of the plot's {what} is not ({', '.join(names)}).", fix="give tuples in that order, or mappings with those names")


def shown(value: float, digits: int = 3) -> str:
    """A number as people write it: three significant digits, no exponent where it can be helped."""
    if math.isnan(value):
        return "?"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    if abs(value) >= 1e7 or abs(value) < 10.0 ** -(digits + 2):
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
