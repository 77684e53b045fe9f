"""How hospitals write units, and what UCUM calls them: "mmHg" is mm[Hg], "IU/L" is [iU]/L, "°C" is Cel."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

COMMON = (
    "mg/dL", "g/dL", "g/L", "mg/L", "ug/L", "ug/dL", "ug/mL", "ng/mL", "ng/L", "ng/dL", "pg/mL", "mol/L", "mmol/L", "umol/L", "nmol/L", "pmol/L",
    "meq/L", "mosm/kg", "U/L", "kU/L", "ukat/L", "nkat/L", "[iU]/L", "m[iU]/L", "u[iU]/mL", "k[iU]/L", "[iU]/mL", "mm[Hg]", "kPa", "cm[H2O]",
    "10*9/L", "10*12/L", "10*3/uL", "10*6/uL", "/uL", "/mL", "/L", "%", "1", "mmol/mol", "mg/g", "mg/mmol", "g/g",
    "kg", "g", "mg", "ug", "t", "[lb_av]", "[oz_av]", "[stone_av]", "m", "cm", "mm", "um", "[in_i]", "[ft_i]", "kg/m2", "m2",
    "Cel", "[degF]", "K", "/min", "/s", "/h", "Hz", "a", "mo", "wk", "d", "h", "min", "s", "ms", "L", "dL", "mL", "fL", "pg", "fmol",
    "mL/min", "L/min", "mL/h", "mL/min/{1.73_m2}", "mm/h", "kcal", "kJ", "V", "mV", "uV", "{score}", "[pH]", "mg/kg", "ug/kg/min", "Bq", "Gy", "Sv",
)  # fmt: skip
"""The units of the clinic, the usual one first where two have the same size."""

_WHOLE = {
    "bpm": "/min", "beats/min": "/min", "beats/minute": "/min", "beats per minute": "/min", "1/min": "/min", "breaths/min": "/min", "rpm": "/min",
    "ratio": "1", "none": "1", "unitless": "1", "number": "1", "score": "{score}", "points": "{score}", "percent": "%", "pct": "%", "prozent": "%",
    "k/ul": "10*3/uL", "k/mcl": "10*3/uL", "k/mm3": "10*3/uL", "thou/ul": "10*3/uL", "g/l (giga)": "10*9/L", "gpt/l": "10*9/L", "tpt/l": "10*12/L",
    "m/ul": "10*6/uL", "m/mcl": "10*6/uL", "mio/ul": "10*6/uL", "cells/ul": "/uL", "cells/mcl": "/uL", "cells/mm3": "/uL",
    "mg%": "mg/dL", "g%": "g/dL", "ml/min/1.73m2": "mL/min/{1.73_m2}", "ml/min/1.73 m2": "mL/min/{1.73_m2}", "c": "Cel", "f": "[degF]", "fahrenheit": "[degF]",
    "celsius": "Cel", "deg c": "Cel", "deg f": "[degF]", "degc": "Cel", "degf": "[degF]", "iu": "[iU]", "units": "U", "torr": "mm[Hg]", "log": "1",
    "cmh2o": "cm[H2O]", "cm h2o": "cm[H2O]", "cmh20": "cm[H2O]", "mm(hg": "mm[Hg]", "ph": "[pH]", "lpm": "L/min", "mls": "mL", "secs": "s",
}  # fmt: skip
WORDS = {
    "years": "a", "year": "a", "yrs": "a", "yr": "a", "y": "a", "jahre": "a", "ans": "a", "anos": "a", "años": "a", "months": "mo", "month": "mo",
    "monate": "mo", "mois": "mo", "weeks": "wk", "week": "wk", "wks": "wk", "wochen": "wk", "days": "d", "day": "d", "tage": "d", "jours": "d", "dias": "d",
    "hours": "h", "hour": "h", "hrs": "h", "hr": "h", "std": "h", "minutes": "min", "minute": "min", "mins": "min", "seconds": "s", "second": "s", "sec": "s",
    "sek": "s", "msec": "ms", "lbs": "[lb_av]", "lb": "[lb_av]", "pounds": "[lb_av]", "inches": "[in_i]", "inch": "[in_i]", "feet": "[ft_i]",
    "stone": "[stone_av]",
}  # fmt: skip
"""Units that are written as words, in four languages."""
_PART = WORDS | {
    "mmhg": "mm[Hg]", "cmh2o": "cm[H2O]", "iu": "[iU]", "miu": "m[iU]", "uiu": "u[iU]", "µiu": "u[iU]", "mciu": "u[iU]", "kiu": "k[iU]", "mu": "m[iU]",
    "units": "U", "unit": "U", "u": "U", "mcg": "ug", "mcl": "uL", "mcmol": "umol", "mkat": "mkat", "ukat": "ukat", "meq": "meq", "mosm": "mosm",
    "mval": "meq", "mosmol": "mosm", "oz": "[oz_av]", "in": "[in_i]", "ft": "[ft_i]", "gm": "g", "gms": "g", "gram": "g", "grams": "g", "kgs": "kg",
    "cc": "mL", "ml": "mL", "dl": "dL", "l": "L", "ul": "uL", "fl": "fL", "mg": "mg", "ug": "ug", "ng": "ng", "pg": "pg", "kg": "kg", "mol": "mol",
    "mmol": "mmol", "umol": "umol", "nmol": "nmol", "pmol": "pmol", "mm3": "uL", "cmm": "uL", "mmole": "mmol", "mmoles": "mmol", "kpa": "kPa", "liter": "L",
    "litre": "L", "m2": "m2", "sqm": "m2", "g": "g", "kcal": "kcal", "cal": "cal", "cells": "{cells}", "beats": "{beats}", "breaths": "{breaths}",
    "ratio": "1", "x10e9": "10*9", "e9": "10*9", "10e9": "10*9", "10e3": "10*3", "10e6": "10*6", "10e12": "10*12", "/min": "/min",
}  # fmt: skip
_SIGNS = {
    "°": "deg", "µ": "u", "μ": "u", "²": "2", "³": "3", "⁹": "9", "⁶": "6", "¹²": "12", "·": ".", "×": "x", "−": "-",
}  # fmt: skip
_BY_ACCIDENT = {
    "F": "[degF]",
    "C": "Cel",
    "ft": "[ft_i]",
    "Y": "a",
    "u/L": "U/L",
    "u/l": "U/L",
    "mU/L": "m[iU]/L",
    "b/min": "/min",
    "mm/hg": "mm[Hg]",
    "mm/Hg": "mm[Hg]",
}
"""Valid in UCUM, and hardly ever what a hospital meant: the farad, the coulomb, the femtotonne, the barn per minute."""
_CUBIC = r"(?:ul|mcl|mm3|mm\^3|cmm|cu\.?mm|mmcu)"
_COUNTS = (
    (re.compile(rf"(?:k|th|ths|thou|tsd|x?10\(?[*^]?3\)?|x?10e3)/?{_CUBIC}"), "10*3/uL"),
    (re.compile(rf"(?:m|mi|mil|mill|mio|x?10\(?[*^]?6\)?|x?10e6)/?{_CUBIC}"), "10*6/uL"),
    (re.compile(rf"(?:cells|zellen)?/{_CUBIC}"), "/uL"),
)
"""Counts of blood cells, which hospitals write in a dozen ways; K/uL would be the kelvin per microlitre."""


def spelled(unit: str, valid: Callable[[str], bool]) -> str:
    """The UCUM unit that `unit` surely stands for, itself where it is one already, or ''. valid: whether a text is a UCUM unit."""
    text = unit.strip()
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"\s+", " ", text.strip(" ()."))
    if text in _BY_ACCIDENT:
        return _BY_ACCIDENT[text]
    squeezed = text.lower().replace(" ", "")
    for pattern, meant in _COUNTS:
        if pattern.fullmatch(squeezed):
            return text if text == meant or (meant == "/uL" and valid(text)) else meant
    if text.lower() in _WHOLE:
        return _WHOLE[text.lower()]
    shouted = text.isupper() and "[" not in text and sum(c.isalpha() for c in text) > 1  # MG/L: not the megagauss
    if text and valid(text) and not shouted:
        return text
    text = text.lower() if shouted else text
    text = re.sub(r"\b(?:x\s?)?10\s?(?:\^|\*\*|\*|e)\s?(\d{1,2})\b", r"10*\1", text.replace(" per ", "/"), flags=re.IGNORECASE)
    text = re.sub(r"([a-zA-Z])(?:\^|\*\*)(-?\d)", r"\1\2", text).replace(" ", "")
    text = re.sub(r"/24h(?:rs?)?$", "/d", text, flags=re.IGNORECASE)
    parts = re.split(r"([/.])", text)
    tried = "".join(_part(p, valid) if i % 2 == 0 else p for i, p in enumerate(parts))
    if tried and valid(tried):
        return tried
    return unit.strip() if valid(unit.strip()) else ""


def nearest(unit: str) -> str:
    """The common unit that is written most like it, or ''."""
    close = difflib.get_close_matches(unit.lower(), [c.lower() for c in COMMON], n=1, cutoff=0.8)
    return next((c for c in COMMON if close and c.lower() == close[0]), "")


def _part(part: str, valid: Callable[[str], bool]) -> str:
    known = _PART.get(part.lower(), part)
    shouted = len(part) > 1 and part.isupper()
    return part if part and not shouted and part not in ("u", "y", "in", "ft", "oz", "l", "dl", "ml", "ul", "fl") and valid(part) else known
