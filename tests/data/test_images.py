"""Resampling, cropping, padding and windows, on any number of axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from locum.data import images

ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(-1000, 1000, width=32))


@given(ARRAYS, st.data())
def test_resizing_keeps_the_range_and_shrinking_keeps_the_mean(image: np.ndarray, data: st.DataObject) -> None:
    size = [data.draw(st.integers(1, 12)) for _ in image.shape]
    out = images.resize(image, size)
    assert out.shape == tuple(size)
    assert out.min() >= image.min() - 1e-2
    assert out.max() <= image.max() + 1e-2
    if all(new <= old for new, old in zip(size, image.shape, strict=True)):
        assert out.mean() == pytest.approx(image.mean(), abs=0.05)


def test_shrinking_takes_exact_area_averages() -> None:
    image = np.random.default_rng(1).random((97, 130), dtype=np.float32)
    fine = image.repeat(31, axis=0).repeat(40, axis=1)  # each pixel as 31 x 40 alike, so that cells of 97 x 130 of them are whole
    assert np.allclose(images.resize(image, (31, 40)), fine.reshape(31, 97, 40, 130).mean(axis=(1, 3)), atol=1e-5)


def test_halving_is_pillows_box_filter() -> None:
    image = np.random.default_rng(1).random((96, 130), dtype=np.float32)
    other = np.asarray(Image.fromarray(image).resize((65, 48), Image.Resampling.BOX))
    assert np.allclose(images.resize(image, (48, 65)), other, atol=1e-6)


def test_growing_is_pillows_linear_filter() -> None:
    image = np.random.default_rng(2).random((20, 30), dtype=np.float32)
    other = np.asarray(Image.fromarray(image).resize((75, 44), Image.Resampling.BILINEAR))
    assert np.allclose(images.resize(image, (44, 75)), other, atol=1e-5)


@given(ARRAYS, st.data())
def test_crop_and_pad_keep_the_middle(image: np.ndarray, data: st.DataObject) -> None:
    size = [data.draw(st.integers(1, 12)) for _ in image.shape]
    out = images.crop_pad(image, size, fill=-5000)
    assert out.shape == tuple(size)
    kept = out[out != -5000]
    assert kept.size == np.prod([min(a, b) for a, b in zip(size, image.shape, strict=True)])
    assert np.isin(kept, image).all()
    back = images.crop_pad(images.crop_pad(image, [n + 4 for n in image.shape]), image.shape)
    assert (back == image).all()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_pydicoms(function: str) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels.processing import apply_windowing

    header = pydicom.Dataset()
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 40, 400, function
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 1
    units = np.arange(-1000, 1001, dtype=np.int16).reshape(1, -1)
    other = apply_windowing(units, header)
    least, greatest = -(2**11), 2**11 - 1  # pydicom's range is that of the stored bits
    assert np.allclose(images.window(units.astype(np.float32), 40, 400, function), (other - least) / (greatest - least), atol=1e-5)


def test_a_window_of_one_is_a_threshold() -> None:
    assert images.window(np.asarray([[1, 2, 3]], np.float32), 2.5, 1).tolist() == [[0, 0, 1]]


def test_a_constant_image_is_black() -> None:
    assert not images.full_range(np.full((3, 3), 7, np.float32)).any()
