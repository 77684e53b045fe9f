"""Writes the bad images and arrays of this folder, each broken in one way: python make.py. Needs pydicom, nibabel, numpy and safetensors."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from safetensors.numpy import save

HERE = Path(__file__).parent


def dicom(pixels: np.ndarray | None = None, **attributes: Any) -> bytes:
    """A good CT image of a made patient, but for the attributes given."""
    pixels = np.arange(64, dtype=np.int16).reshape(8, 8) if pixels is None else pixels
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"
    d.PatientID, d.PatientName, d.StudyDate, d.Modality = "MRN-1", "Doe^Jane", "20200102", "CT"
    d.StudyInstanceUID, d.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.PixelData = pixels.astype("<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    d.save_as(file, enforce_file_format=True)
    return file.getvalue()


def behind_meta(data: bytes) -> int:
    return 132 + 12 + int.from_bytes(data[140:144], "little")


def bad_dicoms() -> dict[str, bytes]:
    good = dicom()
    deflated = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    deflated = deflated[: behind_meta(deflated)]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    jpeg = bytearray(Path(get_testdata_file("MR_small_jp2klossless.dcm")).read_bytes().replace(b"DERIVED\\SECONDARY", b"ORIGINAL\\PRIMARY "))
    at = jpeg.index(b"\xff\x4f\xff\x51") + 8
    jpeg[at : at + 8] = b"\x00\x00\xf0\x00\x00\x00\xf0\x00"  # the codestream says 61,440 x 61,440 pixels
    nested = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 2000
    name = Image.new("L", (256, 256), 40)
    ImageDraw.Draw(name).text((8, 6), "DOE^JANE 1956-03-12", fill=255, font=ImageFont.load_default(16))
    return {
        "text.dcm": b"not an image\n" * 20,
        "cut.dcm": good[:-20],
        "no_syntax.dcm": good[:150],
        "deflate_bomb.dcm": deflated + packer.compress(b"\0" * (8 << 20)) + packer.flush(),
        "deflate_noise.dcm": deflated + b"\xff" * 99,
        "deep_sequences.dcm": good[: behind_meta(good)] + nested,
        "huge_in_the_codestream.dcm": bytes(jpeg),
        "huge_rows.dcm": dicom(Rows=65535, Columns=65535),
        "many_frames.dcm": dicom(NumberOfFrames=2**31 - 1),
        "seven_bits.dcm": dicom(BitsAllocated=7),
        "burned_in_stated.dcm": dicom(BurnedInAnnotation="YES"),
        "burned_in_drawn.dcm": dicom(np.asarray(name, dtype=np.int16), BurnedInAnnotation="NO"),
        "screen_save.dcm": dicom(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    }


def bad_volumes() -> dict[str, bytes]:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    good = image.to_bytes()
    huge, lost, kind = bytearray(good), bytearray(good), bytearray(good)
    huge[42:48] = np.asarray([32767] * 3, dtype="<i2").tobytes()
    lost[108:112] = np.float32(1e9).tobytes()  # where the voxels start
    kind[70:72] = np.int16(128).tobytes()  # RGB
    return {
        "cut.nii": good[:-7],
        "header_alone.nii": good[:200],
        "huge.nii": bytes(huge),
        "offset.nii": bytes(lost),
        "colour.nii": bytes(kind),
        "text.nii": b"hello " * 100,
        "bomb.nii.gz": gzip.compress(good + b"\0" * (16 << 20), 9),
        "cut.nii.gz": gzip.compress(good)[:-12],
        "four.nii": nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)).to_bytes(),
    }


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def bad_arrays() -> dict[str, bytes]:
    good = npy(np.arange(20.0))
    objects = npy(np.asarray([{"a": 1}, None], dtype=object))
    claimed = good.replace(b"(20,)", b"(9999999999999,)"[:16])
    long = good[:8] + (60000).to_bytes(2, "little") + b"{" * 60000

    def archive(members: dict[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
        return file.getvalue()

    return {
        "pickled.npy": objects,
        "pickled.npz": archive({"a.npy": objects}),
        "cut.npy": good[:-9],
        "claims_terabytes.npy": claimed,
        "long_header.npy": long,
        "cut.npz": archive({"a.npy": good})[:-30],
        "short_member.npz": archive({"a.npy": good[:-9]}),
        "two_lengths.npz": archive({"a.npy": good, "b.npy": npy(np.arange(3))}),
        "text.npz": b"PK\x03\x04 no archive",
        "cut.safetensors": save({"a": np.arange(20.0)})[:-9],
        "huge_header.safetensors": (2**62).to_bytes(8, "little") + b"{}",
    }


if __name__ == "__main__":
    for name, data in {**bad_dicoms(), **bad_volumes(), **bad_arrays()}.items():
        (HERE / name).write_bytes(data)
