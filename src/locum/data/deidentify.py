"""What of a DICOM header may leave the reader: a short list of attributes, and nothing else.

The profile is an allow-list by construction. The result is not a DICOM data set with attributes taken out, but a small dictionary with
attributes put in, and each value is (1) a number within stated bounds, (2) a term of a vocabulary printed below, or (3) a keyed
pseudonym of a UID. No text of a header is ever copied, so free text, names, private elements, overlays, curves, and whatever a later edition of the
standard adds are gone without being named. It satisfies the Basic Application Level Confidentiality Profile (DICOM PS3.15 Annex E, table E.1-1)
with three of its options: Retain Patient Characteristics (age in whole years, with 90 for all who are older than 89, and sex),
Retain Longitudinal Temporal Information with Modified Dates (days since the patient's first study), and, in `burned_in`, Clean Pixel Data
by refusal. Not done: Clean Recognizable Visual Features. A face can be rebuilt from a head CT or MR; strip it before the images get here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

OLDEST = 90


class Number(NamedTuple):
    """An attribute that is a number: its value number `place`, if from `low` to `high`."""

    keyword: str
    low: float
    high: float
    place: int = 0


NUMBERS: Mapping[str, Number] = {
    "rows": Number("Rows", 1, 65535),
    "columns": Number("Columns", 1, 65535),
    "frames": Number("NumberOfFrames", 1, 1 << 20),
    "row_spacing": Number("PixelSpacing", 1e-4, 100),
    "column_spacing": Number("PixelSpacing", 1e-4, 100, 1),
    "detector_row_spacing": Number("ImagerPixelSpacing", 1e-4, 100),
    "detector_column_spacing": Number("ImagerPixelSpacing", 1e-4, 100, 1),
    "slice_thickness": Number("SliceThickness", 0, 1000),
    "slice_spacing": Number("SpacingBetweenSlices", 0, 1000),
    "window_centre": Number("WindowCenter", -1e6, 1e6),
    "window_width": Number("WindowWidth", 0, 1e6),
    "rescale_slope": Number("RescaleSlope", -1e6, 1e6),
    "rescale_intercept": Number("RescaleIntercept", -1e6, 1e6),
    "tube_voltage": Number("KVP", 0, 1000),
    "field_strength": Number("MagneticFieldStrength", 0, 30),
    "echo_time": Number("EchoTime", 0, 10_000),
    "repetition_time": Number("RepetitionTime", 0, 100_000),
}
"""Column -> attribute. Spacing and thickness are in mm, tube voltage in kV, field strength in T, times in ms."""

_WORDS: Mapping[str, tuple[str, str]] = {
    "modality": (
        "Modality",
        """
        AR AU BDUS BI BMD CR CT DG DX ECG EPS ES GM HC HD IO IVOCT IVUS KER LEN LS MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OT PT PX RF RG RTDOSE
        RTIMAGE SC SEG SM TG US VA XA XC
        """,
    ),
    "body_part": (
        "BodyPartExamined",
        """
        ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST
        CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY
        EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER
        LSPINE LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM
        RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TIBIA
        TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
        """,
    ),
    "photometric": ("PhotometricInterpretation", "MONOCHROME1 MONOCHROME2 PALETTE_COLOR RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT"),
    "laterality": ("ImageLaterality", "L R B U"),
    "view": ("ViewPosition", "AP PA LL RL RLD LLD RLO LLO LAO RAO CC MLO ML LM LMO XCCL XCCM FB SIO ISO"),
    "position": ("PatientPosition", "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL"),
    "sex": ("PatientSex", "M F O"),
}
TERMS: Mapping[str, tuple[str, frozenset[str]]] = {
    column: (keyword, frozenset(w.replace("PALETTE_COLOR", "PALETTE COLOR") for w in words.split())) for column, (keyword, words) in _WORDS.items()
}
"""Column -> attribute and its vocabulary (PS3.3, and PS3.16 annex L for body parts). A term of no vocabulary is missing."""

MAKERS = (
    "agfa", "canon", "carestream", "esaote", "fonar", "fujifilm", "ge", "hitachi", "hologic", "kodak", "konica", "lodox", "mindray", "neusoft", "philips",
    "samsung", "sectra", "shimadzu", "siemens", "toshiba", "uih", "varian",
)  # fmt: skip
"""The first word of Manufacturer, in small letters. The model is a free text, and with the site a station, so it is left out."""

DERIVED: Mapping[str, str] = {"manufacturer": "Manufacturer", "age_years": "PatientAge", "study_day": "StudyDate"}
UIDS: Mapping[str, str] = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID"}
PUBLIC = (*TERMS, *NUMBERS, *DERIVED, *UIDS)
TEXT = frozenset((*TERMS, "manufacturer", *UIDS))
"""The columns that are text; all others are numbers."""


def deidentify(header: Any, key: bytes, first: date | None = None) -> dict[str, float | str | None]:
    """The public part of a pydicom header: a value or None for each of `PUBLIC`.

    key: the site's secret for pseudonyms, 1 to 64 bytes. first: the day of this patient's first study, which is `study_day` 0.
    """
    record: dict[str, float | str | None] = {name: number(header, *where) for name, where in NUMBERS.items()}
    record |= {name: _term(header, keyword, terms) for name, (keyword, terms) in TERMS.items()}
    record["manufacturer"] = _maker(header)
    record["age_years"] = _age(header)
    day = day_of(header, "StudyDate")
    record["study_day"] = float((day - first).days) if day and first else None
    record |= {name: pseudonym(text(header, keyword), key, name) for name, keyword in UIDS.items()}
    return {name: record[name] for name in PUBLIC}


def pseudonym(identifier: str, key: bytes, kind: str) -> str | None:
    """BLAKE2b-128 (RFC 7693) under `key`, in hexadecimal; None of an empty identifier. `kind` separates what happens to be called alike."""
    if not identifier:
        return None
    return hashlib.blake2b(identifier.encode(), digest_size=16, key=key, person=b"locum/" + kind.encode()[:10]).hexdigest()


def value(header: Any, keyword: str) -> Any:
    """An attribute, or None where it is absent or cannot be parsed: pydicom parses on access, and raises whatever its parts raise."""
    try:
        return header.get(keyword)
    except Exception:
        return None


def text(header: Any, keyword: str) -> str:
    """An attribute as stripped text, "" where it is absent."""
    found = value(header, keyword)
    return "" if found is None else str(found).strip(" \0")


def number(header: Any, keyword: str, low: float, high: float, place: int = 0) -> float | None:
    """An attribute as a number from `low` to `high`, else None."""
    found = value(header, keyword)
    try:
        found = found[place] if isinstance(found, (list, tuple)) or hasattr(found, "append") else found if place == 0 else None
        number = float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def day_of(header: Any, keyword: str) -> date | None:
    """A date attribute, YYYYMMDD or the older YYYY.MM.DD."""
    digits = text(header, keyword).replace(".", "")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) if len(digits) == 8 and digits.isascii() else None
    except ValueError:
        return None


def _term(header: Any, keyword: str, terms: frozenset[str]) -> str | None:
    found = text(header, keyword).upper()
    return found if found in terms else None


def _maker(header: Any) -> str | None:
    words = text(header, "Manufacturer").lower().replace("_", " ").split()
    return next((m for m in MAKERS if words and words[0] == m), "other" if words else None)


def _age(header: Any) -> float | None:
    """Whole years, from PatientAge (such as 045Y or 018M) or else from the date of birth; `OLDEST` for all who are older."""
    written = text(header, "PatientAge")
    per_year = {"Y": 1, "M": 12, "W": 52, "D": 365}
    years: int | None = None
    if len(written) == 4 and written[:3].isascii() and written[:3].isdigit() and written[3] in per_year:
        years = int(written[:3]) // per_year[written[3]]
    else:
        born, day = day_of(header, "PatientBirthDate"), day_of(header, "StudyDate")
        if born and day:
            years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    return float(min(years, OLDEST)) if years is not None and 0 <= years <= 150 else None
