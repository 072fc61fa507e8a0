"""Lists that people have, laid out as the published sets and trainers lay them out."""

import csv
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimir_ray.config import UserError
from mimir_ray.curation.sources import Caption, GivenSpan, captions_of_source
from tests.curation.sources.world import files_in, found, lines, texts, touch


def spans(*sources: Path | str) -> dict[str, list[tuple[float, float, list[str]]]]:
    return {
        Path(file.path).name: [(span.start_s, span.end_s, [c.text for c in span.captions]) for span in file.spans]
        for file in files_in(*sources)
    }


def table(file: Path, rows: list[dict[str, Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with file.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


# As snap-research/Panda-70M lists them: lists as Python writes them, a film a row.
PANDA = {
    "videoID": "--0ZOs1vZ3w",
    "url": "https://www.youtube.com/watch?v=--0ZOs1vZ3w",
    "timestamp": "[['0:00:12.034', '0:00:15.500'], ['1:02:03.500', '1:02:10.000'], ['0:00:01.000', '0:00:02.000']]",
    "caption": "[\"It's a man, who \\\"walks\\\".\", 'A dog.\\u2028It runs.', 'A cat.']",
    "matching_score": "[0.5, 0.4, 0.6]",
}
CUT = [
    (1.0, 2.0, ["A cat."]),
    (12.034, 15.5, ['It\'s a man, who "walks".']),
    (3723.5, 3730.0, ["A dog.\u2028It runs."]),
]


def test_panda_70m(tmp_path: Path) -> None:
    touch(tmp_path / "--0ZOs1vZ3w.mp4")
    assert spans(table(tmp_path / "panda70m_testing.csv", [PANDA])) == {"--0ZOs1vZ3w.mp4": CUT}
    row = PANDA | {"timestamp": [["0:00:12.034", "0:00:15.500"], [3723.5, "3730"], [1, 2]]}
    row["caption"] = [CUT[1][2][0], CUT[2][2][0], CUT[0][2][0]]
    assert spans(lines(tmp_path / "panda.jsonl", row)) == {"--0ZOs1vZ3w.mp4": CUT}
    row |= {"timestamp": [["0:00:12.034", "0:00:15.500"], ["1:02:03.500", "1:02:10"], ["0:00:01", "0:00:02"]]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "panda.parquet")
    assert spans(tmp_path / "panda.parquet") == {"--0ZOs1vZ3w.mp4": CUT}


def test_openvid_1m(tmp_path: Path) -> None:
    touch(tmp_path / "celebv_0.mp4", tmp_path / "--x_0.mp4")
    columns = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds\n"
    rows = 'celebv_0.mp4,"In the video, a man speaks.",5.0,1.2,0.99,static,100,24.0,4.1\n'
    rows += '--x_0.mp4,"A\nB",1,1,1,pan,1,1,1\n'
    (tmp_path / "OpenVid-1M.csv").write_text(columns + rows)
    assert texts(tmp_path / "OpenVid-1M.csv") == {
        "celebv_0.mp4": ["In the video, a man speaks."],
        "--x_0.mp4": ["A\nB"],
    }
    assert all(file.spans == () for file in files_in(tmp_path / "OpenVid-1M.csv"))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_a_video_folder_of_the_library_datasets(tmp_path: Path, name: str, column: str) -> None:
    touch(tmp_path / "train" / "a.mp4", tmp_path / "train" / "sub" / "b.mp4")
    rows = [{"file_name": "a.mp4", column: "One, two."}, {"file_name": "sub/b.mp4", column: "Three."}]
    file = tmp_path / "train" / name
    if name.endswith("csv"):
        table(file, rows)
    elif name.endswith("jsonl"):
        lines(file, *rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    assert texts(tmp_path) == {"a.mp4": ["One, two."], "b.mp4": ["Three."]}
    assert texts(f"{tmp_path}/train/*.mp4") == {"a.mp4": ["One, two."]}
    assert found(tmp_path).notes.lines() == []


def test_other_facts_are_no_captions(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    table(tmp_path / "metadata.csv", [{"file_name": "a.mp4", "label": "dog"}])
    assert texts(tmp_path) == {"a.mp4": ["a"]}
    assert found(tmp_path).notes.lines() == [f"passed over, no videos by name: 1 .csv; as {tmp_path}/metadata.csv"]


@pytest.mark.parametrize("prompts", ["prompts.txt", "prompt.txt", "captions.txt", "caption.txt"])
def test_prompts_and_videos_line_by_line(tmp_path: Path, prompts: str) -> None:
    touch(tmp_path / "videos" / "0.mp4", tmp_path / "videos" / "1.mp4", tmp_path / "videos" / "2.mp4")
    (tmp_path / "videos.txt").write_text("videos/0.mp4\r\nvideos/1.mp4\r\nvideos/2.mp4\r\n\r\n", encoding="utf-8-sig")
    (tmp_path / prompts).write_text("One.\u2028Still one.\n\nThree.\n")
    expected = {"0.mp4": ["One.\u2028Still one."], "1.mp4": ["1"], "2.mp4": ["Three."]}
    assert texts(tmp_path) == texts(tmp_path / "videos.txt") == expected
    assert found(tmp_path).notes.lines() == []
    (tmp_path / prompts).write_text("One.\nTwo.\n")
    with pytest.raises(UserError, match=rf"videos.txt has 3 lines and .*/{prompts} has 2; .* the same number of lines"):
        found(tmp_path)


def test_videos_without_prompts_are_no_list(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "videos.txt")
    assert texts(tmp_path) == {"a.mp4": ["a"]}
    with pytest.raises(UserError, match=r"videos.txt has no prompts.txt beside it"):
        found(tmp_path / "videos.txt")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"start": 1, "end": 2.5}, (1.0, 2.5)),
        ({"start_s": "1", "end_s": "2,5"}, (1.0, 2.5)),
        ({"start": "0:01", "end": "00:00:02.500"}, (1.0, 2.5)),
        ({"start": 3}, (3.0, math.inf)),
        ({"end": 3, "start": None}, (0.0, 3.0)),
        ({"timestamp": ["0:00:01.0", "0:00:02.5"]}, (1.0, 2.5)),
        ({"timestamp": "(1, 2.5)"}, (1.0, 2.5)),
        ({"timestamp": [[1, 2.5]]}, (1.0, 2.5)),
        ({"start": float("nan"), "end": float("nan")}, None),
        ({"start": "", "end": ""}, None),
    ],
)
def test_spans(tmp_path: Path, row: dict[str, Any], expected: tuple[float, float] | None) -> None:
    touch(tmp_path / "a.mp4")
    for text in ({}, {"text": "A."}):
        (file,) = files_in(lines(tmp_path / "list.jsonl", {"path": "a.mp4"} | row | text))
        said = (Caption("user", "A."),) if text else ()
        assert file.spans == ((GivenSpan(*expected, said),) if expected else ())
        assert captions_of_source(file) == (said if said and not expected else (Caption("filename", "a"),))


def test_rows_of_one_video_are_one_file_with_spans_in_order(tmp_path: Path) -> None:
    touch(tmp_path / "film.mp4")
    (tmp_path / "film.txt").write_text("A film.")
    rows = [(9, 12, "Late."), (1, 3, "Early."), (9, 12, "Again."), (9, 12, "Late."), (1, 2, None)]
    file = lines(
        tmp_path / "l.jsonl", *({"video_path": "./film.mp4", "start": a, "end": b, "text": t} for a, b, t in rows)
    )
    assert spans(file) == {"film.mp4": [(1, 2, []), (1, 3, ["Early."]), (9, 12, ["Late.", "Again."])]}
    (found_file,) = files_in(file)
    assert captions_of_source(found_file) == (Caption("user", "A film."),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"start": 3, "end": 3}, "the span 3-3 is empty"),
        ({"start": -1, "end": 3}, "begins before 0"),
        ({"start": "soon"}, "'soon' is no time; write seconds"),
        ({"timestamp": [[1, 2], [3]]}, "write pairs"),
        ({"timestamp": [[1, 2], [3, 4]], "caption": ["a", "b", "c"]}, "3 captions for 2 spans"),
        ({"caption": 3}, "3 is no caption"),
        ({"path": ""}, "names no video"),
        ({"path": "a\0.mp4"}, "cannot be a path"),
        ([], "is no object"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    touch(tmp_path / "a.mp4")
    file = lines(tmp_path / "list.jsonl", {"path": "a.mp4"}, {"path": "a.mp4"} | row if isinstance(row, dict) else row)
    with pytest.raises(UserError, match=f"list.jsonl, line 2: .*{reason}"):
        found(file)


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")])
def test_csv_as_excel_saves_it(tmp_path: Path, delimiter: str, encoding: str) -> None:
    touch(tmp_path / "a.mp4")
    file = table(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "One, two; three.\nFour."}], delimiter, encoding)
    assert texts(file) == {"a.mp4": ["One, two; three.\nFour."]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"name,caption\na.mp4,x\n", "has the columns name, caption; name that of the videos path"),
        (b"path,caption\na.mp4,x,y\n", "line 2: more values than the header has columns"),
        (b"path,caption\na.mp4,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_csv_that_cannot_be_understood(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(UserError, match=reason):
        found(tmp_path / "list.csv")


def test_a_list_finds_files_that_it_calls_a_little_otherwise_and_says_what_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path / "In" / "café.mp4", tmp_path / "In" / "B.mp4", tmp_path / "c.mp4", tmp_path / "C.MP4")
    rows = ["in\\cafe\u0301.mp4", "IN/b.MP4", f"{tmp_path}/In/B.mp4", "c.mp4", "gone.mp4", "C.Mp4"]
    file = lines(tmp_path / "list.jsonl", *({"path": path, "text": path} for path in rows))
    said = texts(file)
    assert said["café.mp4"] == [rows[0]]
    assert said["B.mp4"] == [rows[1], rows[2]]
    assert said["c.mp4"] == ["c.mp4"]
    (note,) = found(file).notes.lines()
    missing = 2 if len(os.listdir(tmp_path)) == 4 else 1  # of c.mp4 and C.MP4, C.Mp4 is neither
    assert note.startswith(f"videos of lists that are not there: {missing};")
    assert f"{tmp_path}/gone.mp4" in note


def test_several_lists_and_a_folder_speak_of_one_video(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    one = lines(tmp_path / "one.jsonl", {"path": "a.mp4", "text": "One."})
    two = lines(tmp_path / "two.jsonl", {"path": "./a.mp4", "text": "Two."})
    lines(tmp_path / "captions.jsonl", {"path": "a.mp4", "text": "Not heard."}, {"path": "b.mp4", "text": "B."})
    for sources in ((one, two, tmp_path), (tmp_path, one, two)):
        assert texts(*sources) == {"a.mp4": ["One.", "Two."], "b.mp4": ["B."]}


def test_a_list_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,caption\n")
    with pytest.raises(UserError, match="no video in"):
        found(tmp_path / "list.csv")
