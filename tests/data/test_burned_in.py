"""Burned-in text: the header's rules, and what the look at the pixels catches and misses, on real images with text drawn by Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from locum.data.burned_in import says_header, shows_text
from locum.data.images import full_range

pydicom = pytest.importorskip("pydicom", reason="needs the extra imaging")
from pydicom.data import get_testdata_file  # noqa: E402

CT, SC, US = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1"


@pytest.mark.parametrize(
    ("attributes", "clean"),
    [
        ({"SOPClassUID": CT, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, True),
        ({"SOPClassUID": CT, "BurnedInAnnotation": "YES"}, False),
        ({"SOPClassUID": CT, "BurnedInAnnotation": "NO", "RecognizableVisualFeatures": "YES"}, False),
        ({"SOPClassUID": CT, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, False),
        ({"SOPClassUID": CT, "ImageType": ["DERIVED", "SECONDARY"], "BurnedInAnnotation": "NO"}, True),
        ({"SOPClassUID": CT, "ImageType": ["DERIVED", "PRIMARY"]}, True),
        ({"SOPClassUID": SC}, False),
        ({"SOPClassUID": SC + ".4"}, False),
        ({"SOPClassUID": SC, "BurnedInAnnotation": "NO "}, True),
        ({"SOPClassUID": CT, "ConversionType": "WSD"}, False),
        ({"SOPClassUID": CT, "ConversionType": "SYN"}, True),
        ({"SOPClassUID": US, "Modality": "US"}, False),
        ({"SOPClassUID": CT, "Modality": "ES"}, False),
        ({}, True),
    ],
)
def test_what_the_header_says(attributes: dict[str, object], clean: bool) -> None:
    header = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    assert (says_header(header) is None) is clean


def pixels(name: str) -> np.ndarray:
    image = pydicom.dcmread(get_testdata_file(name)).pixel_array
    return (full_range(image.astype(np.float32)) * 255).astype(np.uint8)


def drawn(image: np.ndarray, text: str, size: int, where: tuple[int, int]) -> np.ndarray:
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text(where, text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(canvas, dtype=np.float32)


CLEAN = ["CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "image_dfl.dcm", "rtdose_1frame.dcm"]


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_image_shows_no_text(name: str) -> None:
    assert not shows_text(pixels(name).astype(np.float32))


def test_names_and_dates_drawn_on_a_ct_are_seen() -> None:
    image = np.kron(pixels("CT_small.dcm"), np.ones((4, 4), np.uint8))  # 512 x 512
    seen = [
        shows_text(drawn(image, text, size, where))
        for text in ("DOE^JOHN", "Smith, Jane", "1956-03-12", "MRN 4482913")
        for size in (10, 12, 16, 20, 28, 40)
        for where in ((8, 4), (200, 4), (8, 460))
    ]
    assert len(seen) == 72
    assert sum(seen) >= 66  # a look, not a proof


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_palette.dcm"])
def test_the_text_of_real_ultrasound_images_is_seen(name: str) -> None:
    dataset = pydicom.dcmread(get_testdata_file(name))
    image = dataset.pixel_array.astype(np.float32)
    assert shows_text(image.mean(axis=-1) if image.ndim == 3 else image)


def test_what_it_misses() -> None:
    image = np.kron(pixels("CT_small.dcm"), np.ones((4, 4), np.uint8))
    assert not shows_text(drawn(image, "DOE^JOHN", 14, (200, 250)))  # in the middle
    assert not shows_text(drawn(image, "DOE", 14, (8, 4)))  # fewer than five letters
    assert not shows_text(drawn(image, "DOE^JOHN", 6, (8, 4)))  # too small


def test_tiny_and_constant_images_show_none() -> None:
    assert not shows_text(np.zeros((3, 3), np.float32))
    assert not shows_text(np.full((200, 200), 9, np.float32))
