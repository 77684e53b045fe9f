"""WFDB records that the package wfdb writes and reads too, and damaged ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locum.data.sources.base import open_source, read
from locum.data.sources.wfdb import Spec, WfdbSource
from locum.data.sources.wfdb_format import AAMI, SYMBOLS, read_annotations, read_header, read_signals
from locum.errors import LocumError, ManifestError

BAD = Path(__file__).parents[2] / "bad_inputs" / "signals"
FS, SECONDS = 360, 20
BEATS = np.arange(40, FS * SECONDS - 50, 300)  # the first is too near to the start
KINDS = ["N", "V", "A", "F", "/", "L", "N", "N"]


def ecg(leads: int = 2, n: int = FS * SECONDS, seed: int = 0) -> NDArray[np.float64]:
    """Slow waves, shape (n, leads), mV."""
    t = np.arange(n)[:, None] / FS
    return np.sin(2 * np.pi * t * (1 + np.arange(leads))) + 0.1 * np.random.default_rng(seed).standard_normal((n, leads))


def write(folder: Path, name: str, kind: str = "212", signal: NDArray[np.float64] | None = None, comments: list[str] | None = None, **options: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    signal = ecg() if signal is None else signal
    leads = signal.shape[1]
    names = options.pop("names", ["MLII", "V1", "V2"][:leads])
    units = options.pop("units", ["mV"] * leads)
    wfdb.wrsamp(name, FS, units, names, p_signal=signal, fmt=[kind] * leads, comments=comments or ["69 M 1085 1629 x1"], write_dir=str(folder), **options)
    symbols = ["+"] + [KINDS[i % len(KINDS)] for i in range(len(BEATS))] + ["~"]
    aux = ["(N"] + [""] * (len(BEATS) + 1)
    samples = np.concatenate([[30], BEATS, [BEATS[-1] + 10]])
    wfdb.wrann(name, "atr", samples, symbol=symbols, aux_note=aux, write_dir=str(folder))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wfdb")
    write(folder / "p1", "100")
    write(folder / "p2", "200", kind="16", comments=["<age>: 41 <sex>: F"])
    return folder


def source(path: Path, **options: object) -> WfdbSource:
    return WfdbSource(path, Spec.parse({"type": "wfdb", "fs": FS, **options}))


@pytest.mark.parametrize("kind", ["16", "24", "32", "61", "80", "160", "212"])
@pytest.mark.parametrize("leads", [1, 2, 3])
def test_signals_agree_with_wfdb(tmp_path: Path, kind: str, leads: int) -> None:
    signal = ecg(leads, n=1001)
    if kind in ("16", "212"):  # missing samples
        signal[5:9, 0] = np.nan
    write(tmp_path, "r", "16" if kind in ("61", "160") else kind, signal)
    if kind in ("61", "160"):  # wfdb reads these but does not write them: other byte order, other zero
        stored = np.fromfile(tmp_path / "r.dat", "<i2")
        (stored.astype(">i2") if kind == "61" else (stored.astype(np.int32) + 32768).astype("<u2")).tofile(tmp_path / "r.dat")
        lines = (tmp_path / "r.hea").read_text()
        (tmp_path / "r.hea").write_text(lines.replace("r.dat 16 ", f"r.dat {kind} "))
    header = read_header(tmp_path / "r.hea")
    ours = read_signals(header, tmp_path, [*range(leads)])
    theirs = wfdb.rdrecord(str(tmp_path / "r")).p_signal
    assert np.allclose(ours, theirs.T, atol=1e-6, equal_nan=True)
    assert np.isnan(ours).sum() == (4 if kind in ("16", "212") else 0)


def test_annotations_agree_with_wfdb(tmp_path: Path) -> None:
    samples = np.array([3, 3, 1500, 900_000, 2_000_000])  # long intervals need a skip
    wfdb.wrann(
        "r", "atr", samples, symbol=["N", "+", "V", "r", "Q"], aux_note=["", "(AFIB", "", "", "odd"], chan=np.array([0, 1, 1, 0, 0]), write_dir=str(tmp_path)
    )
    ours = read_annotations(tmp_path / "r.atr")
    theirs = wfdb.rdann(str(tmp_path / "r"), "atr")
    assert ours.sample == theirs.sample.tolist()
    assert ours.symbol == theirs.symbol
    assert ours.text == [t.rstrip("\0") for t in theirs.aux_note]
    assert (ours.rhythm(2), ours.rhythm(3)) == (None, "(AFIB")
    wfdb.wrann("s", "atr", samples, symbol=["N"] * 5, fs=250, write_dir=str(tmp_path))
    assert read_annotations(tmp_path / "s.atr").fs == 250
    known = {label.symbol for label in wfdb.io.annotation.ann_labels} - {" "}
    assert set(SYMBOLS.values()) == known
    assert set(AAMI) < known


def test_windows(records: Path) -> None:
    src = source(records, per="window", seconds=5, step=2.5)
    frame = read(src, src.columns(), size=4)
    assert frame.schema["signal"] == pl.Array(pl.Float32, (2, 5 * FS))
    assert len(frame) == 2 * 7
    assert frame["start"].to_list()[:3] == [0.0, 2.5, 5.0]
    assert frame["record"].unique(maintain_order=True).to_list() == ["p1/100", "p2/200"]
    assert frame["folder"].unique(maintain_order=True).to_list() == ["p1", "p2"]
    assert frame.unique("record", maintain_order=True).select("age", "sex").rows() == [(69.0, "M"), (41.0, "F")]
    assert frame["rhythm"].to_list()[:2] == [None, "(N"]
    theirs = wfdb.rdrecord(str(records / "p1" / "100")).p_signal.T
    assert np.allclose(frame["signal"].to_numpy()[1], theirs[:, int(2.5 * FS) : int(7.5 * FS)], atol=1e-6)
    assert (src.tally.read, src.tally.used) == (14, 14)


def test_beats(records: Path) -> None:
    src = source(records, per="beat", leads=["V1"])
    frame = read(src, src.columns())
    n = len(BEATS)
    assert src.tally.balanced
    assert src.tally.read == 2 * n
    assert src.tally.left_out == {"a beat too near to an end of its record": 2}
    assert len(frame) == 2 * n - 2
    first = frame.row(0, named=True)
    assert (first["symbol"], first["aami"], first["start"]) == ("V", "V", BEATS[1] / FS)
    assert first["rr_before"] == first["rr_after"] == 300 / FS
    assert frame["aami"].to_list()[:5] == ["V", "S", "F", "Q", "N"]
    assert frame["rhythm"].to_list()[0] == "(N"
    theirs = wfdb.rdrecord(str(records / "p1" / "100")).p_signal
    assert np.allclose(frame["signal"].to_numpy()[0, 0], theirs[BEATS[1] - 90 : BEATS[1] + 126, 1], atol=1e-6)


def test_resampling_keeps_slow_waves_and_gaps(tmp_path: Path) -> None:
    signal = np.sin(2 * np.pi * np.arange(FS * SECONDS) / FS)[:, None].repeat(2, axis=1)
    signal[720:1080, 1] = np.nan
    write(tmp_path, "r", "16", signal)
    frame = read(source(tmp_path, per="record", seconds=8, fs=125), ["signal"])
    got = frame["signal"].to_numpy()[0]
    assert got.shape == (2, 1000)
    assert np.allclose(got[0, 50:-50], np.sin(2 * np.pi * np.arange(1000) / 125)[50:-50], atol=0.01)
    assert np.isnan(got[1, 250:375]).all()
    assert np.isnan(got[1]).sum() == 125


def test_leads_may_have_alternatives_and_units_differ(tmp_path: Path) -> None:
    write(tmp_path, "a", "16", names=["MLII", "V5"])
    write(tmp_path, "b", "16", ecg() * 1000, names=["V5", "V2"], units=["uV", "uV"])
    write(tmp_path, "c", "16", names=["I", "II"])
    src = source(tmp_path, per="record", seconds=20, leads=["mlii|V5"])
    frame = read(src, ["record", "signal"])
    assert frame["record"].to_list() == ["a", "b"]
    assert np.allclose(*frame["signal"].to_numpy(), atol=0.01)
    assert src.tally.refused == {"a recording without the leads asked for": 1}
    src = source(tmp_path / "c.hea", per="record", seconds=21)
    assert read(src, ["record"]).is_empty()
    assert src.tally.refused == {"a record shorter than seconds": 1}


def test_options() -> None:
    with pytest.raises(ManifestError, match="needs seconds"):
        Spec.parse({"type": "wfdb", "fs": 100})
    with pytest.raises(ManifestError, match="did you mean 'leads'"):
        Spec.parse({"type": "wfdb", "fs": 100, "lead": ["I"]})


def test_opens_by_suffix(records: Path) -> None:
    src = open_source(Spec.parse({"fs": 100, "per": "beat", "path": str(records / "p1" / "100.hea")}))
    assert read(src, ["record"])["record"].unique().to_list() == ["100"]


@pytest.mark.parametrize("path", sorted(BAD.glob("*.hea")), ids=lambda p: p.name)
def test_bad_records_are_refused_and_counted(path: Path) -> None:
    src = source(path, per="beat")
    try:
        assert read(src, ["record", "signal"]).is_empty()
    except LocumError:
        return
    assert src.tally.refused.total() == 1
    assert src.tally.balanced
    assert "patient" not in str(src.tally.refused)


def test_a_bad_record_does_not_hide_the_good_one(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b")
    data = bytearray((tmp_path / "b.dat").read_bytes())
    data[500] ^= 1
    (tmp_path / "b.dat").write_bytes(data)
    src = source(tmp_path, per="record", seconds=20)
    assert read(src, ["record"])["record"].to_list() == ["a"]
    assert src.tally.refused == {"a signal whose checksum is wrong": 1}


@settings(max_examples=120, deadline=None)
@given(suffix=st.sampled_from(["hea", "dat", "atr"]), at=st.integers(0, 30_000), byte=st.integers(0, 255))
def test_a_flipped_byte_never_crashes(records: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, at: int, byte: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    for end in ("hea", "dat", "atr"):
        data = bytearray((records / "p1" / f"100.{end}").read_bytes())
        if end == suffix:
            data[at % len(data)] = byte
        (folder / f"100.{end}").write_bytes(data)
    src = source(folder, per="beat", fs=90)
    try:
        frame = read(src, src.columns())
    except LocumError:
        return
    assert src.tally.balanced
    assert len(frame) == src.tally.used
    assert src.tally.read >= 1
