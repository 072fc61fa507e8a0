"""The state on disk, written and read by one process; runs of several are in test_engine."""

from pathlib import Path

import pytest
import torch

from mimir_ray.config import UserError
from mimir_ray.training.state.pieces import (
    Piece,
    TrainingProgress,
    read_progress,
    read_state,
    read_weights,
    write_state,
)


def piece(values: list[float], start: int = 0, whole: int | None = None) -> Piece:
    return Piece.of(torch.tensor(values), start, len(values) if whole is None else whole)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_state(tmp_path / "state", {"weight/a.b": piece([1.0, 2.0, 3.0])}, TrainingProgress(step=7, updates=5))
    return tmp_path / "state"


def test_a_weight_is_read_whole_and_by_pieces(written: Path) -> None:
    assert read_weights(written, "weight")["a.b"].tolist() == [1.0, 2.0, 3.0]
    end = torch.zeros(2)
    read_state(written, {"weight/a.b": Piece.of(end, 1, 3)}, {"weight/a.b": 3})
    assert end.tolist() == [2.0, 3.0]


def test_progress_counts_what_was_left_out(written: Path) -> None:
    assert read_progress(written) == TrainingProgress(7, 5)
    assert read_progress(written).skipped == 2


def test_a_state_without_average_says_so(written: Path) -> None:
    with pytest.raises(UserError, match=r"has no moving average: training.ema_decay was 0"):
        read_weights(written, "average")


def test_another_models_state_is_refused(written: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 elements of weight/a.b and the run has 4"):
        read_state(written, {"weight/a.b": piece([0.0], 0, 4)}, {"weight/a.b": 4})
    with pytest.raises(UserError, match=r"has no elements of weight/c"):
        read_state(written, {}, {"weight/c": 1})


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no training state"):
        read_progress(tmp_path)
    with pytest.raises(UserError, match=r"holds no training state"):
        read_weights(tmp_path, "weight")


def test_a_state_that_lacks_files_is_refused(written: Path) -> None:
    for file in written.glob("*.distcp"):
        file.unlink()
    with pytest.raises(UserError, match=r"cannot be read"):
        read_weights(written, "weight")
