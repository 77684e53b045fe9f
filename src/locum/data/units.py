"""Units of the Unified Code for Units of Measure (UCUM, https://ucum.org): from one unit to another, exactly or not at all.

The grammar and the table of units are UCUM's own (version 2.2), as the package ucumvert ships them. The arithmetic is ours, on
fractions: a float error is not added, and nothing that a peer sent is ever evaluated as an expression. It departs from UCUM's
table where medicine does:

- a mole, an equivalent and an osmole are three things, not one number: a molar mass, a charge, a count of particles lies between;
- an arbitrary unit ([iU], [CFU], ...) is a thing of its own, never a pure number;
- text in braces is ignored, but {FEU} is not converted to {DDU};
- a share of molecules (mmol/mol) is not turned into a per cent: HbA1c needs another formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from locum.data.spellings import COMMON, nearest, spelled
from locum.errors import ManifestError

if TYPE_CHECKING:
    from lark import Lark

MAX_UNIT = 64
"""Characters of a unit at most: the parser's time grows faster than the text."""
MAX_POWER = 40
MAX_BITS = 4096
"""Of a unit's numerator and denominator: (((10*40)40)40)40 is short to write and long to compute."""
_BASE = ("m", "s", "g", "rad", "K", "C", "cd", "mol", "eq", "osm")
_CELSIUS = Fraction("273.15")
_ZERO = {"Cel": (Fraction(1), _CELSIUS), "[degF]": (Fraction(5, 9), Fraction("459.67") * 5 / 9), "[degRe]": (Fraction(5, 4), _CELSIUS)}
"""Scales whose zero is not at 0 K: kelvin = value * scale + offset."""


@dataclass(frozen=True)
class Affine:
    """value in the target's unit = value in the source's unit * scale + offset."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, value: float) -> float:
        return value * self.scale + self.offset


@dataclass(frozen=True)
class Measure:
    """A unit in terms of base units: value * scale + offset, times the product of base ** power. atoms: the units named in it."""

    scale: Fraction
    offset: Fraction = Fraction(0)
    powers: tuple[tuple[str, int], ...] = ()
    atoms: frozenset[str] = frozenset()
    about: frozenset[str] = frozenset()

    def times(self, other: Measure, sign: int = 1) -> Measure:
        """The product, or with sign -1 the quotient."""
        if self.offset or other.offset:
            raise ValueError("a temperature in Cel or [degF] stands alone; in a product write K")
        powers = dict(self.powers)
        for base, power in other.powers:
            powers[base] = powers.get(base, 0) + sign * power
        scale = self.scale * other.scale**sign
        return Measure(scale, Fraction(0), tuple(sorted((b, p) for b, p in powers.items() if p)), self.atoms | other.atoms, self.about | other.about)

    def power(self, exponent: int) -> Measure:
        digits = max(self.scale.numerator.bit_length(), self.scale.denominator.bit_length())
        if self.offset or any(abs(p * exponent) > MAX_POWER for _, p in self.powers) or digits * abs(exponent) > MAX_BITS:
            raise ValueError("an exponent is too large, or stands at a temperature in Cel or [degF]")
        return Measure(self.scale**exponent, Fraction(0), tuple((b, p * exponent) for b, p in self.powers), self.atoms, self.about)


def convert_factor(source: str, target: str, molar_mass: float | None = None) -> Affine:
    """How a value in the unit `source` becomes one in `target`; raises `ManifestError`, which says why it cannot be.

    molar_mass: of the analyte in g/mol, for mg/dL <-> mmol/L and the like.
    """
    have, want = measure(source), measure(target)
    if source == target:
        return Affine()
    problem = _different(have, want)
    if problem:
        raise ManifestError(f"A value in {_quote(source)} cannot be turned into {_quote(target)}.", why=problem[0], fix=problem[1])
    scale = have.scale / want.scale
    if have.powers != want.powers:
        scale = _molar(source, target, have, want, molar_mass, scale)
    try:
        return Affine(float(scale), float((have.offset - want.offset) / want.scale))
    except OverflowError:
        raise ManifestError(f"The factor from {_quote(source)} to {_quote(target)} is no number of this world.", fix="correct the unit") from None


def _different(have: Measure, want: Measure) -> tuple[str, str] | None:
    """Why two units do not measure the same, and what helps; None where they may."""
    arbitrary = {b for m in (have, want) for b, _ in m.powers if b not in _BASE}
    if arbitrary and have.powers != want.powers:
        if {"[iU]", "[IU]"} & arbitrary:
            return "An international unit (IU) is defined by the effect of each substance: there is no general factor.", (
                "give the substance's own factor as scale = ... in the mapping; where IU stands for an enzyme's activity, the unit is U"
            )
        return f"{min(arbitrary)} is no linear measure of anything else.", "give scale = ... and offset = ... in the mapping, or map a column in the right unit"
    if have.about and want.about and have.about != want.about:
        return "They count different things: what stands in braces differs.", "where it is the same after all, leave the text in braces out"
    if not have.powers and not want.powers and ("mol" in have.atoms) != ("mol" in want.atoms):
        return "A share of molecules is not a share of the amount.", (
            "give scale and offset in the mapping; HbA1c in % (NGSP) is 0.0915 times the value in mmol/mol (IFCC), plus 2.15"
        )
    if have.powers == want.powers or _amounts(have, want) == {"g", "mol"}:
        return None
    if _amounts(have, want) in ({"eq", "mol"}, {"osm", "mol"}):
        return "Equivalents and osmoles are moles times a number that depends on the substance.", "give it as scale = ...; for Na+, K+, Cl- and HCO3- it is 1"
    return "They do not measure the same quantity.", "correct the unit in the mapping, or map another column"


def _amounts(have: Measure, want: Measure) -> set[str]:
    """The two kinds of amount by which alone the units differ (grams against moles, say); empty where that is not all."""
    left, right = dict(have.powers), dict(want.powers)
    rest = [b for b in {*left, *right} if left.get(b, 0) != right.get(b, 0)]
    once = len(rest) == 2 and all({left.get(b, 0), right.get(b, 0)} == {0, 1} for b in rest) and left.get(rest[0], 0) != left.get(rest[1], 0)
    return set(rest) if once and set(rest) <= {"g", "mol", "eq", "osm"} else set()


def _molar(source: str, target: str, have: Measure, want: Measure, molar_mass: float | None, scale: Fraction) -> Fraction:
    if molar_mass is None or not 0 < molar_mass < 1e9:
        raise ManifestError(
            f"From {_quote(source)} to {_quote(target)} needs the analyte's molar mass.",
            why="One counts mass, the other molecules.",
            fix="give molar_mass = ... in g/mol for the variable in the contract, for example 180.156 for glucose",
        )
    mass = Fraction(str(molar_mass))
    return scale * mass if ("mol", 1) in have.powers and ("mol", 1) not in want.powers else scale / mass


def valid(unit: str) -> bool:
    """Whether `unit` is a unit of UCUM."""
    return isinstance(unit, str) and not isinstance(_checked(unit), str)


def advise(unit: str) -> str:
    """What was probably meant by something that is no UCUM unit, or that is one by accident ("F" is the farad); '' if nothing comes to mind."""
    found = spelled(unit[:MAX_UNIT], valid) or nearest(unit[:MAX_UNIT])
    return found if found and found != unit else ""


def measure(unit: str) -> Measure:
    """The unit in base units; raises `ManifestError` with the nearest UCUM spelling."""
    found = _checked(unit)
    if isinstance(found, str):
        other = advise(unit)
        raise ManifestError(f"{_quote(unit)} is no unit of UCUM: {found}.", fix=f'write "{other}"' if other else "look the unit up at https://ucum.org")
    return found


def suggest(quantiles: Sequence[float], unit: str, plausible: tuple[float, float] | None, molar_mass: float | None = None) -> tuple[str, ...]:
    """Other common units in which all `quantiles` of a column would be plausible values; the likeliest first, at most three.

    quantiles: of the column as it is. unit: the contract's, in which plausible is given. Empty where the values are plausible as
    they are, and where no unit explains them.
    """
    if not quantiles or plausible is None or not valid(unit):
        return ()
    low, high = plausible
    if all(low <= q <= high for q in quantiles):
        return ()
    middle, centre = sorted(quantiles)[len(quantiles) // 2], (low * high) ** 0.5 if low > 0 else (low + high) / 2
    found: dict[Affine, tuple[float, str]] = {}
    for other in COMMON:
        try:
            factor = convert_factor(other, unit, molar_mass)
        except ManifestError:
            continue
        if factor not in found and factor != Affine() and all(low <= factor(q) <= high for q in quantiles):
            value = factor(middle)
            off = max(value / centre, centre / value) if low > 0 else abs(value - centre) / (high - low)
            found[factor] = (off, other)
    return tuple(other for _, other in sorted(found.values(), key=lambda item: item[0])[:3])


def _quote(unit: str) -> str:
    """A unit as it may stand in a message: it may come from a peer, so it is short and printable."""
    text = "".join(c if c.isprintable() else "?" for c in str(unit)[:MAX_UNIT])
    return f"'{text}{'...' if len(str(unit)) > MAX_UNIT else ''}'"


def _checked(unit: str) -> Measure | str:
    """The unit in base units, or what is wrong with it."""
    if not 0 < len(unit) <= MAX_UNIT:
        return "it is empty" if not unit else f"it is longer than {MAX_UNIT} characters"
    if not unit.isascii() or not unit.isprintable() or " " in unit:
        return "it holds a space or a character that UCUM does not use"
    return _parsed(unit)


@lru_cache(maxsize=4096)
def _parsed(unit: str) -> Measure | str:
    from lark.exceptions import LarkError

    try:
        return _value(_grammar().parse(unit))
    except LarkError:
        return "it does not follow its grammar"
    except (ValueError, OverflowError) as error:
        return str(error)


@cache
def _grammar() -> Lark:
    from ucumvert import get_ucum_parser

    parser: Lark = get_ucum_parser()
    return parser


@cache
def _table() -> dict[str, Any]:
    """Code -> its definition in UCUM's table."""
    from ucumvert.xml_util import get_units_with_full_definition

    return {u.code_cs: u for u in get_units_with_full_definition()}


_EXPONENTS = {
    "Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12,
    "f": -15, "a": -18, "z": -21, "y": -24,
}  # fmt: skip
_PREFIXES = {p: Fraction(10) ** e for p, e in _EXPONENTS.items()} | {f"{p}i": Fraction(1024) ** (i + 1) for i, p in enumerate("KMGT")}


def _value(node: Any) -> Measure:
    """The measure of a node of ucumvert's parse tree."""
    from lark import Token

    if isinstance(node, Token):  # an annotation that stands for a unit: {score}
        return Measure(Fraction(1), about=frozenset({node[1:-1].lower()}))
    parts = node.children
    if node.data == "simple_unit":
        return _simple([str(p) for p in parts], [p.type for p in parts])
    if node.data == "annotatable":
        return _value(parts[0]).power(int(parts[1]))
    if node.data == "component":
        inner = _value(parts[0])
        return Measure(inner.scale, inner.offset, inner.powers, inner.atoms, inner.about | {str(parts[1])[1:-1].lower()})
    if len(parts) == 3:
        return _value(parts[0]).times(_value(parts[2]), 1 if parts[1] == "." else -1)
    return Measure(Fraction(1)).times(_value(parts[1]), -1) if len(parts) == 2 else _value(parts[0])


def _simple(parts: list[str], kinds: list[str]) -> Measure:
    if kinds == ["FACTOR"]:
        return Measure(Fraction(int(parts[0])))
    atom = _atom(parts[-1])
    if len(parts) == 1:
        return atom
    prefix = _PREFIXES[parts[0]]
    return Measure(atom.scale * prefix, atom.offset, atom.powers, atom.atoms)


@cache
def _atom(code: str) -> Measure:
    named = frozenset({code})
    if code in _ZERO:
        scale, offset = _ZERO[code]
        return Measure(scale, offset, (("K", 1),), named)
    unit = _table().get(code)
    if code in _BASE or unit is None:
        return Measure(Fraction(1), powers=((code, 1),), atoms=named)
    if unit.is_special or (unit.is_arbitrary and unit.defining_unit == "1"):
        return Measure(Fraction(1), powers=((code, 1),), atoms=named)
    inner = _value(_grammar().parse(unit.defining_unit))
    return Measure(Fraction(Decimal(unit.conversion_factor)) * inner.scale, powers=inner.powers, atoms=named | inner.atoms)
