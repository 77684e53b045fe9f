"""FIT activities that fit-tool writes, and damaged ones."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fit_tool.fit_file_builder import FitFileBuilder
from fit_tool.profile.messages.file_id_message import FileIdMessage
from fit_tool.profile.messages.record_message import RecordMessage
from fit_tool.profile.messages.session_message import SessionMessage
from fit_tool.profile.profile_type import FileType, Manufacturer, Sport
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.sources.base import open_source, read
from locum.data.sources.fit import FitSource, Spec
from locum.errors import LocumError, ManifestError

BAD = Path(__file__).parents[2] / "bad_inputs" / "wearables"
START = datetime.datetime(2024, 3, 1, 8, 0, tzinfo=datetime.UTC)


def write(path: Path, *, seconds: int = 60, without: range = range(0), session: bool = True) -> Path:
    """A ride of that many seconds; those in `without` were not recorded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    builder = FitFileBuilder(auto_define=True, min_string_size=50)
    began = round(START.timestamp() * 1000)
    file_id = FileIdMessage()
    file_id.type, file_id.manufacturer, file_id.product = FileType.ACTIVITY, Manufacturer.DEVELOPMENT.value, 0
    file_id.time_created, file_id.serial_number = began, 0x12345678
    builder.add(file_id)
    for second in range(seconds):
        if second not in without:
            record = RecordMessage()
            record.timestamp, record.heart_rate, record.power, record.speed = began + 1000 * second, 100 + second % 50, 200 + second, 8.5
            record.position_lat, record.position_long = 52.5, 13.4
            builder.add(record)
    if session:
        summary = SessionMessage()
        summary.timestamp, summary.start_time, summary.sport = began + 1000 * seconds, began, Sport.CYCLING
        summary.total_elapsed_time, summary.total_timer_time, summary.total_distance = float(seconds), seconds - 1.0, 8.5 * seconds
        summary.avg_heart_rate, summary.max_heart_rate, summary.total_calories = 124, 149, 20
        builder.add(summary)
    builder.build().to_file(str(path))
    return path


def source(path: Path, **options: object) -> FitSource:
    return FitSource(path, Spec.parse({"type": "fit", **options}))


def test_sessions(tmp_path: Path) -> None:
    write(tmp_path / "p1" / "ride.fit")
    src = source(tmp_path)
    (row,) = read(src, src.columns()).to_dicts()
    assert (row["record"], row["folder"], row["sport"], row["start_time"]) == ("p1/ride", "p1", "cycling", START.replace(tzinfo=None))
    assert (row["elapsed_seconds"], row["seconds"], row["distance"], row["calories"]) == (60, 59, 510, 20)
    assert (row["heart_rate_mean"], row["heart_rate_max"], row["power_mean"]) == (124, 149, None)
    assert (src.tally.read, src.tally.used) == (1, 1)


def test_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "ride.fit", without=range(25, 30))
    src = open_source(Spec.parse({"per": "record", "seconds": 20, "step": 10, "channels": ["heart_rate", "power", "speed"], "path": str(path)}))
    frame = read(src, src.columns(), size=2)
    assert frame.schema["signal"] == pl.Array(pl.Float32, (3, 20))
    assert frame["start"].to_list() == [0, 10, 20, 30, 40]
    assert frame["sport"].unique().to_list() == ["cycling"]
    signal = frame["signal"].to_numpy()
    seconds = np.arange(20, 40)
    expected = np.where((seconds >= 25) & (seconds < 30), np.nan, 200 + seconds)
    assert np.array_equal(signal[2, 1], expected, equal_nan=True)
    assert np.allclose(signal[0], [100 + np.arange(20), 200 + np.arange(20), np.full(20, 8.5)])


def test_a_wrong_checksum_is_refused_and_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path / "a.fit")
    data = bytearray(write(tmp_path / "b.fit").read_bytes())
    data[-2] ^= 1
    (tmp_path / "b.fit").write_bytes(data)
    write(tmp_path / "c.fit", session=False)
    src = source(tmp_path)
    assert read(src, ["record"])["record"].to_list() == ["a"]
    assert src.tally.refused == {"a file whose checksum is wrong": 1, "a file without a session": 1}
    assert src.tally.balanced
    src = source(tmp_path / "c.fit", per="record", seconds=61)
    assert read(src, ["record"]).is_empty()
    assert src.tally.refused == {"an activity shorter than seconds": 1}


def test_options() -> None:
    with pytest.raises(ManifestError, match="needs seconds"):
        Spec.parse({"type": "fit", "per": "record"})
    with pytest.raises(ManifestError, match="channels"):
        Spec.parse({"type": "fit", "channels": ["position_lat"]})


@pytest.mark.parametrize("path", sorted(BAD.glob("*.fit")), ids=lambda p: p.name)
def test_bad_files_are_refused_and_counted(path: Path) -> None:
    for options in ({"per": "session"}, {"per": "record", "seconds": 1}):
        src = source(path, **options)
        assert read(src, ["record"]).is_empty()
        assert src.tally.refused.total() == 1
        assert src.tally.balanced


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("fit") / "g.fit", seconds=20).read_bytes()


def crc(data: bytes) -> bytes:
    """The checksum of the FIT protocol (CRC-16/ARC)."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(14, 5000), byte=st.integers(0, 255), mended=st.booleans())
def test_a_flipped_byte_never_crashes(good: bytes, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, mended: bool) -> None:
    data = bytearray(good)
    data[at % len(data)] = byte
    if mended:  # past the checksum
        data[-2:] = crc(bytes(data[:-2]))
    path = tmp_path_factory.mktemp("flip") / "f.fit"
    path.write_bytes(data)
    for options in ({"per": "session"}, {"per": "record", "seconds": 5}):
        src = source(path, **options)
        try:
            frame = read(src, src.columns())
        except LocumError:
            continue
        assert src.tally.balanced
        assert len(frame) == src.tally.used
