"""What a column's name says: the words in it, the clinical concept it may mean, and the unit that it carries.

The concepts and their names in four languages are in `clinical.toml`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from locum.data import units
from locum.data.spellings import COMMON, WORDS, spelled

MAX_NAME = 200
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "µ": "u", "μ": "u", "²": "2", "°": " "})
_LOINC = re.compile(r"(?<!\d)(\d{1,5}-\d)(?!\d)")


@dataclass(frozen=True)
class Concept:
    """A clinical variable. kind: 'quantity', 'attribute', 'role' or 'identifier'. plausible, hard: in `unit`. molar: g/mol."""

    key: str
    kind: str
    names: tuple[str, ...]
    loinc: tuple[str, ...] = ()
    unit: str | None = None
    molar: float | None = None
    plausible: tuple[float, float] | None = None
    hard: tuple[float, float] | None = None
    type: str | None = None


@cache
def concepts() -> dict[str, Concept]:
    """The table of `clinical.toml`, by key."""
    raw: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(files("locum.data").joinpath("clinical.toml").read_text(encoding="utf-8"))
    made: dict[str, Concept] = {}
    for kind, table in raw.items():
        for key, row in table.items():
            for k in ("names", "loinc"):
                row[k] = tuple(part.strip() for part in row.get(k, "").split(",") if part.strip())
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
            made[key] = Concept(key, kind, **values)
    return made


@cache
def _by_name() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for concept in concepts().values():
        for name in (concept.key.replace("_", " "), *concept.names):
            found.setdefault(name.replace(" ", ""), {})[concept.key] = None
    return {name: tuple(keys) for name, keys in found.items()}


@cache
def _by_loinc() -> dict[str, str]:
    return {code: c.key for c in concepts().values() for code in c.loinc}


@lru_cache(maxsize=8192)
def words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name, without accents: "Cholesterin (mg/dl)" -> cholesterin, mg, dl; "heartRate" -> heart, rate."""
    text = unicodedata.normalize("NFKD", name[:MAX_NAME].translate(_UMLAUTS))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


@lru_cache(maxsize=8192)
def split_unit(name: str) -> tuple[tuple[str, ...], str | None]:
    """The words of a name without its unit, and that unit in UCUM: "chol_mgdl" -> (chol,), mg/dL; "weight (kg)" -> (weight,), kg."""
    name = name[:MAX_NAME]
    inside = re.search(r"[(\[{]([^()\[\]{}]{1,30}(?:\[[^\]]{1,20}\][^()]{0,10})?)[)\]}]\s*$", name)
    if inside:
        unit = spelled(inside[1].strip(), units.valid)
        if unit:
            return words(name[: inside.start()]), unit
    plain = words(name)
    for count in (4, 3, 2, 1):
        if len(plain) > count:
            known = _suffixes().get("".join(plain[-count:]))
            if known:
                rest = plain[:-count]
                return (rest[:-1] if rest[-1] in ("in", "en") and len(rest) > 1 else rest), known
    return plain, None


@cache
def _suffixes() -> dict[str, str]:
    """How a unit looks at the end of a name, where no sign but the underscore is left: mgdl, mmoll, kgm2, mmhg, years."""
    table: dict[str, str] = {}
    for unit in COMMON:
        squeezed = re.sub(r"[^a-z0-9]", "", unit.lower().replace("10*", "10e"))
        if len(squeezed) > 1 and unit not in ("min", "ms", "wk", "ml", "V", "Hz"):
            table.setdefault(squeezed, unit)
    return table | {w: u for w, u in WORDS.items() if len(w) > 2} | {"mmhg": "mm[Hg]", "pct": "%", "percent": "%", "cel": "Cel", "degf": "[degF]"}


def meant(name: str, code: str | None = None, label: str = "") -> dict[str, float]:
    """Concept -> how sure it is that this is meant, from 0 to 1: by its LOINC code, by its name, by its label."""
    found: dict[str, float] = {}
    for coded in (code or "", name):
        for loinc in _LOINC.findall(coded[:MAX_NAME]):
            if loinc in _by_loinc():
                found[_by_loinc()[loinc]] = 1.0
    for text, trust in ((name, 1.0), (label, 0.9)):
        for key, sure in _named(text[:MAX_NAME]).items():
            found[key] = max(found.get(key, 0.0), sure * trust)
    return found


@lru_cache(maxsize=8192)
def _named(name: str) -> dict[str, float]:
    plain, _ = split_unit(name)
    found: dict[str, float] = {}
    if not plain:
        return found
    for size in range(len(plain), 0, -1):
        for start in range(len(plain) - size + 1):
            part = "".join(plain[start : start + size])
            whole = size == len(plain)
            if not whole and (len(part) < 2 or part == "id"):
                continue
            sure = 1.0 if whole else 0.9 if len(part) > 3 else 0.7
            for key in _by_name().get(part, ()):
                found[key] = max(found.get(key, 0.0), sure * (1.0 if whole else 0.6 + 0.4 * len(part) / len("".join(plain))))
    if not found:
        joined = "".join(plain)
        for known, keys in _by_name().items():
            if len(known) >= 4 and known in joined:
                for key in keys:
                    found[key] = max(found.get(key, 0.0), 0.5 + 0.4 * len(known) / len(joined))
            elif len(known) >= 3 and joined.endswith(known) and len(joined) - len(known) == 1:  # RSBP: one letter for the visit
                found.update({key: max(found.get(key, 0.0), 0.7) for key in keys})
        if not found and len(joined) >= 6:
            for known in difflib.get_close_matches(joined, _by_name(), n=1, cutoff=0.85):  # a typing error
                found.update(dict.fromkeys(_by_name()[known], 0.7))
    return found


def alike(left: str, right: str, *, letters: bool = True) -> float:
    """How alike two names are as words, from 0 to 1, whatever their order, case and unit. letters: also as mere letters, which is slow."""
    a, b = split_unit(left)[0], split_unit(right)[0]
    if not a or not b:
        return 0.0
    if "".join(a) == "".join(b):
        return 1.0
    shared = [w for w in a if w in b]
    common = sum(len(w) for w in shared) * 2 / (sum(map(len, a)) + sum(map(len, b)))
    if len("".join(shared)) >= 6 and (len(shared) == len(a) or len(shared) == len(b)):
        common = max(common, 0.75)  # one says all that the other says
    return max(0.95 * common, 0.9 * difflib.SequenceMatcher(None, "".join(a), "".join(b)).ratio() if letters else 0.0)


def variable_name(column: str, taken: set[str]) -> str:
    """A name for a variable that the contract allows: words joined by underscores, without the unit, unlike those taken."""
    plain = "_".join(split_unit(column)[0]) or "variable"
    if not plain[0].isalpha():
        plain = "v_" + plain
    plain = plain[:56]
    name, n = plain, 2
    while name in taken:
        name, n = f"{plain}_{n}", n + 1
    return name
