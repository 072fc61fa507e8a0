"""A file that is not the one that was curated is known by its size first and then by its bytes."""

from pathlib import Path

import pytest

from mimir_ray.storage import file_id, why_other, write_bytes


@pytest.mark.parametrize("store", ["", "memory://curated"])
def test_size_comes_before_content_and_a_copy_stands_for_the_file(store: str, tmp_path: Path) -> None:
    uri, copy = f"{store or tmp_path}/a.mp4", str(tmp_path / "copy.mp4")
    assert why_other(uri, 4).startswith(f"{uri} is not there; it had 4 bytes: bring it back")
    write_bytes(uri, b"abcd")
    content = file_id(uri)
    assert not why_other(uri, 4, content)
    assert "from 5 bytes to 4: bring" in why_other(uri, 5, "another")
    assert not why_other(uri, 4), "the size alone"
    assert f"from the content another to {content}: bring" in why_other(uri, 4, "another")
    write_bytes(copy, b"abce")
    assert why_other(uri, 4, content, copy).startswith(f"{uri} has changed since it was curated, from the content")
