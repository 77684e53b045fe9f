"""Is there text in the pixels? What the header says of it, and a simple look at the pixels themselves.

The header's rules follow DICOM PS3.15 E.3.1 (Clean Pixel Data): an image is taken for clean only where its header says so, or where it comes straight
from a modality that does not write into its pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from locum.data.deidentify import text, value
from locum.data.images import Image, full_range, resize

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_ULTRASOUND = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6")
_WRITES_TEXT = ("US", "IVUS", "ES", "XC", "SC")
GLYPHS = 5
"""As many marks in a line, that look like letters, are taken for text."""
_LONGEST_SIDE = 1024


def says_header(header: Any) -> str | None:
    """Why a pydicom header says, or does not rule out, that the pixels show who the patient is; None where they can be taken for clean."""
    stated = text(header, "BurnedInAnnotation").upper()
    if stated == "YES":
        return "the header says that text is burned into the image"
    if text(header, "RecognizableVisualFeatures").upper() == "YES":
        return "the header says that the patient can be recognised"
    if stated == "NO":
        return None
    kind = text(header, "SOPClassUID")
    if kind == _SECONDARY_CAPTURE or kind.startswith(_SECONDARY_CAPTURE + ".") or text(header, "ConversionType") not in ("", "SYN"):
        return "a secondary capture that is not declared free of burned-in text"
    if any(kind == u or kind.startswith(u + ".") for u in _ULTRASOUND) or text(header, "Modality").upper() in _WRITES_TEXT:
        return "an ultrasound, endoscopy or photograph that is not declared free of burned-in text"
    words = {str(w).strip().upper() for w in _several(value(header, "ImageType"))}
    if "SCREEN SAVE" in words or {"DERIVED", "SECONDARY"} <= words:
        return "a screen save or a derived image that is not declared free of burned-in text"
    return None


def _several(found: Any) -> list[Any]:
    if found is None:
        return []
    return [found] if isinstance(found, str) else list(found)


def shows_text(image: Image) -> bool:
    """Whether letters seem to be drawn near the border of a 2-D image; `longest_line` says how, and what it misses."""
    return longest_line(image) >= GLYPHS


def longest_line(image: Image) -> int:
    """How many marks that look like letters stand in one line, in the outer quarter of a 2-D image.

    A mark is a connected region that is brighter (or darker) than all around it by over a third of the image's range, thin, evenly
    coloured, and 5 to 64 pixels high. It finds machine text of one colour along the border: names, dates, settings. It misses text in
    the middle of the image, handwriting, text of a colour near its background's, letters below 6 pixels or that touch each other, and
    lines of fewer than five letters, such as a side marker. It is a second look, never the proof that an image is clean.
    """
    scale = max(1.0, max(image.shape) / _LONGEST_SIDE)
    small = full_range(image if scale == 1 else resize(image, [max(1, round(n / scale)) for n in image.shape]))
    if min(small.shape) < 16:
        return 0
    return max(_longest(_marks(small)), _longest(_marks(1 - small)))


def _marks(image: Image) -> NDArray[np.float64]:
    """Boxes of the regions that look like letters: top, bottom, left, right, shape (k, 4)."""
    stroke = image - ndimage.grey_opening(image, size=(9, 9))  # what is narrower than 9 pixels and brighter than its surroundings
    thin = (stroke > 0.35) & _border(image.shape)
    labels, count = ndimage.label(thin, structure=np.ones((3, 3), dtype=int))
    if not 0 < count <= 20_000:
        return np.empty((0, 4))
    boxes = ndimage.find_objects(labels)
    index = np.arange(1, count + 1)
    area = ndimage.sum_labels(thin, labels, index)
    spread = ndimage.standard_deviation(image, labels, index)
    kept = []
    for box, pixels, deviation in zip(boxes, area, spread, strict=True):
        high, wide = box[0].stop - box[0].start, box[1].stop - box[1].start
        if 5 <= high <= 64 and wide <= 3 * high and 0.12 <= pixels / (high * wide) <= 1 and deviation < 0.28:
            kept.append((box[0].start, box[0].stop, box[1].start, box[1].stop))
    return np.asarray(kept, dtype=float).reshape(-1, 4)


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.ones(shape, dtype=bool)
    mask[shape[0] // 4 : shape[0] - shape[0] // 4, shape[1] // 4 : shape[1] - shape[1] // 4] = False
    return mask


def _longest(boxes: NDArray[np.float64]) -> int:
    """The longest chain of boxes of like height, on one line, each within about a letter's width of the one before."""
    boxes = boxes[np.argsort(boxes[:, 2], kind="stable")]
    chain = np.ones(len(boxes), dtype=int)
    for i, (top, bottom, left, _) in enumerate(boxes):
        before = boxes[:i]
        height, heights = bottom - top, before[:, 1] - before[:, 0]
        gap = left - before[:, 3]
        level = np.abs(before[:, 1] - bottom) <= 0.35 * np.maximum(height, heights)
        alike = (heights <= 1.7 * height) & (height <= 1.7 * heights)
        near = (gap >= -1) & (gap <= 1.5 * np.maximum(height, heights))
        if (linked := level & alike & near).any():
            chain[i] = chain[:i][linked].max() + 1
    return int(chain.max()) if len(chain) else 0
