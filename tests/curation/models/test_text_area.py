"""OCR coverage: exact areas of boxes, and the real detector on text drawn into frames."""

import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mimir_ray.config import UserError
from mimir_ray.curation.models.config import TextAreaConfig
from mimir_ray.curation.models.text_area import TextArea, coverage

BLANK = np.full((160, 320, 3), 60, np.uint8)


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def boxes(*corners: list[list[float]]) -> NDArray[np.float32]:
    return np.array(corners, np.float32).reshape(-1, 4, 2)


@pytest.mark.parametrize(
    ("found", "area"),
    [
        (boxes(), 0),
        (boxes(box(10, 10, 30, 20)), 200),
        (boxes(box(10, 10, 30, 20), box(50, 10, 60, 20)), 300),
        (boxes(box(10, 10, 30, 20), box(10, 10, 30, 20)), 200),
        (boxes(box(10, 10, 30, 20), box(20, 10, 40, 20)), 300),
        (boxes(box(10, 10, 30, 20), box(12, 12, 14, 14)), 200),
        (boxes(box(-10, -10, 10, 10)), 100),
        (boxes(box(-10, -10, 210, 110)), 5000),
        (boxes(box(5, 5, 5, 25)), 0),
        (boxes([[50, 0], [100, 25], [50, 50], [0, 25]]), 2500),  # rotated: half of its bounding box
        (boxes([[50, 50], [0, 25], [50, 0], [100, 25]]), 2500),
    ],
)
def test_coverage_is_the_union_inside_the_frame(found: NDArray[np.float32], area: float) -> None:
    assert coverage(found, height_px=50, width_px=100) == pytest.approx(area / 5000, abs=1e-9)


@pytest.fixture(scope="module")
def scorer() -> TextArea:
    return TextArea(TextAreaConfig(short_side_px=256))


def drawn(text: str, top: int = 60) -> NDArray[np.uint8]:
    frame = BLANK.copy()
    cv2.putText(frame, text, (30, top + 30), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (250, 250, 250), 3)
    return frame


def ink_share(frame: NDArray[np.uint8]) -> float:
    """Share of the frame inside the tight box of what was drawn."""
    rows, columns = np.nonzero((frame != BLANK).any(-1))
    return float(np.ptp(rows) * np.ptp(columns)) / BLANK[..., 0].size


def test_drawn_text_is_covered_and_nothing_else(scorer: TextArea) -> None:
    text = drawn("HELLO WORLD")
    covered = scorer(text[None])
    assert ink_share(text) <= covered <= 1.8 * ink_share(text)  # boxes have a margin around the letters
    assert scorer(BLANK[None]) == 0
    assert scorer(np.stack([text, BLANK])) == pytest.approx(covered / 2)


def test_two_lines_cover_their_two_boxes(scorer: TextArea) -> None:
    one, other = drawn("HELLO WORLD", top=10), drawn("GOOD MORNING", top=100)
    both = np.maximum(one, other)
    assert len(scorer.boxes(both)) == 2
    assert scorer(both[None]) == pytest.approx(scorer(one[None]) + scorer(other[None]), rel=0.15)


def test_text_in_a_slanted_line_covers_less_than_its_bounding_box(scorer: TextArea) -> None:
    turn = cv2.getRotationMatrix2D((160, 80), 20, 1)
    slanted = cv2.warpAffine(drawn("HELLO WORLD"), turn, (320, 160), borderValue=(60, 60, 60))
    assert scorer(slanted[None]) == pytest.approx(scorer(drawn("HELLO WORLD")[None]), rel=0.3)
    assert scorer(slanted[None]) < 0.7 * ink_share(slanted)


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'mimir-ray\[ocr\]'"):
        TextArea(TextAreaConfig())
