"""NIfTI: files that nibabel ships, files written with nibabel, and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.sources.base import read
from locum.data.sources.nifti import NiftiSource, Spec, open_source
from locum.errors import DataError, ManifestError

nibabel = pytest.importorskip("nibabel", reason="needs the extra imaging")
BAD = Path(__file__).parents[2] / "bad_inputs" / "imaging"


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    image.header["descrip"] = b"Doe^Jane"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"MRN-1"))
    image.to_filename(path)
    return path


def rows(path: Path, **options: Any) -> tuple[pl.DataFrame, NiftiSource]:
    source = open_source(Spec(type="nifti", **{"size": (4, 5, 6), **options}), path)
    assert isinstance(source, NiftiSource)
    frame = read(source, source.columns())
    assert source.tally.balanced
    assert source.tally.used == len(frame)
    assert frame["voxels"].dtype == pl.Array(pl.Float32, source.spec.size)
    return frame, source


VOXELS = np.arange(120, dtype=np.float32).reshape(4, 5, 6)


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "ILP"])
def test_every_orientation_gives_the_same_array(tmp_path: Path, axes: str) -> None:
    ornt = nibabel.orientations.axcodes2ornt(axes)
    image = nibabel.Nifti1Image(VOXELS, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.as_reoriented(ornt).to_filename(tmp_path / "x.nii.gz")
    assert (rows(tmp_path)[0]["voxels"].to_numpy()[0] == VOXELS).all()
    thin = rows(tmp_path, spacing=(1, 1, 1), size=(4, 10, 18))[0]["voxels"].to_numpy()[0]
    assert thin[0, 0, 0] == VOXELS[0, 0, 0]
    assert thin[-1, -1, -1] == VOXELS[-1, -1, -1]


def test_slope_units_and_a_second_version(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(VOXELS.astype(np.int16), np.diag([0.002, 0.002, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2, -5)
    image.to_filename(tmp_path / "x.nii")
    stored = np.asarray(nibabel.load(tmp_path / "x.nii").dataobj)
    assert np.allclose(rows(tmp_path)[0]["voxels"].to_numpy()[0], stored)
    padded = rows(tmp_path, spacing=(2, 2, 2), size=(8, 9, 10))[0]["voxels"].to_numpy()[0]
    assert np.allclose(padded[2:6, 2:7, 2:8], stored)
    assert not padded[:2].any()


def test_intensities(tmp_path: Path) -> None:
    write(tmp_path / "x.nii", VOXELS)
    z = rows(tmp_path, intensity="zscore")[0]["voxels"].to_numpy()[0]
    inside = z[VOXELS != 0]
    assert (inside.mean(), inside.std(), z[0, 0, 0]) == pytest.approx((0, 1, 0), abs=1e-5)
    p = rows(tmp_path, intensity="percentile")[0]["voxels"].to_numpy()[0]
    low, high = np.percentile(VOXELS, (1, 99))
    assert np.allclose(p, np.clip((VOXELS - low) / (high - low), 0, 1), atol=1e-6)


def test_a_bids_folder_with_its_participants(tmp_path: Path) -> None:
    for sub, ses in (("01", "a"), ("01", "b"), ("02", "a"), ("09", "a")):
        write(tmp_path / f"sub-{sub}" / f"ses-{ses}" / "anat" / f"sub-{sub}_ses-{ses}_T1w.nii.gz", VOXELS)
    write(tmp_path / "sub-01" / "sub-01_FLAIR.nii.gz", VOXELS)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\nsub-02\tn/a\n")
    frame, source = rows(tmp_path, suffix="T1w")
    assert frame.select("patient", "session", "suffix", "age").rows() == [
        ("sub-01", "a", "T1w", "40"),
        ("sub-01", "b", "T1w", "40"),
        ("sub-02", "a", "T1w", "n/a"),
    ]
    assert source.tally.left_out == {"a file of another kind": 1, "with another suffix": 1, "without a row in the table of labels": 1}
    assert not any(word in str(frame.rows()) for word in ("Doe", "MRN"))
    (tmp_path / "labels.csv").write_text("name,y\nsub-01/sub-01_FLAIR.nii.gz,1\n")
    frame, _ = rows(tmp_path, labels_file=str(tmp_path / "labels.csv"), key="file", label_key="name")
    assert frame.select("patient", "suffix", "y").rows() == [("sub-01", "FLAIR", "1")]


def test_what_nibabel_ships_is_accounted_for() -> None:
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    if not folder.is_dir():
        pytest.skip("nibabel was installed without its test data")
    frame, source = rows(folder, volume=0)
    assert {"anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz"} <= set(frame["file"])
    assert sum(source.tally.refused.values()) == 1  # a connectivity matrix, which is no volume
    assert rows(folder)[1].tally.refused["it holds several volumes; set volume under [source] to choose one"] == 3
    one = nibabel.load(folder / "example4d.nii.gz")
    shape = nibabel.as_closest_canonical(one).shape[:3]
    ours = rows(folder / "example4d.nii.gz", volume=1, size=shape)[0]["voxels"].to_numpy()[0]
    assert np.allclose(ours, nibabel.as_closest_canonical(one).get_fdata()[..., 1])


REASONS = {
    "cut.nii": "it is cut short",
    "header_alone.nii": "its header cannot be read",
    "huge.nii": "it declares more than",
    "offset.nii": "it is cut short",
    "colour.nii": "it is no volume of numbers",
    "text.nii": "its header cannot be read",
    "bomb.nii.gz": "it unpacks to more than",
    "cut.nii.gz": "it is cut short",
    "four.nii": "it holds several volumes",
}


@pytest.mark.parametrize("name", sorted(p.name for p in [*BAD.glob("*.nii"), *BAD.glob("*.nii.gz")]))
def test_bad_inputs_are_refused_with_a_reason(name: str) -> None:
    frame, source = rows(BAD / name)
    assert not len(frame)
    assert [reason.startswith(REASONS[name]) for reason in source.tally.refused] == [True], source.tally.refused


def test_voxels_that_are_no_number_are_noted(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[0, 0, 0] = np.nan
    write(tmp_path / "x.nii", voxels)
    frame, source = rows(tmp_path)
    assert frame["voxels"].to_numpy()[0, 0, 0, 0] == 0
    assert source.tally.notes == {"volumes with voxels that are no number, read as 0": 1}


def test_options_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        Spec.parse({"type": "nifti", "size": [2048, 2048, 2048]})
    with pytest.raises(DataError):
        rows(tmp_path / "nowhere")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 360), st.integers(0, 255)), min_size=1, max_size=8), cut=st.integers(0, 300), packed=st.booleans())
def test_flipped_bytes_give_a_row_or_a_reason(tmp_path: Path, flips: list[tuple[int, int]], cut: int, packed: bool) -> None:
    name = "x.nii.gz" if packed else "x.nii"
    data = bytearray(write(tmp_path / name, VOXELS).read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    (tmp_path / name).write_bytes(data[: len(data) - max(0, cut - 200)])
    _, source = rows(tmp_path / name)
    assert source.tally.read == 1
