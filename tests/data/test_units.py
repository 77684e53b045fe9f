"""UCUM: its official table of example codes (as ucumvert ships it), pint's own factors as a second opinion, and clinical conversions."""

from __future__ import annotations

import csv
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data import units
from locum.data.spellings import COMMON, spelled
from locum.data.units import Affine, advise, convert_factor, measure, suggest, valid
from locum.errors import ManifestError

CLINICAL = [  # source, target, g/mol, a value in the source's unit, the same in the target's; from laboratories' conversion tables
    ("mmol/L", "mg/dL", 180.156, 5.55, 100.0),  # glucose
    ("umol/L", "mg/dL", 113.12, 88.4, 1.0),  # creatinine
    ("mmol/L", "mg/dL", 386.65, 5.17, 199.9),  # cholesterol
    ("umol/L", "mg/dL", 584.66, 17.1, 1.0),  # bilirubin
    ("g/L", "g/dL", None, 140, 14.0),  # haemoglobin
    ("mmol/L", "g/dL", 16114.5, 8.7, 14.02),  # haemoglobin, the monomer
    ("mg/dL", "mmol/L", 60.06, 6.006, 1.0),  # urea
    ("nmol/L", "ng/mL", 400.64, 50, 20.03),  # 25-hydroxyvitamin D
    ("kPa", "mm[Hg]", None, 16, 120.0),
    ("mm[Hg]", "kPa", None, 100, 13.332),
    ("Cel", "[degF]", None, 37, 98.6),
    ("[degF]", "Cel", None, 104, 40),
    ("K", "Cel", None, 310.15, 37),
    ("[in_i]", "cm", None, 70, 177.8),
    ("cm", "[in_i]", None, 254, 100),
    ("[lb_av]", "kg", None, 100, 45.359237),
    ("[stone_av]", "kg", None, 10, 63.5029),
    ("ukat/L", "U/L", None, 1, 60),
    ("10*3/uL", "10*9/L", None, 7.5, 7.5),
    ("m[iU]/L", "u[iU]/mL", None, 2.5, 2.5),
    ("[IU]/L", "[iU]/L", None, 3, 3),
    ("g%", "g/dL", None, 14, 14),
    ("a", "d", None, 2, 730.5),
    ("%", "1", None, 45, 0.45),
    ("{score}", "1", None, 7, 7),
    ("{beats}/min", "/min", None, 72, 72),
    ("cm[H2O]", "mm[Hg]", None, 13.595, 10.0),
]


def examples() -> list[str]:
    import ucumvert

    path = Path(ucumvert.__file__).parent / "vendor" / "ucum_examples.tsv"
    with path.open(encoding="utf-8") as file:
        return [row[1] for row in csv.reader(file, delimiter="\t")][1:]


def test_the_official_example_codes_are_units() -> None:
    """Table of Example UCUM Codes for Electronic Messaging 1.5. Torr stands in it, and not in UCUM's table of units."""
    codes = examples()
    assert len(codes) == 848
    assert [code for code in codes if not valid(code)] == ["Torr"]


def test_factors_agree_with_pint() -> None:
    """pint's definitions are independent of UCUM's table. Where they differ, UCUM's stands."""
    from ucumvert import PintUcumRegistry

    pint, compared, differ = PintUcumRegistry(), 0, set()
    for code in examples():
        if not valid(code) or code.startswith("{") or code in ("[pH]", "Cel", "[degF]"):
            continue
        try:
            theirs = pint.from_ucum(code).to_base_units().magnitude
        except AttributeError:  # nothing but annotations
            continue
        ours = measure(code)
        kilo = 1e-3 ** dict(ours.powers).get("g", 0)
        compared += 1
        if float(ours.scale) * kilo != pytest.approx(theirs, rel=1e-5):
            differ.add(code)
    assert compared > 700
    assert differ == {"dB", "[in_i'H2O]", "[LPF]", "/[LPF]"}  # a logarithm; water at another temperature; "100 1" in UCUM


@pytest.mark.parametrize(("source", "target", "mass", "value", "expected"), CLINICAL)
def test_clinical_conversions_and_back(source: str, target: str, mass: float | None, value: float, expected: float) -> None:
    assert convert_factor(source, target, mass)(value) == pytest.approx(expected, rel=1e-3)
    assert convert_factor(target, source, mass)(convert_factor(source, target, mass)(value)) == pytest.approx(value, rel=1e-12)


def test_a_factor_is_exact() -> None:
    assert convert_factor("[lb_av]", "kg") == Affine(0.45359237)  # ucumvert's parser makes it a pound, and pint 0.4535923700000001
    assert convert_factor("Cel", "[degF]") == Affine(1.8, 32.0)
    assert convert_factor("mmol/L", "mg/dL", 180.156) == Affine(18.0156)
    assert convert_factor("mg/dL", "mg/dL") == Affine()


@pytest.mark.parametrize(
    ("source", "target", "word"),
    [
        ("[iU]/L", "mg/L", "effect"),
        ("[iU]/L", "/L", "effect"),
        ("[iU]/L", "U/L", "effect"),
        ("[CFU]/mL", "/mL", "linear"),
        ("[pH]", "mol/L", "linear"),
        ("dB", "1", "linear"),
        ("mmol/mol", "%", "molecules"),
        ("ug/L{FEU}", "ug/L{DDU}", "different things"),
        ("meq/L", "mmol/L", "depends on the substance"),
        ("mosm/kg", "mmol/kg", "depends on the substance"),
        ("mg/mmol", "mg/g", "same quantity"),
        ("mg/dL", "kg", "same quantity"),
        ("Cel", "%", "same quantity"),
    ],
)
def test_what_is_not_the_same_is_refused_with_the_reason(source: str, target: str, word: str) -> None:
    for a, b in ((source, target), (target, source)):
        with pytest.raises(ManifestError) as error:
            convert_factor(a, b, 100.0)
        assert word in error.value.why
        assert error.value.fix


def test_mass_and_amount_need_the_molar_mass() -> None:
    with pytest.raises(ManifestError, match="molar mass") as error:
        convert_factor("mg/dL", "mmol/L")
    assert "g/mol" in error.value.fix


@pytest.mark.parametrize(
    ("written", "ucum"),
    [
        ("mmHg", "mm[Hg]"), ("bpm", "/min"), ("years", "a"), ("IU/L", "[iU]/L"), ("°C", "Cel"), ("MG/DL", "mg/dL"), ("mEq/L", "meq/L"), ("mcg/dL", "ug/dL"),
        ("K/mcL", "10*3/uL"), ("x10^9/L", "10*9/L"), ("kg/m²", "kg/m2"), ("µmol/L", "umol/L"), ("lbs", "[lb_av]"), ("units/L", "U/L"), ("mm/hr", "mm/h"),
        ("ml/min/1.73m2", "mL/min/{1.73_m2}"), ("mOsm/kg", "mosm/kg"), ("Ratio", "1"), ("F", "[degF]"), ("mmol/L", "mmol/L"), ("Jahre", "a"), ("zzzz", ""),
    ],
)  # fmt: skip
def test_common_spellings_lead_to_ucum(written: str, ucum: str) -> None:
    assert spelled(written, valid) == ucum
    assert not ucum or valid(ucum)
    if not valid(written) and ucum:
        with pytest.raises(ManifestError) as error:
            convert_factor(written, ucum)
        assert f'"{ucum}"' in error.value.fix


def test_a_unit_is_not_corrected_into_another() -> None:
    assert [c for c in COMMON if not valid(c)] == []
    assert [c for c in COMMON if advise(c)] == []
    assert valid("mg/dl")  # l and L are both the litre


def test_suggestions_explain_values_that_are_not_plausible() -> None:
    assert suggest([5.2], "mg/dL", (80, 500), 386.65) == ("mmol/L",)
    assert suggest([4.1, 5.2, 6.9], "mg/dL", (80, 500), 386.65) == ("mmol/L",)
    assert suggest([5.2], "mg/dL", (80, 500)) == ()  # without the molar mass, only masses can be told
    assert suggest([36.2, 36.9, 38.4], "[degF]", (90, 108)) == ("Cel",)
    assert suggest([1.62, 1.75, 1.9], "cm", (120, 220)) == ("m",)
    assert suggest([140.0, 151.0], "g/dL", (4, 22)) == ("g/L",)
    assert suggest([0.7, 0.9, 1.3], "umol/L", (30, 1500), 113.12)[0] == "mg/dL"
    assert suggest([200.0], "mg/dL", (80, 500), 386.65) == ()  # plausible as it is
    assert suggest([200.0], "nonsense", (0, 1)) == ()
    assert suggest([], "mg/dL", (0, 1)) == ()
    assert suggest([200.0], "mg/dL", None) == ()


@pytest.mark.parametrize(
    "hostile",
    ["", " ", "m" * 65, "((((10*40)40)40)40)40", "(((((m9)9)9)9)9)9", "10*99999999999", "(" * 64, "{" * 64, "mg/dL; import os", "µg", "m\x00", "Cel.m",
     "__import__('os')", "1/0", "m**2", "\ud800"],
)  # fmt: skip
def test_hostile_units_are_refused_at_once(hostile: str) -> None:
    start = time.perf_counter()
    assert not valid(hostile)
    with pytest.raises(ManifestError) as error:
        convert_factor(hostile, "kg")
    assert time.perf_counter() - start < 5
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@settings(max_examples=300, deadline=2000)
@given(st.one_of(st.text(max_size=80), st.text(alphabet="mgLdskpC()/.{}10*[iU]-+%'" + string.digits, max_size=64)))
def test_any_text_is_a_unit_or_is_not(text: str) -> None:
    if valid(text):
        assert convert_factor(text, text) == Affine()
        assert measure(text).scale > 0
    else:
        with pytest.raises(ManifestError):
            measure(text)
    assert isinstance(advise(text), str)


@given(st.sampled_from(COMMON), st.sampled_from(COMMON), st.sampled_from(COMMON), st.floats(-1e6, 1e6))
def test_the_way_over_a_third_unit_is_the_same(a: str, b: str, c: str, value: float) -> None:
    try:
        one, two, both = (convert_factor(x, y, 180.156) for x, y in ((a, b), (b, c), (a, c)))
    except ManifestError:
        return
    assert two(one(value)) == pytest.approx(both(value), rel=1e-9, abs=1e-6 * max(1.0, abs(both.scale)))


def test_importing_it_reads_no_table_of_units() -> None:
    import subprocess
    import sys

    code = "import sys, locum.data.units; print([m for m in ('pint', 'lark', 'ucumvert') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert units.MAX_UNIT == 64
