"""OCR coverage: the share of the frame that text covers."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimir_ray.config import UserError
from mimir_ray.curation.models.config import TextAreaConfig
from mimir_ray.curation.models.loading import Frames


class TextArea:
    """Detects text with the PP-OCR model inside the rapidocr package; nothing is downloaded, and nothing is read.

    Raises UserError where the extra `ocr` is not installed.
    """

    def __init__(self, config: TextAreaConfig) -> None:
        try:
            rapidocr = importlib.import_module("rapidocr")
            importlib.import_module("onnxruntime")
        except ImportError as error:
            raise UserError(f"{error}: text detection needs the extra ocr; pip install 'mimir-ray[ocr]'") from error
        self._detect: Any = rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",  # a frame without text is no warning
                "Global.use_cls": False,
                "Global.use_rec": False,
                "Det.limit_type": "min",
                "Det.limit_side_len": config.short_side_px,
                "Det.box_thresh": config.min_confidence,
                "EngineConfig.onnxruntime.intra_op_num_threads": config.cpu_threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def __call__(self, frames_FHWC: Frames) -> float:
        """Median over the frames of the share of the area inside text boxes, 0 to 1.

        Text that matters stays for a while; a frame blurred by a fast camera can look like text all over.
        """
        return float(np.median([coverage(self.boxes(frame), *frame.shape[:2]) for frame in frames_FHWC]))

    def boxes(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Corners of every text line in a frame, in pixels: boxes x 4 x 2 (x, y), rotated as the text is."""
        found = self._detect(np.ascontiguousarray(frame_HWC[..., ::-1])).boxes  # it takes arrays as BGR
        return np.zeros((0, 4, 2), np.float32) if found is None else np.asarray(found, np.float32)


def coverage(boxes: NDArray[np.float32], height_px: int, width_px: int) -> float:
    """Share of a frame inside the union of convex boxes (boxes x corners x 2): what overlaps counts once."""
    import shapely

    hulls = shapely.convex_hull(shapely.multipoints(boxes))
    inside = shapely.intersection(shapely.union_all(hulls), shapely.box(0, 0, width_px, height_px))
    return float(inside.area) / (width_px * height_px)
