"""DICOM trees: files that pydicom ships, files written with pydicom, and broken ones."""

from __future__ import annotations

import random
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.sources import decode, dicom_file
from locum.data.sources.base import Unusable, read
from locum.data.sources.base import open_source as open_any
from locum.data.sources.dicom import DicomSource, Spec, open_source
from locum.errors import DataError, ManifestError

pydicom = pytest.importorskip("pydicom", reason="needs the extra imaging")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

KEY = b"the site's secret"


def dicom(path: Path, pixels: np.ndarray | None = None, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Path:
    """A CT image written by pydicom; pixels int16 of shape (rows, columns), or (frames, rows, columns)."""
    pixels = np.arange(64, dtype=np.int16).reshape(8, 8) if pixels is None else pixels
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
    d.PatientID, d.PatientName, d.StudyDate, d.Modality = "MRN-1", "Doe^Jane", "20200102", "CT"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.InstanceNumber = "1.2.3", "1.2.3.4", 1
    d.Rows, d.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        d.NumberOfFrames = len(pixels)
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.PixelSpacing = [1, 1]
    d.PixelData = pixels.astype("<i2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(d, keyword)
        else:
            setattr(d, keyword, value)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)
    return path


def rows(path: Path, **options: Any) -> tuple[pl.DataFrame, DicomSource]:
    source = open_source(Spec(type="dicom", **{"size": (8, 8), "burned_in": "header", **options}), path, secret=KEY)
    assert isinstance(source, DicomSource)
    frame = read(source, source.columns())
    assert source.tally.balanced
    assert source.tally.used == len(frame)
    assert frame["pixels"].dtype == pl.Array(pl.Float32, source.spec.shape)
    return frame, source


def test_a_row_has_what_is_allowed_and_the_raw_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "b" / "2.dcm", StudyDate="20200202", StudyInstanceUID="1.2.9", PatientAge="093Y", WindowCenter=32, WindowWidth=64)
    dicom(tmp_path / "a" / "1", BodyPartExamined="CHEST", Manufacturer="SIEMENS Healthineers")
    frame, source = rows(tmp_path)
    assert frame["file"].to_list() == ["a/1", "b/2.dcm"]
    assert frame["patient"].to_list() == ["MRN-1", "MRN-1"]  # the core replaces it
    assert frame["study_day"].to_list() == [0, 31]
    assert frame["age_years"].to_list() == [None, 90]
    assert frame["body_part"].to_list() == ["CHEST", None]
    assert frame["manufacturer"].to_list() == ["siemens", None]
    assert frame["study"].n_unique() == 2
    assert frame["series"].n_unique() == 1
    assert not any(secret in str(frame.drop("patient").rows()) for secret in ("Doe", "MRN", "1.2.3", "2020"))
    assert frame["study"].to_list() == read(open_source(source.spec, tmp_path, secret=KEY), ["study"])["study"].to_list()
    assert frame["study"].to_list() != read(open_source(source.spec, tmp_path), ["study"])["study"].to_list()


def test_windows_rescaling_and_inversion(tmp_path: Path) -> None:
    image = np.linspace(-1000, 1000, 64).astype(np.int16).reshape(8, 8)
    dicom(tmp_path / "ct.dcm", image + 1024, RescaleSlope=1, RescaleIntercept=-1024)
    hounsfield = image.astype(float)
    wide = np.clip((hounsfield - (40 - 0.5 - 399 / 2)) / 399, 0, 1)
    assert np.allclose(rows(tmp_path, window=(40, 400))[0]["pixels"].to_numpy()[0], wide, atol=1e-5)
    assert np.allclose(rows(tmp_path)[0]["pixels"].to_numpy()[0], (hounsfield + 1000) / 2000, atol=1e-3)
    dicom(tmp_path / "ct.dcm", image + 1024, RescaleSlope=1, RescaleIntercept=-1024, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(rows(tmp_path, window=(40, 400))[0]["pixels"].to_numpy()[0], 1 - wide, atol=1e-5)


def test_overlays_in_unused_bits_are_gone(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.int16).reshape(8, 8)
    plain = rows(dicom(tmp_path / "plain.dcm", image, BitsStored=12, HighBit=11, PixelRepresentation=0))[0]
    marked = rows(dicom(tmp_path / "marked.dcm", image | (np.eye(8, dtype=np.int16) << 12), BitsStored=12, HighBit=11, PixelRepresentation=0))[0]
    assert (plain["pixels"].to_numpy() == marked["pixels"].to_numpy()).all()


def test_spacing_then_the_middle(tmp_path: Path) -> None:
    dicom(tmp_path / "1.dcm", np.ones((10, 10), np.int16), PixelSpacing=[2, 1], WindowCenter=1, WindowWidth=2)
    out = rows(tmp_path, size=(12, 24), spacing=(2, 1), window=(0, 1))[0]["pixels"].to_numpy()[0]
    assert out.sum() == 100
    assert out[1:11, 7:17].all()
    dicom(tmp_path / "2.dcm", PixelSpacing=None)
    assert rows(tmp_path, spacing=(1, 1))[1].tally.refused == {"it does not say how many millimetres its pixels are apart": 1}


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
)
def test_one_image_is_the_same_in_every_encoding(name: str) -> None:
    one = rows(Path(get_testdata_file("MR_small.dcm")), size=(64, 64))[0]
    other, source = rows(Path(get_testdata_file(name)), size=(64, 64))
    if any(reason.startswith("no decoder") for reason in source.tally.refused):
        pytest.skip(f"{[*source.tally.refused]}")
    assert (one["pixels"].to_numpy() == other["pixels"].to_numpy()).all()


def test_everything_that_pydicom_ships_is_accounted_for() -> None:
    folder = Path(get_testdata_file("MR_small.dcm")).parent
    frame, source = rows(folder, size=(32, 32), burned_in="allow")
    assert len(frame) >= 150
    assert source.tally.left_out["an index of other files (DICOMDIR)"] == 8
    pixels = frame["pixels"].to_numpy()
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert "burned" in " ".join(rows(folder, size=(32, 32), burned_in="refuse")[1].tally.refused)


def test_colour() -> None:
    path = Path(get_testdata_file("examples_rgb_color.dcm"))
    stored = pydicom.dcmread(path).pixel_array / 255
    out = rows(path, size=stored.shape[:2], burned_in="allow", colour=True)[0]["pixels"].to_numpy()[0]
    assert np.allclose(out, np.moveaxis(stored, -1, 0), atol=1e-6)
    grey = rows(path, size=stored.shape[:2], burned_in="allow")[0]["pixels"].to_numpy()[0]
    assert np.allclose(grey, stored @ [0.299, 0.587, 0.114], atol=1e-5)


def series(folder: Path, places: list[float], **attributes: Any) -> None:
    for i, place in enumerate(places):
        image = np.full((8, 8), round(place), np.int16)
        more = {"ImagePositionPatient": [0, 0, place], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "InstanceNumber": 50 - i, **attributes}
        dicom(folder / f"{(i * 7) % 10}.dcm", image, **more)


def test_a_series_is_stacked_in_the_order_of_its_slices(tmp_path: Path) -> None:
    series(tmp_path, [30, 0, 10, 20])
    frame, _ = rows(tmp_path, per="series", size=(4, 8, 8), window="range")
    assert np.allclose(frame["pixels"].to_numpy()[0, :, 0, 0], [0, 1 / 3, 2 / 3, 1])
    assert frame["slices"].to_list() == [4]
    thin = rows(tmp_path, per="series", size=(8, 8, 8), spacing=(5, 1, 1), window="range")[0]["pixels"].to_numpy()[0]
    assert np.allclose(thin.mean(axis=(1, 2))[[0, -1]], [0, 1], atol=0.1)


def test_a_series_with_a_hole_or_a_bad_image_is_refused_as_a_whole(tmp_path: Path) -> None:
    series(tmp_path / "hole", [0, 10, 30, 40])
    series(tmp_path / "bad", [0, 10, 20], SeriesInstanceUID="1.2.9")
    dicom(tmp_path / "bad" / "x.dcm", SeriesInstanceUID="1.2.9", BurnedInAnnotation="YES")
    series(tmp_path / "good", [0, 10], SeriesInstanceUID="1.2.10")
    _, source = rows(tmp_path, per="series", size=(4, 8, 8))
    assert (source.tally.read, source.tally.used) == (3, 1)
    assert sorted(source.tally.refused) == [
        "the header says that text is burned into the image",
        "the images of its series are not evenly spaced: one is missing, or there are several",
    ]


def test_frames_are_rows_or_a_volume(tmp_path: Path) -> None:
    dicom(tmp_path / "1.dcm", np.arange(3 * 64, dtype=np.int16).reshape(3, 8, 8), SliceThickness=2)
    frame, _ = rows(tmp_path)
    assert frame["frame"].to_list() == [0, 1, 2]
    volume = rows(tmp_path, per="series", size=(3, 8, 8))[0]
    assert np.allclose(volume["pixels"].to_numpy()[0], frame["pixels"].to_numpy())
    assert volume["slices"].to_list() == [3]


def test_labels_are_joined_and_images_without_are_left_out(tmp_path: Path) -> None:
    for i in range(3):
        dicom(tmp_path / "images" / f"{i}.dcm", PatientID=f"P{i}")
    (tmp_path / "labels.csv").write_text("patient,cancer\nP0,1\nP2,0\n")
    frame, source = rows(tmp_path / "images", labels_file=str(tmp_path / "labels.csv"))
    assert frame.select("patient", "cancer").rows() == [("P0", "1"), ("P2", "0")]
    assert source.tally.left_out == {"without a row in the table of labels": 1}
    (tmp_path / "labels.csv").write_text("name,cancer\n1.dcm,1\n")
    frame, _ = rows(tmp_path / "images", labels_file=str(tmp_path / "labels.csv"), key="file", label_key="name")
    assert frame.select("patient", "cancer").rows() == [("P1", "1")]
    (tmp_path / "labels.csv").write_text("patient,sex\nP0,1\n")
    with pytest.raises(ManifestError, match="'sex'"):
        rows(tmp_path / "images", labels_file=str(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_text("patient,y\nP0,1\nP0,0\n")
    with pytest.raises(DataError, match="1 rows"):
        rows(tmp_path / "images", labels_file=str(tmp_path / "labels.csv"))


def test_a_zip_is_a_folder(tmp_path: Path) -> None:
    dicom(tmp_path / "in" / "1.dcm")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "in" / "1.dcm", "a/1.dcm")
        archive.writestr("bomb.dcm", b"\0" * (4 << 20), zipfile.ZIP_DEFLATED)
    frame, source = rows(tmp_path / "all.zip")
    assert frame["file"].to_list() == ["a/1.dcm"]
    assert source.tally.refused == {"a member of the archive grows more than 200 times": 1}


def test_the_cache_is_de_identified_private_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "in" / "1.dcm", PatientComments="Jane Doe of Elm Street")
    cache = tmp_path / "cache"
    once, _ = rows(tmp_path / "in", cache_path=str(cache))
    files = [f for f in cache.iterdir() if f.suffix == ".npy"]
    assert len(files) == 1
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in cache.iterdir())
    assert not any(word in f.read_bytes() for f in cache.iterdir() for word in (b"MRN", b"Doe", b"Elm", b"1.2.3"))
    with monkeypatch.context() as patch:
        patch.setattr(DicomSource, "_made", None)  # decoding again would fail
        assert rows(tmp_path / "in", cache_path=str(cache))[0].equals(once)
    files[0].write_bytes(files[0].read_bytes()[:-9])  # damaged
    assert rows(tmp_path / "in", cache_path=str(cache))[0].equals(once)
    rows(tmp_path / "in", cache_path=str(cache), window=(5, 6))  # another window is another array
    assert len([f for f in cache.iterdir() if f.suffix == ".npy"]) == 2


def test_a_bad_value_is_not_quoted_in_a_warning_or_a_log(tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    data = dicom(tmp_path / "1.dcm", PatientAge="045Y", StudyDate="20200102").read_bytes()
    (tmp_path / "1.dcm").write_bytes(data.replace(b"045Y", b"Jane").replace(b"20200102", b"Doe^1956"))
    frame, _ = rows(tmp_path)
    assert frame.select("age_years", "study_day").rows() == [(None, None)]
    assert not [w for w in recwarn if "Jane" in str(w.message) or "Doe" in str(w.message)]
    assert not caplog.records


def test_refused_images_are_not_cached(tmp_path: Path) -> None:
    dicom(tmp_path / "in" / "1.dcm", BurnedInAnnotation="YES")
    frame, _ = rows(tmp_path / "in", cache_path=str(tmp_path / "cache"))
    assert not len(frame)
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["cache.key"]


BAD = Path(__file__).parents[2] / "bad_inputs" / "imaging"
REASONS = {
    "text.dcm": "not a DICOM file",
    "cut.dcm": "its pixels are cut short",
    "no_syntax.dcm": "it does not say how it is encoded",
    "deflate_bomb.dcm": "its deflated attributes grow",
    "deflate_noise.dcm": "its deflated attributes cannot be unpacked",
    "deep_sequences.dcm": "its attributes cannot be parsed",
    "huge_in_the_codestream.dcm": "",  # as the decoder that is installed sees it
    "huge_rows.dcm": "it declares more than",
    "many_frames.dcm": "it declares more than",
    "seven_bits.dcm": "its pixels",
    "burned_in_stated.dcm": "the header says that text is burned into",
    "burned_in_drawn.dcm": "marks like letters stand near the border",
    "screen_save.dcm": "a screen save",
}


@pytest.mark.parametrize("name", sorted(p.name for p in BAD.glob("*.dcm")))
def test_bad_inputs_are_refused_with_a_reason(name: str) -> None:
    frame, source = rows(BAD / name, burned_in="refuse")
    assert not len(frame)
    assert [reason.startswith(REASONS[name]) for reason in source.tally.refused] == [True], source.tally.refused


def test_a_folder_of_bad_inputs_with_one_good_image(tmp_path: Path) -> None:
    shutil.copytree(BAD, tmp_path, dirs_exist_ok=True)
    dicom(tmp_path / "good.dcm")
    frame, source = rows(tmp_path, burned_in="refuse")
    assert frame["file"].to_list() == ["good.dcm"]
    assert source.tally.read == len([*tmp_path.iterdir()])


def test_a_decoder_that_dies_or_takes_too_long_costs_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(get_testdata_file("MR_small_RLE.dcm")).open("rb") as file:
        parsed = dicom_file.parse(file, pixels=True)
    with decode.Decoder() as decoder:
        first = dicom_file.frames(parsed, decoder)
        assert decoder._child is not None
        decoder._child.kill()
        with pytest.raises(Unusable, match="crash"):
            dicom_file.frames(parsed, decoder)
        assert (dicom_file.frames(parsed, decoder) == first).all()
        monkeypatch.setattr(decode, "SECONDS", 0.0)
        decoder._stop()
        with pytest.raises(Unusable, match="too long"):
            dicom_file.frames(parsed, decoder)
        child = decoder._child
    assert child is None


def test_a_reader_of_a_file_is_an_open_kind(tmp_path: Path) -> None:
    path = dicom(tmp_path / "1.dcm")
    source = open_any(Spec(type="dicom", size=(4, 4)), path)
    assert read(source, ["modality"])["modality"].to_list() == ["CT"]
    with pytest.raises(DataError, match="no column 'modalty'"):
        read(source, ["modalty"])
    with pytest.raises(DataError):
        open_source(Spec(type="dicom", size=(4, 4)), tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"size": (4,)}, {"size": (4, 4, 4)}, {"size": (4, 4), "spacing": (1,)}, {"size": (4096, 4096, 64), "per": "series"}, {}])
def test_options_that_contradict(options: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        Spec.parse({"type": "dicom", **options})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=12), cut=st.integers(0, 400))
def test_flipped_bytes_give_a_row_or_a_reason(tmp_path: Path, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(Path(get_testdata_file("MR_small.dcm")).read_bytes())
    for at, value in flips:
        data[at % (2000 if at % 2 else len(data))] = value
    (tmp_path / "x.dcm").write_bytes(data[: len(data) - max(0, cut - 200)])
    _, source = rows(tmp_path / "x.dcm")
    assert source.tally.read == 1


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
def test_codecs_that_crash_on_a_broken_image_cost_only_that_image(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these libraries written in C aborts the process on some of these files; the process is not this one."""
    monkeypatch.setattr(decode, "SECONDS", 3.0)  # a few of them hang
    data = Path(get_testdata_file(name)).read_bytes()
    start = data.index(b"\xe0\x7f\x10\x00") + 40
    draw = random.Random(5)
    for i in range(25):
        flipped = bytearray(data)
        for _ in range(draw.choice([1, 2, 8, 30])):
            flipped[draw.randrange(start, min(len(data), start + 300))] = draw.randrange(256)
        (tmp_path / f"{i:02}.dcm").write_bytes(flipped)
    shutil.copy(get_testdata_file("MR_small_jp2klossless.dcm"), tmp_path / "zz.dcm")
    frame, source = rows(tmp_path, burned_in="allow")
    assert source.tally.read == 26
    if not any(reason.startswith("no decoder") for reason in source.tally.refused):
        assert frame["file"].to_list()[-1] == "zz.dcm"
