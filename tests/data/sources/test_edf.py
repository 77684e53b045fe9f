"""EDF, EDF+ and BDF files that pyedflib and edfio write and read, and damaged ones."""

import datetime
from pathlib import Path

import edfio
import numpy as np
import polars as pl
import pyedflib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.sources.base import SourceSpec, open_source, read
from locum.data.sources.edf import EdfSource, Spec
from locum.data.sources.edf_format import Edf
from locum.errors import LocumError, ManifestError

BAD = Path(__file__).parents[2] / "bad_inputs" / "signals"
RNG = np.random.default_rng(3)
EEG, SLOW = RNG.standard_normal(256 * 60) * 50, RNG.standard_normal(60) + 36


def write(path: Path, *, code: str = "MCH-0234567") -> Path:
    """A minute of two EEG channels at 256 Hz and a temperature at 1 Hz, with sleep stages, by edfio."""
    kind, signal = (edfio.Bdf, edfio.BdfSignal) if path.suffix == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    signals = [
        signal(EEG, 256, label="EEG Fpz-Cz", physical_dimension="uV"),
        signal(EEG / 1000, 256, label="EEG Pz-Oz", physical_dimension="mV"),
        signal(SLOW, 1, label="Temp rectal", physical_dimension="degC"),
    ]
    kind(
        signals,
        patient=edfio.Patient(code=code, sex="F", birthdate=datetime.date(1951, 5, 2), name="Haagse_Harry"),
        recording=edfio.Recording(startdate=datetime.date(2002, 3, 2)),
        annotations=[edfio.EdfAnnotation(0, 30, "Sleep stage W"), edfio.EdfAnnotation(30, 30, "Sleep stage 1"), edfio.EdfAnnotation(41, None, "Arousal")],
    ).write(path)
    return path


def source(path: Path, **options: object) -> EdfSource:
    return EdfSource(path, Spec.parse({"type": "edf", "fs": 256, "seconds": 10, **options}))


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_agrees_with_pyedflib_and_edfio(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}")
    edf = Edf.read(path)
    theirs = (edfio.read_bdf if suffix == ".bdf" else edfio.read_edf)(path)
    with pyedflib.EdfReader(str(path)) as reader:
        for i, channel in enumerate(edf.channels):
            ours = edf.signal(channel, 0, edf.records)
            assert np.allclose(ours, reader.readSignal(i), atol=1e-4)
            assert np.allclose(ours, theirs.signals[i].data, atol=1e-4)
            assert edf.rate(channel) == reader.getSampleFrequency(i)
        onsets, durations, texts = reader.readAnnotations()
    notes = sorted(edf.annotations()[1], key=lambda n: n.onset)
    assert [(n.onset, max(0.0, n.duration), n.text) for n in notes] == [(o, max(0.0, d), t) for o, d, t in zip(onsets, durations, texts, strict=True)]
    assert (edf.patient, edf.sex, edf.age) == ("MCH-0234567", "F", 50)


def test_windows(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    write(tmp_path / "p" / "night.edf")
    src = source(tmp_path, channels=["eeg fpz-cz", "C3|EEG Pz-Oz"], unit="mV", seconds=20)
    frame = read(src, src.columns(), size=2)
    assert frame.schema["signal"] == pl.Array(pl.Float32, (2, 20 * 256))
    assert frame.drop("signal").rows() == [
        ("p/night", "MCH-0234567", "F", 50.0, 0.0, "Sleep stage W"),
        ("p/night", "MCH-0234567", "F", 50.0, 20.0, "Sleep stage W"),
        ("p/night", "MCH-0234567", "F", 50.0, 40.0, "Sleep stage 1"),
    ]
    signal = frame["signal"].to_numpy()
    assert np.allclose(signal[1, 0], EEG[20 * 256 : 40 * 256] / 1000, atol=1e-4)
    assert np.allclose(signal[:, 0], signal[:, 1], atol=1e-4)
    assert "Harry" not in str(frame.rows())
    assert (src.tally.read, src.tally.used) == (3, 3)


def test_other_units_stay_and_are_noted(tmp_path: Path) -> None:
    src = source(write(tmp_path / "a.edf"), channels=["Temp rectal"], fs=1)
    assert np.allclose(read(src, ["signal"])["signal"].to_numpy().ravel(), SLOW, atol=1e-3)
    assert src.tally.notes == {"a channel that is no voltage, in its own unit": 1}
    anonymous = source(write(tmp_path / "b.edf", code="X"))
    assert read(anonymous, ["patient"])["patient"].is_null().all()


def test_plain_edf_of_pyedflib(tmp_path: Path) -> None:
    path = tmp_path / "plain.edf"
    with pyedflib.EdfWriter(str(path), 1, file_type=pyedflib.FILETYPE_EDF) as writer:
        writer.setSignalHeaders([pyedflib.highlevel.make_signal_header("ECG", dimension="uV", sample_frequency=100, physical_min=-200, physical_max=200)])
        writer.writeSamples([EEG[:1000]])
    frame = read(open_source(Spec.parse({"fs": 100, "seconds": 10, "path": str(path)})), ["signal", "sex"])
    assert np.allclose(frame["signal"].to_numpy()[0, 0], EEG[:1000], atol=0.01)
    assert frame["sex"].to_list() == [None]


def test_no_window_spans_a_gap(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "c.edf").read_bytes())
    data[192:197] = b"EDF+D"
    edf = Edf.read(tmp_path / "c.edf")
    for record in range(30, 60):  # the second half begins ten seconds later
        at = edf.header_bytes + record * edf.record_bytes + edf.annotated[0].at
        old = f"+{record}\x14\x14".encode()
        assert data[at : at + len(old)] == old
        data[at : at + len(old)] = f"+{record + 10}\x14\x14".encode()
    (tmp_path / "c.edf").write_bytes(data)
    frame = read(source(tmp_path / "c.edf", seconds=20, channels=["EEG Fpz-Cz"]), ["start", "signal"])
    assert frame["start"].to_list() == [0.0, 40.0]
    assert np.allclose(frame["signal"].to_numpy()[1, 0], EEG[30 * 256 : 50 * 256], atol=0.01)


@pytest.mark.parametrize("path", sorted([*BAD.glob("*.edf"), *BAD.glob("*.bdf")]), ids=lambda p: p.name)
def test_bad_recordings_are_refused_and_counted(path: Path) -> None:
    src = source(path, seconds=1)
    assert read(src, ["record", "signal"]).is_empty()
    assert src.tally.refused.total() == 1
    assert "Harry" not in str(src.tally.refused)


def test_options() -> None:
    with pytest.raises(ManifestError, match="'seconds' is missing"):
        Spec.parse({"type": "edf", "fs": 100})
    with pytest.raises(ManifestError, match="fs"):
        open_source(SourceSpec(path="a.edf"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("edf") / "g.edf").read_bytes()


@settings(max_examples=150, deadline=None)
@given(at=st.one_of(st.integers(0, 1300), st.integers(0, 100_000)), byte=st.integers(0, 255), cut=st.integers(0, 2))
def test_a_flipped_byte_never_crashes(good: bytes, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int) -> None:
    data = bytearray(good)
    data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("flip") / "f.edf"
    path.write_bytes(data[: len(data) - cut])
    src = source(path, fs=64)
    try:
        frame = read(src, src.columns())
    except LocumError:
        return
    assert src.tally.balanced
    assert len(frame) == src.tally.used
