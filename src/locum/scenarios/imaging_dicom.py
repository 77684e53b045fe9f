"""A site's images as DICOM files, as a hospital has them, and how they are read back through the data room."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from locum.data import Rows
from locum.data.load import load_rows
from locum.data.sources.base import need
from locum.study import Study

GREYS = 16
"""The largest stored value: 1.0 in the rows."""
MAPPING = f"""# How this site's images become the study's variables. burned_in: the pixels themselves look like letters, since they are digits.
[source]
type = "dicom"
size = [8, 8]
window = [{(GREYS + 1) / 2}, {GREYS + 1}]
burned_in = "header"
labels_file = "labels.csv"
key = "file"

[columns]
pixels = "pixels"
digit = "digit"
"""


def write_dicom(folder: Path, rows: Rows, array: str = "pixels", label: str = "digit") -> Path:
    """One DICOM file an image, a table of labels and the mapping, in `folder`; returns the mapping. Needs pydicom."""
    need("pydicom", "imaging", "DICOM")
    images = folder / "images"
    images.mkdir(parents=True)
    stored = np.rint(rows.arrays[array] * GREYS).astype(np.uint16)
    names = [f"{i:06d}.dcm" for i in range(len(rows))]
    for name, pixels, who in zip(names, stored, rows.patient, strict=True):
        _write(images / name, pixels, f"MRN-{who}")
    labels = "\n".join(["file," + label, *(f"{n},{int(v)}" for n, v in zip(names, rows.columns[label], strict=True))])
    (folder / "labels.csv").write_text(labels + "\n", encoding="utf-8")
    (folder / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    return folder / "mapping.toml"


def read_dicom(study: Study, mapping: Path) -> Rows:
    """The study's variables from a folder that `write_dicom` made, as a site reads its own."""
    return load_rows(study, mapping, mapping.parent / "images")


def _write(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], patient: str) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()  # a secondary capture
    d.StudyInstanceUID, d.SeriesInstanceUID = generate_uid(), generate_uid()
    d.PatientID, d.PatientName, d.Modality, d.BurnedInAnnotation = patient, "Doe^Jane", "OT", "NO"
    d.Rows, d.Columns = pixels.shape
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
    d.PixelData = pixels.astype("<u2").tobytes()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.save_as(path, enforce_file_format=True)
