"""A first draft of a contract from one table: for its author to correct, and then to publish.

Because it is to be published, it holds nothing that fewer than 11 patients share: ranges are rounded outwards from values that at least
11 patients lie beyond, categories are those of at least 11, of rarer ones only their number is told, shares come in steps of 5 %.
Where no column says whose row it is, the draft says that rows were counted instead.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from locum.data import toml_text as toml
from locum.data import units
from locum.data.names import Concept, concepts, meant, split_unit, variable_name, words
from locum.data.profile import LEAST, Profile, bounds, profile, sentinels
from locum.data.sources.base import Source, SourceSpec
from locum.errors import DataError, ManifestError
from locum.study.contract import CONTRACT_SCHEMA, EPOCH, ContractFile

CHECK = "CHECK: "
MAX_CATEGORIES = 40
_BOOLEANS = ({"0", "1"}, {"true", "false"}, {"yes", "no"}, {"y", "n"}, {"j", "n"}, {"ja", "nein"}, {"oui", "non"}, {"si", "no"}, {"t", "f"})


@dataclass
class Line:
    """One key of a variable, with what its author should know of it. value None: the comment stands alone."""

    key: str
    value: Any = None
    why: str = ""


@dataclass
class Drafted:
    """One column on its way into a contract. skipped: why it is left out."""

    name: str
    column: str
    lines: list[Line] = field(default_factory=list)
    skipped: str = ""

    def get(self, key: str) -> Any:
        return next((line.value for line in self.lines if line.key == key), None)


@dataclass(frozen=True)
class Draft:
    """text: of the contract file. columns: variable -> the column that it was drafted from. left_out: column -> why."""

    text: str
    columns: dict[str, str]
    left_out: dict[str, str]
    rows: int


def draft_contract(source: Source, *, spec: SourceSpec | None = None, name: str = "", title: str = "", patient: str | None = None) -> Draft:
    """A contract for `source`, whose tables of other hospitals are to be like it. patient: its column of patient identifiers.

    Reads the source once. Raises what it raises, and `DataError` where it has no column or too few patients to say anything of.
    """
    columns = source.columns()
    if patient is not None and patient not in columns:
        raise DataError(f"{source.name} has no column '{patient}'.", fix="name the column of the patients' identifiers")
    who = patient or _patient(columns)
    found = profile(source, spec, patient=who)
    rows = max((p.rows for p in found.values()), default=0)
    if rows < 5 * LEAST:
        raise DataError(
            f"{source.name} has fewer than {5 * LEAST} rows, too few to draft a contract from.",
            why="A draft is to be published, and says nothing that fewer than 11 patients share.",
            fix="draft it from the table of a larger hospital, or write it by hand",
        )
    drafted = _all(found, patient, who)
    text = "\n".join(_text(source.name, name or _file_name(source.name), title, drafted, who)) + "\n"
    return Draft(text, {d.name: d.column for d in drafted if not d.skipped}, {d.column: d.skipped for d in drafted if d.skipped}, rows)


def _patient(columns: list[str]) -> str | None:
    """The column whose name says most clearly that it holds the patient."""
    order = ["".join(words(n)) for n in concepts()["patient"].names]
    sure = [c for c in columns if meant(c).get("patient", 0.0) >= 0.9]
    return min(sure, key=lambda c: order.index("".join(words(c))) if "".join(words(c)) in order else 2, default=None)


def _all(found: Mapping[str, Profile], given: str | None, who: str | None) -> list[Drafted]:
    drafted: list[Drafted] = []
    taken: set[str] = set()
    patients = [p for p in found.values() if p.name == who and (given or p.unique > 0.02)]
    for p in found.values():
        variable = Drafted(variable_name(p.name, taken), p.name)
        sure = meant(p.name)
        concept = concepts()[max(sure, key=sure.__getitem__)] if sure and max(sure.values()) >= 0.7 else None
        if patients and p is patients[0]:
            variable.lines = [Line("type", "text"), Line("role", "patient", "keeps a patient's rows together"), Line("label", toml.plain(p.name[:200]))]
        else:
            _describe(variable, p, concept)
        if not variable.skipped:
            taken.add(variable.name)
        drafted.append(variable)
    _give_roles(drafted)
    if not any(not d.skipped for d in drafted):
        raise DataError("No column of the table can become a variable.", fix="export columns of numbers, codes or dates")
    return drafted


def _describe(variable: Drafted, p: Profile, concept: Concept | None) -> None:
    """Type, unit, ranges, categories and missingness of one column."""
    kind = concept.kind if concept else ""
    if p.shape is not None:
        variable.lines = [Line("type", "array"), Line("shape", list(p.shape))]
        return
    if p.filled < 5 * LEAST:
        variable.skipped = "hardly any values" if p.rows else "no rows"
    elif kind == "identifier":
        variable.skipped = "its name says that it identifies people"
    elif concept is not None and concept.key == "group" and (p.whole == p.numbers == p.filled or p.counts is not None) and p.unique < 0.5:
        variable.lines.append(Line("type", "text"))
    elif re.search(r"(?i)(?<![a-z])id$|[a-z]id$|_nr$|number$", p.name) and p.whole == p.numbers and (p.counts is None or len(p.counts) > MAX_CATEGORIES):
        variable.skipped = "an identifier or a key, by its name"
    elif p.date_format is not None and (p.number_share < 0.5 or "date" in p.name.lower()):
        _date(variable, p)
    elif p.number_share >= 0.95 and not _coded(p, concept):
        _number(variable, p, concept)
    elif p.counts is not None and p.common() and p.longest <= 64 and len(p.counts) <= MAX_CATEGORIES:
        _categories(variable, p)
    elif kind == "role" and concept is not None and concept.key == "group" and p.counts is not None and p.unique < 0.5:
        variable.lines.append(Line("type", "text"))
    else:
        variable.skipped = (
            "free text or identifiers: too many different values" if p.counts is None or len(p.counts) > MAX_CATEGORIES else "its values are rare"
        )
    if not variable.skipped:
        variable.lines.append(Line("max_missing", _share(p.missing / p.rows)))
        variable.lines.insert(1, Line("label", toml.plain(p.name[:200])))


def _coded(p: Profile, concept: Concept | None) -> bool:
    """Whether whole numbers are codes rather than amounts: few of them, and small."""
    if p.counts is None or p.whole != p.numbers or p.numbers != p.filled or (concept is not None and concept.kind == "quantity"):
        return False
    return len(p.counts) <= 6 and len(p.common()) >= 1 and all(abs(float(v)) < 100 for v in p.counts)


def _date(variable: Drafted, p: Profile) -> None:
    variable.lines.append(
        Line("type", "date", "" if p.date_format == "%Y-%m-%d" else f'a site whose dates are written so maps it with format = "{p.date_format}"')
    )
    limits = bounds(p, 0.01) if p.number_share < 0.5 else None  # 20200131 is kept as the number that it is
    if limits is not None:
        first, last = (EPOCH + timedelta(days=d) for d in limits)
        low, high = date(first.year // 5 * 5, 1, 1), date(last.year // 5 * 5 + 10, 1, 1)
        variable.lines += [Line("minimum", low.isoformat(), "rounded to five years"), Line("maximum", high.isoformat())]


def _number(variable: Drafted, p: Profile, concept: Concept | None) -> None:
    kind = (concept.type if concept else None) or ("integer" if p.whole == p.numbers and p.counts is not None and len(p.counts) <= 30 else "number")
    variable.lines.append(Line("type", kind if p.whole == p.numbers else "number"))
    if p.numbers < p.filled:
        variable.lines.append(Line("", why=CHECK + "a few cells are no numbers; sites list them as missing = [...] in their mapping"))
    unit = split_unit(p.name)[1]
    known = concept if concept is not None and concept.kind == "quantity" else None
    hard = _in_unit(known.hard, known, unit) if known else None
    spikes = sentinels(p, hard)
    rest = bounds(p, 0.01, spikes)
    _unit(variable, known, unit, bounds(p, 0.25, spikes))
    if known is not None and known.molar is not None and variable.get("unit"):
        variable.lines.append(Line("molar_mass", known.molar, "g/mol, for sites that give mmol/L instead of mg/dL, or the other way round"))
    for value, share in spikes.items():
        variable.lines.append(
            Line("", why=f"{CHECK}{value:g} in about {_percent(share)} of the values, apart from the others. If it means no value: missing_codes = [{value:g}]")
        )
    if rest is None:
        variable.lines.append(Line("", why=CHECK + "too few values to draft a range that may be published; set minimum, maximum and plausible"))
        return
    low, high = outward(*rest)
    limits = hard if hard is not None and variable.get("unit") and hard[0] <= low and high <= hard[1] else _wider(p, low, high, spikes)
    variable.lines.append(
        Line("minimum", limits[0], "outside of these nothing can be right") if limits[0] is not None else Line("", why=CHECK + "no minimum drafted")
    )
    variable.lines.append(Line("maximum", limits[1]) if limits[1] is not None else Line("", why=CHECK + "no maximum drafted: the values have a long tail"))
    variable.lines.append(Line("plausible", [low, high], "holds about 98 % of the values here, rounded outwards"))


def _unit(variable: Drafted, known: Concept | None, named: str | None, middle: tuple[float, float] | None) -> None:
    """The unit from the name; else the usual one, if the values are plausible in it; else the one in which they are."""
    if named is not None:
        variable.lines.append(Line("unit", named, "from the column's name"))
        return
    if (known is None or known.unit is None) and variable.get("type") == "integer":
        return
    if known is None or known.unit is None:
        variable.lines.append(Line("", why=CHECK + 'which unit? for example unit = "mg/dL" (UCUM)'))
        return
    inside = middle is not None and known.plausible is not None and all(known.plausible[0] <= q <= known.plausible[1] for q in middle)
    others = () if inside or middle is None else units.suggest(middle, known.unit, known.plausible, known.molar)
    if inside or known.plausible is None:
        variable.lines.append(Line("unit", known.unit, f"{CHECK}the usual unit of {known.key.replace('_', ' ')}, which its values fit"))
    elif others:
        variable.lines.append(Line("unit", others[0], f"{CHECK}its values fit this unit of {known.key.replace('_', ' ')}, not {known.unit}"))
    else:
        variable.lines.append(Line("", why=f"{CHECK}its values are not those of {known.key.replace('_', ' ')} in {known.unit}: which unit?"))


def _in_unit(limits: tuple[float, float] | None, known: Concept, unit: str | None) -> tuple[float, float] | None:
    """A concept's range in the unit that the column's name gives."""
    if limits is None or known.unit is None or unit in (None, known.unit):
        return limits
    try:
        factor = units.convert_factor(known.unit, str(unit), known.molar)
    except ManifestError:
        return None
    low, high = factor(limits[0]), factor(limits[1])
    return float(f"{low:.3g}"), float(f"{high:.3g}")


def _wider(p: Profile, low: float, high: float, spikes: Mapping[float, float]) -> tuple[float | None, float | None]:
    """The plausible range, widened by its own width on both sides; no limit where LEAST patients or more lie beyond even that."""
    width = high - low
    least, most = float(f"{low - width:.6g}"), float(f"{high + width:.6g}")
    rest = bounds(p, 0.0, spikes) or (low, high)
    if low >= 0:
        least = 0.0 if rest[0] >= 0 else least
    return least if rest[0] >= least else None, most if rest[1] <= most else None


def _categories(variable: Drafted, p: Profile) -> None:
    shared = [v for v in p.common() if toml.plain(v) == v]
    if any({v.lower() for v in p.counts or ()} <= b for b in _BOOLEANS):
        sex = "sex" in meant(p.name)
        variable.lines.append(Line("type", "boolean", f"{CHECK}of which sex is 1? Better a variable called female" if sex else ""))
        return
    variable.lines.append(Line("type", "category"))
    numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", v) for v in shared)
    ordered = sorted(shared, key=float) if numeric else sorted(shared)
    variable.lines.append(Line("categories", ordered, f'{CHECK}codes, or amounts (type = "integer")?' if numeric else ""))
    rare = len(p.counts or ()) - len(shared)
    if rare:
        variable.lines.append(
            Line(
                "",
                why=f"{CHECK}{rare} more, of fewer than {LEAST} patients each or no plain text, left out; add those you know, or other = one of these",
            )
        )


def _give_roles(drafted: list[Drafted]) -> None:
    """Roles by name: at most one time, event and patient, and the first outcome; the rest are features."""
    fits = {"time": ("number", "integer"), "event": ("boolean", "category"), "outcome": ("boolean", "category", "integer", "number"), "group": None}
    for role, types in fits.items():
        open_ = [d for d in drafted if not d.skipped and d.get("role") is None and (types is None or d.get("type") in types)]
        sure = {id(d): meant(d.column).get(role, 0.0) for d in open_}
        best = max(open_, key=lambda d: sure[id(d)], default=None)
        if best is not None and sure[id(best)] >= 0.8:
            at = next(i for i, line in enumerate(best.lines) if line.key == "type") + 1
            best.lines.insert(at, Line("role", role, CHECK + "by its name"))


def outward(low: float, high: float) -> tuple[float, float]:
    """A range rounded outwards to steps of about a twentieth of its width: 1, 2 or 5 times a power of ten."""
    width = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-12)
    exponent = math.floor(math.log10(width / 20))
    step = next(m * 10.0**exponent for m in (1, 2, 5, 10) if m * 10.0**exponent >= width / 20 * (1 - 1e-9))
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if bottom == top:
        bottom, top = bottom - step, top + step
    return round(bottom, -exponent), round(top, -exponent)


def _share(share: float) -> float:
    """A share of missing values, rounded up to 5 % and never 0: other hospitals differ."""
    return min(1.0, max(0.05, math.ceil(round(share * 20, 9)) / 20))


def _percent(share: float) -> str:
    return f"{max(5, round(share * 20) * 5)} %"


def _file_name(source: str) -> str:
    plain = re.sub(r"[^a-z0-9_.-]+", "-", source.rsplit(".", 1)[0].lower()).strip("-._")
    return plain[:60] or "contract"


def _text(source: str, name: str, title: str, drafted: list[Drafted], who: str | None) -> Iterator[str]:
    yield toml.comment(f"Drafted from {source}. Read every line, correct it, and remove the comments; lines with CHECK need a decision.")
    yield toml.comment("It quotes the names of columns, and texts that many patients share: see that none of them names a person.")
    if who is not None:
        yield toml.comment(f"Nothing in it is shared by fewer than {LEAST} patients of the table, so that it may be published.")
    else:  # eleven rows may be one patient's
        yield toml.comment(f"{CHECK}no column was known to say whose row it is, so each row counts as a patient, and nothing is of fewer than {LEAST} rows.")
        yield toml.comment("If a patient may have several rows, draft it again with --patient COLUMN before it is published.")
    yield f"schema = {toml.value(CONTRACT_SCHEMA)}"
    yield f"name = {toml.value(name)}"
    yield f"title = {toml.value(toml.plain(title))}"
    for d in drafted:
        yield ""
        if d.skipped:
            yield toml.comment(f"left out: {d.column} ({d.skipped})")
            continue
        yield f"[variables.{d.name}]"
        for line in d.lines:
            if line.value is None:
                yield toml.comment(line.why)
            else:
                yield f"{line.key} = {toml.value(line.value)}" + (f"  {toml.comment(line.why)}" if line.why else "")


def parse(text: str) -> ContractFile:
    """The draft as a contract: it is always a valid one."""
    return ContractFile.parse(tomllib.loads(text), where="draft")
