"""A hand-written Apple Health export with the document type that Apple writes, and hostile ones."""

import datetime
import random
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.sources.apple_health import AppleHealthSource, Spec
from locum.data.sources.base import read
from locum.errors import LocumError

BAD = Path(__file__).parents[2] / "bad_inputs" / "wearables"
DTD = """<!DOCTYPE HealthData [
<!-- HealthKit Export Version: 14 -->
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout|ActivitySummary|ClinicalRecord|Audiogram|VisionPrescription)*)>
<!ATTLIST HealthData
  locale CDATA #REQUIRED
>
<!ELEMENT ExportDate EMPTY>
<!ATTLIST ExportDate
  value CDATA #REQUIRED
>
<!ELEMENT Me EMPTY>
<!ATTLIST Me
  HKCharacteristicTypeIdentifierDateOfBirth         CDATA #REQUIRED
  HKCharacteristicTypeIdentifierBiologicalSex       CDATA #REQUIRED
  HKCharacteristicTypeIdentifierBloodType           CDATA #REQUIRED
  HKCharacteristicTypeIdentifierFitzpatrickSkinType CDATA #REQUIRED
>
<!ELEMENT Record ((MetadataEntry|HeartRateVariabilityMetadataList)*)>
<!ATTLIST Record
  type          CDATA #REQUIRED
  unit          CDATA #IMPLIED
  value         CDATA #IMPLIED
  sourceName    CDATA #REQUIRED
  sourceVersion CDATA #IMPLIED
  device        CDATA #IMPLIED
  creationDate  CDATA #IMPLIED
  startDate     CDATA #REQUIRED
  endDate       CDATA #REQUIRED
>
<!-- Note: Any Records that appear as children of a correlation also appear as top-level records in this document. -->
<!ELEMENT MetadataEntry EMPTY>
<!ATTLIST MetadataEntry
  key   CDATA #REQUIRED
  value CDATA #REQUIRED
>
]>
"""
IOS_16 = DTD.replace("  startDate     CDATA #REQUIRED\n", ">\n  startDate     CDATA #REQUIRED\n")  # not well-formed, as iOS 16.0 wrote it
WATCH = 'sourceName="Anna’s Apple\u00a0Watch" sourceVersion="9.4" device="&lt;&lt;HKDevice: 0x28, name:Apple Watch, model:Watch, hardware:Watch6,2&gt;&gt;"'
PHONE = 'sourceName="Annas Telefon" sourceVersion="16.4" device="&lt;&lt;HKDevice: 0x29, name:iPhone, model:iPhone, hardware:iPhone14,5&gt;&gt;"'
HEART, STEPS, SLEEP = "HKQuantityTypeIdentifierHeartRate", "HKQuantityTypeIdentifierStepCount", "HKCategoryTypeIdentifierSleepAnalysis"

MOTION = '<MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>'


def record(kind: str, start: str, end: str, value: str, unit: str = "", source: str = WATCH, inner: str = "") -> str:
    unit = f' unit="{unit}"' if unit else ""
    head = f' <Record type="{kind}" {source}{unit} creationDate="{end} +0100" startDate="{start} +0100" endDate="{end} +0100" value="{value}"'
    return f"{head}>{inner}</Record>\n" if inner else f"{head}/>\n"


def export(*records: str, dtd: str = DTD) -> str:
    me = (
        '<Me HKCharacteristicTypeIdentifierDateOfBirth="1970-03-02" HKCharacteristicTypeIdentifierBiologicalSex="HKBiologicalSexFemale" '
        'HKCharacteristicTypeIdentifierBloodType="HKBloodTypeNotSet" HKCharacteristicTypeIdentifierFitzpatrickSkinType="HKFitzpatrickSkinTypeNotSet"/>'
    )
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n{dtd}<HealthData locale="de_DE">\n <ExportDate value="2024-03-05 10:00:00 +0100"/>\n'
    return f"{head} {me}\n{''.join(records)}</HealthData>\n"


DAY = [
    record(
        HEART, "2024-03-01 08:00:00", "2024-03-01 08:00:00", "60", "count/min", inner='<MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>'
    ),
    record(HEART, "2024-03-01 09:00:00", "2024-03-01 09:00:00", "90", "count/min"),
    record(HEART, "2024-03-02 09:00:00", "2024-03-02 09:00:00", "2", "count/s"),
    record("HKQuantityTypeIdentifierRestingHeartRate", "2024-03-01 00:00:00", "2024-03-01 23:00:00", "52", "count/min"),
    record("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", "2024-03-01 03:00:00", "2024-03-01 03:01:00", "41.5", "ms"),
    record("HKQuantityTypeIdentifierOxygenSaturation", "2024-03-01 03:00:00", "2024-03-01 03:00:00", "0.97", "%"),
    record("HKQuantityTypeIdentifierBodyMass", "2024-03-01 07:00:00", "2024-03-01 07:00:00", "150", "lb"),
    record("HKQuantityTypeIdentifierDistanceWalkingRunning", "2024-03-01 10:00:00", "2024-03-01 10:10:00", "1", "mi"),
    # the watch and the phone count the same ten minutes, the phone alone the next ten
    record(STEPS, "2024-03-01 10:00:00", "2024-03-01 10:10:00", "1000", "count", WATCH),
    record(STEPS, "2024-03-01 10:00:00", "2024-03-01 10:20:00", "1600", "count", PHONE),
    # sleep of one night in overlapping pieces, from two sources
    record(SLEEP, "2024-03-01 23:00:00", "2024-03-02 01:00:00", "HKCategoryValueSleepAnalysisAsleepCore"),
    record(SLEEP, "2024-03-02 01:00:00", "2024-03-02 02:00:00", "HKCategoryValueSleepAnalysisAsleepDeep"),
    record(SLEEP, "2024-03-02 02:00:00", "2024-03-02 02:30:00", "HKCategoryValueSleepAnalysisAwake"),
    record(SLEEP, "2024-03-02 00:00:00", "2024-03-02 01:30:00", "HKCategoryValueSleepAnalysisAsleepUnspecified", source=PHONE),
    record(SLEEP, "2024-03-01 22:30:00", "2024-03-02 06:30:00", "HKCategoryValueSleepAnalysisInBed", source=PHONE),
    record("HKQuantityTypeIdentifierHeadphoneAudioExposure", "2024-03-02 00:00:00", "2024-03-02 01:00:00", "60", "dBASPL"),
]


def source(path: Path, text: str | bytes | None = None, **options: object) -> AppleHealthSource:
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return AppleHealthSource(path, Spec.parse({"type": "apple_health", **options}))


@pytest.mark.parametrize("dtd", [DTD, "", IOS_16], ids=["iOS 17", "none", "iOS 16"])
def test_days(tmp_path: Path, dtd: str) -> None:
    src = source(tmp_path / "anna.xml", export(*DAY, dtd=dtd))
    frame = read(src, src.columns())
    first, second = frame.to_dicts()
    assert (first["patient"], first["date"], first["sex"], first["age"]) == ("anna", datetime.date(2024, 3, 1), "F", 53)
    assert (second["date"], second["age"]) == (datetime.date(2024, 3, 2), 54)
    assert (first["heart_rate_mean"], first["heart_rate_min"], first["heart_rate_max"]) == (75, 60, 90)
    assert (first["resting_heart_rate"], first["hrv_sdnn"], first["oxygen_saturation_mean"]) == (52, 41.5, 97)
    assert first["body_mass"] == pytest.approx(68.0388555)
    assert first["distance_walking_running"] == pytest.approx(1.609344)
    assert first["steps"] == pytest.approx(1000 + 800)
    assert second["heart_rate_mean"] == 120
    assert (second["sleep_hours"], second["in_bed_hours"], second["sleep_deep_hours"]) == (3, 8, 1)
    assert first["sleep_hours"] is second["steps"] is None
    assert (src.tally.read, src.tally.used) == (16, 15)
    assert src.tally.left_out == {"a record of a kind that is not summed up": 1}
    assert src.tally.balanced


def test_the_priority_of_sources_is_the_mappings(tmp_path: Path) -> None:
    src = source(tmp_path / "a.xml", export(*DAY), sources=["telefon"])
    assert read(src, ["steps"])["steps"][0] == pytest.approx(1600)


def test_clocks_of_other_zones_and_midnight(tmp_path: Path) -> None:
    late = record(STEPS, "2024-03-01 23:50:00", "2024-03-02 00:10:00", "200", "count")
    flight = record(STEPS, "2024-03-03 10:00:00", "2024-03-03 10:10:00", "50", "count").replace(
        'endDate="2024-03-03 10:10:00 +0100"', 'endDate="2024-03-03 05:10:00 -0400"'
    )
    src = source(tmp_path / "a.xml", export(late, flight))
    assert read(src, ["date", "steps"]).rows() == [
        (datetime.date(2024, 3, 1), pytest.approx(100)),
        (datetime.date(2024, 3, 2), pytest.approx(100)),
        (datetime.date(2024, 3, 3), pytest.approx(50)),
    ]


REFUSED = {
    "a record in a unit that its kind has not": record(HEART, "2024-03-01 08:00:00", "2024-03-01 08:00:00", "60", "mmHg"),
    "a record whose value is no number": record(HEART, "2024-03-01 08:00:00", "2024-03-01 08:00:00", "sixty", "count/min"),
    "a record without a time": record(HEART, "2024-02-30 08:00:00", "2024-03-01 08:00:00", "60", "count/min"),
    "a record that ends before it starts": record(HEART, "2024-03-01 08:00:00", "2024-03-01 07:00:00", "60", "count/min"),
    "a record of a sum over more than a day": record(STEPS, "2024-03-01 08:00:00", "2024-03-09 08:00:00", "60", "count"),
    "a record of sleep that says no stage or is too long": record(SLEEP, "2024-03-01 08:00:00", "2024-03-01 09:00:00", "1"),
}


@pytest.mark.parametrize(("reason", "line"), REFUSED.items())
def test_a_bad_record_is_refused_and_counted(tmp_path: Path, reason: str, line: str) -> None:
    src = source(tmp_path / "a.xml", export(line, *DAY))
    assert len(read(src, ["steps"])) == 2
    assert src.tally.refused == {reason: 1}
    assert src.tally.read == 17
    assert src.tally.balanced


def test_a_folder_of_exports(tmp_path: Path) -> None:
    for person in ("p1", "p2"):
        (tmp_path / person).mkdir()
    with zipfile.ZipFile(tmp_path / "p1" / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export_cda.xml", "<ClinicalDocument/>")
        archive.writestr("apple_health_export/Exportieren.xml", export(*DAY))
        archive.writestr("apple_health_export/workout-routes/route.gpx", "<gpx/>")
    (tmp_path / "p2" / "export.xml").write_text(export(*DAY[:2]))
    (tmp_path / "p2" / "export_cda.xml").write_text("<ClinicalDocument/>")
    (tmp_path / "p3.xml").write_text(export(*DAY)[:-400])
    src = source(tmp_path)
    frame = read(src, ["patient", "date"], size=1)
    assert frame["patient"].to_list() == ["p1", "p1", "p2"]
    assert src.tally.balanced
    assert src.tally.refused == {"a record of an export that is cut off or is not well-formed XML": 14}


@pytest.mark.parametrize("path", sorted([*BAD.glob("*.xml"), *BAD.glob("*.zip")]), ids=lambda p: p.name)
def test_hostile_exports_are_refused_and_counted(path: Path) -> None:
    src = source(path)
    assert read(src, ["patient", "date"]).is_empty()
    assert src.tally.refused.total() >= 1
    assert src.tally.balanced


def test_hostile_exports_are_there() -> None:
    assert {p.name for p in BAD.glob("*.xml")} >= {"billion_laughs.xml", "external_entity.xml", "parameter_entity.xml", "external_dtd.xml", "utf16_entity.xml"}
    assert (BAD / "bomb.zip").stat().st_size < 100_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        rng = random.Random(n)
        times = [f"2024-03-{1 + i * 20 // n:02d} {rng.randrange(24):02d}:{rng.randrange(60):02d}:00" for i in range(n)]
        src = source(tmp_path / f"{n}.xml", export(*(record(HEART, t, t, str(rng.randrange(50, 150)), "count/min") for t in times)))
        tracemalloc.start()
        assert len(read(src, ["heart_rate_mean"])) == 20
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert src.tally.used == n
        return most

    peak(100)
    assert peak(20_000) < peak(2_000) + 4_000_000  # the smaller file is read whole into one buffer; the larger is 8 MB


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 12_000), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_a_flipped_byte_never_crashes(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int) -> None:
    data = bytearray(export(*DAY).encode())
    data[at % len(data)] = byte
    src = source(tmp_path_factory.mktemp("flip") / "a.xml", bytes(data[: len(data) - cut]))
    try:
        frame = read(src, src.columns())
    except LocumError:
        return
    assert src.tally.balanced
    assert len(frame) <= 4
