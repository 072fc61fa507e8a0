"""The report of a curation of real mp4 files: its figures, its pictures, and that text stays text."""

import dataclasses
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mimir_ray.config import UserError, override
from mimir_ray.curation import CurationConfig, write_report
from mimir_ray.curation import split as splitting
from mimir_ray.curation.report.findings import Axis, Draw, Findings, Histogram, Losses, LossKind, gather
from mimir_ray.curation.report.page import page
from mimir_ray.curation.rules import Rules
from mimir_ray.curation.tables import outcome_table, stage_table
from mimir_ray.curation.watch import Watched
from mimir_ray.dataflow import Row
from mimir_ray.records import VERSIONS
from mimir_ray.storage import Table, content_id, join, read_bytes, read_json, upload, write_json
from mimir_ray.video import VideoError
from tests.curation.local import curate_whole
from tests.curation.rendering import moving, save, shots
from tests.video.rendering import encode

CONFIG = override(CurationConfig(), ["split=off", "files_per_shard=4"])
NASTY = "<script>alert(1)</script>.mp4"
QUOTED = "\" onerror='alert(2)' & .mp4"
BROKEN = "<img src=x onerror=alert(3)>.mp4"
CAPTION = "A <b>square</b> & $friends"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curation in several shards: 12 files, 10 of which are read once, 5 kept, 4 rejected and 1 quarantined clips."""
    folder, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("out")
    (folder / NASTY).parent.mkdir()
    for index, name in enumerate(["a.mp4", "b.mp4", "gone.mp4", NASTY, QUOTED]):
        save(folder / name, moving(background=180 + 10 * index))
    (folder / "a.txt").write_text(CAPTION)
    save(folder / "short.mp4", moving(40))
    save(folder / "wide.mp4", moving(width=160))
    save(folder / "still.mp4", np.repeat(moving(1), 65, axis=0))
    save(folder / "dark.mp4", moving(background=45, square=90))
    save(folder / "lost.mp4", moving(66))
    (folder / "same.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / BROKEN).write_text("no video")
    score = splitting._score

    def failing(clip: Row, watched: Watched) -> Row:
        if not clip["path"].endswith("lost.mp4"):
            return score(clip, watched)
        why = VideoError("frame 7 of 66 cannot be decoded")
        return {"clip_id": clip["clip_id"]} | splitting.failure("measure", why, clip["path"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "_score", failing)
        curate_whole([str(folder)], str(out), CONFIG)
    (folder / "gone.mp4").unlink()
    return out


@pytest.fixture(scope="module")
def html(out: Path) -> str:
    assert write_report(str(out)) == str(out / "report.html")
    return (out / "report.html").read_text()


class Reader(HTMLParser):
    """The page's text, tags and what it loads; fails on tags that do not close in order."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.parts.append(data)


def table_rows(out: Path, name: str) -> list[Row]:
    return [row for rows in outcome_table(str(out), name).scan() for row in rows.to_pylist()]


def test_the_page_is_well_formed_and_fetches_nothing(html: str) -> None:
    loaded = [value or "" for _, attrs in Reader(html).tags for name, value in attrs.items() if name in ("src", "href")]
    assert len(loaded) == 3 * 8  # of 5 kept and 4 rejected clips, one is gone
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in loaded)
    assert "http" not in re.sub(r"base64,[^\"]*", "", html)
    assert "url(" not in html


def test_text_from_files_stays_text(html: str) -> None:
    reader = Reader(html)
    assert not {"script", "iframe"} & {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    for text in (NASTY, QUOTED, BROKEN, CAPTION):
        assert text in "".join(reader.parts), text
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.mp4" in html


def test_no_text_becomes_markup_wherever_it_stands(out: Path) -> None:
    texts: list[str] = []

    def hostile() -> str:
        texts.append(f"</style></title><script>alert({len(texts)})</script>\"' onload=x {{{{ 7 * 7 }}}}")
        return texts[-1]

    findings = gather(str(out))
    for clip in findings.kept.rows:
        clip |= {"path": hostile(), "reason": hostile()}
        findings.texts[clip["clip_id"]] = hostile()
    rejected = dataclasses.replace(findings.rejected[0], rule=hostile())
    lost = Losses(["quarantined"], {hostile(): LossKind("quarantined", 5, [(hostile(), hostile())])})
    findings = dataclasses.replace(
        findings,
        out=hostile(),
        rejected=[rejected],
        lost_files=lost,
        off=[hostile()],
        clips=findings.clips.model_copy(update={"config": {hostile(): hostile()}, "fingerprint": hostile()}),
    )
    html = page(findings)
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert "<script" not in html
    assert [text for text in texts if text not in "".join(reader.parts)] == []
    assert "and 4 more" in reader.text


def test_the_account_equals_the_tables(out: Path, html: str) -> None:
    text = Reader(html).text
    assert "12 files = 10 read + 1 rejected + 1 quarantined" in text
    assert "10 clips = 5 kept + 4 rejected + 1 quarantined" in text
    for name, ok in (("videos", "read"), ("clips", "kept"), ("captions", "kept")):
        statuses = [row["status"] for row in table_rows(out, name)]
        what = name.replace("videos", "files")
        counts = {status: statuses.count(status) for status in ("ok", "rejected", "quarantined")}
        said = f"{len(statuses)} {what} = {counts['ok']} {ok} + {counts['rejected']} rejected + "
        assert f"{said}{counts['quarantined']} quarantined" in text


def test_the_funnel_goes_rule_by_rule(out: Path, html: str) -> None:
    steps = list(gather(str(out)).funnel())
    assert [(step, count) for _, step, count in steps] == [
        *(("found", 12), ("read", 10), ("cut", 10), ("processed", 9)),
        *(("after frames", 8), ("after duration", 8), ("after aspect", 7)),
        ("after motion", 6),
        *(("after black area", 6), ("after brightness", 5), ("after black frame rate", 5), ("kept", 5)),
    ]
    assert "clips after motion 6 60.0%" in Reader(html).text
    assert html.count('class="track"') == len(steps)


def test_histograms_count_every_score_and_what_is_beyond(out: Path, html: str) -> None:
    clips = table_rows(out, "clips")
    charts = {chart.score: chart for chart in gather(str(out)).histograms}
    assert list(charts)[:4] == ["frames", "duration_s", "aspect", "motion"], "what is so or not has no histogram"
    for name, chart in charts.items():
        scores = [row["width_px"] / row["height_px"] if name == "aspect" else row[name] for row in clips]
        assert chart.measured == sum(score is not None for score in scores)
    assert charts["motion"].measured == 9, "a clip that could not be decoded has no motion"
    assert charts["frames"].beyond == [sum(row["frames"] < 65 for row in clips)] == [1]
    assert charts["aspect"].beyond == [0, 1]
    assert "must be at least 65: 1 (10.0%) are not" in Reader(html).text
    assert html.count('class="limit"') == sum(len(chart.limits) for chart in charts.values())


def test_losses_are_grouped_with_examples(html: str) -> None:
    text = Reader(html).text
    assert "quarantined measure: frame N of N cannot be decoded 1" in text
    assert "measure: frame 7 of 66 cannot be decoded" in text
    assert "quarantined probe: is not a video that FFmpeg understands 1" in text
    assert re.search(r"rejected duplicate 1 \S*same.mp4 has the same bytes as \S*a.mp4", text)


def test_a_clip_that_is_gone_has_a_placeholder(html: str) -> None:
    assert html.count('class="gone"') == 1
    figure = next(part for part in html.split("<figure>") if 'class="gone"' in part)
    assert "cannot be read any more: " in figure
    assert "gone.mp4</b>" in figure


def test_a_card_of_a_clip_that_was_cut_out_names_its_video_and_its_span(out: Path) -> None:
    findings = gather(str(out))
    clip = findings.kept.rows[0]
    clip |= {"path": "media/long & wide.mp4", "start_s": 12.5, "end_s": 14.0, "hdr": True}
    findings.texts[clip["clip_id"]] = "word " * 1000
    text = Reader(page(findings)).text
    assert "media/long & wide.mp4 12.50 to 14.00 s" in text
    assert "64x64, hdr, motion" in text
    assert "“" + "word " * 60 + "…”" in text


def test_throughput_comes_from_the_stages(out: Path, html: str) -> None:
    for work in gather(str(out)).work:
        rows = [row for part in stage_table(str(out), work.name).scan() for row in part.to_pylist()]
        assert work.clips == len(rows) == 10
        assert work.failures == sum(row["status"] == "quarantined" for row in rows)
        assert work.seconds == pytest.approx(sum(row["seconds"] or 0.0 for row in rows))
        took = (
            f"{work.seconds:,.1f} s {work.clips / work.seconds:,.2f}" if work.name == "split" else "in that of split –"
        )
        assert f"{work.name} 10 {work.failures} {took}" in Reader(html).text


def test_stages_that_were_off_are_named(out: Path) -> None:
    findings = gather(str(out))
    page_of = page(Findings(**(vars(findings) | {"off": ["aesthetic"]})))
    assert "aesthetic off" in Reader(page_of).text


def test_settings_and_fingerprint(out: Path, html: str) -> None:
    manifest = Table(join(str(out), "clips")).manifest()
    assert manifest is not None
    for said in (
        manifest.fingerprint,
        "basic.min_frames",
        "at least 65",
        "rules.quality.min_brightness 0.2",
        "hdr allowed",
    ):
        assert said in Reader(html).text


def test_the_same_tables_make_the_same_page(out: Path, html: str) -> None:
    assert page(gather(str(out))) == html


def test_an_unfinished_curation_is_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished curation: its table clips has 0 shards.*mimir curate"):
        write_report(str(tmp_path))
    (tmp_path / "clips").mkdir()
    for shard in (out / "clips").glob("*.parquet"):
        (tmp_path / "clips" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(UserError, match=r"its table clips has [1-9]\d* shards and no manifest that covers them"):
        write_report(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["videos", "clips", "captions"])
@pytest.mark.parametrize("away", [-1, 1])
def test_a_curation_of_another_version_is_refused_with_the_remedy(
    name: str, away: int, out: Path, tmp_path: Path
) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    manifest, version = read_json(tmp_path / name / "_manifest.json"), VERSIONS[name]
    write_json(tmp_path / name / "_manifest.json", manifest | {"schema_version": version + away})
    told = rf"version {version + away} of the table {name}, and this mimir reads version {version}: .*--overwrite"
    with pytest.raises(UserError, match=told):
        write_report(str(tmp_path))


def test_a_curation_in_an_object_store(tmp_path: Path) -> None:
    root = f"memory://{content_id(str(tmp_path))}"
    for index in range(2):
        upload(str(save(tmp_path / "x.mp4", moving(background=200 + index))), join(root, "in", f"{index}.mp4"))
    curate_whole([join(root, "in")], join(root, "out"), CONFIG)
    html = read_bytes(write_report(join(root, "out"))).decode()
    assert html.count("<img") == 6
    assert "2 clips = 2 kept" in Reader(html).text


def test_shots_and_facts_that_are_excluded_are_steps_between_files_and_clips(tmp_path: Path) -> None:
    save(tmp_path / "in" / "film.mp4", shots(70, 10, 80))
    encode(tmp_path / "in" / "turned.mp4", moving(height=96), rotation_deg=90)
    config = override(CurationConfig(), ["basic.allow_rotated=false"])
    curate_whole([str(tmp_path / "in")], str(tmp_path / "out"), config)
    text = Reader(Path(write_report(str(tmp_path / "out"))).read_text()).text
    assert "4 shots were found, of which 1 are shorter than split.min_clip_s and became no clip" in text
    assert "clips after rotated 2 66.7%" in text
    assert "clips after hdr" not in text, "what is allowed is no step"
    assert "rotated excluded basic.allow_rotated" in text


def test_a_curation_that_kept_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    curate_whole([str(tmp_path / "text.mp4")], str(tmp_path / "out"), CONFIG)
    write_report(str(tmp_path / "out"))
    text = Reader((tmp_path / "out" / "report.html").read_text()).text
    assert "1 files = 0 read + 0 rejected + 1 quarantined" in text
    assert "No clip has this score." in text
    assert "No clip was rejected." in text


def clips(*ids: str, rule: str = "") -> pa.Table:
    status = "rejected" if rule else "ok"
    return pa.table({"clip_id": ids, "status": [status] * len(ids), "rule": [rule] * len(ids)})


def test_a_sample_is_bounded_and_the_same_however_the_clips_are_sharded() -> None:
    ids = [content_id(str(number)) for number in range(100)]
    once, often = Draw("", 5), Draw("", 5)
    once.add(clips(*ids))
    for clip_id in reversed(ids):
        often.add(clips(clip_id))
        assert len(often.rows) <= 5
        often.add(clips(clip_id + "x", rule="motion"))
    assert once == often
    assert once.total == 100
    assert [row["clip_id"] for row in once.rows] == sorted(ids)[:5]


def test_losses_are_bounded_and_still_counted() -> None:
    losses = Losses(["quarantined"])
    reasons = [f"probe: {chr(97 + kind % 26) * (kind // 26 + 1)} 1{kind}" for kind in range(200)]
    for _ in range(5):
        losses.add(pa.table({"path": reasons, "status": ["quarantined"] * 200, "rule": [""] * 200, "reason": reasons}))
    assert len(losses.kinds) == 51
    assert sum(kind.count for kind in losses.kinds.values()) == 1000
    assert all(len(kind.examples) == 3 for kind in losses.kinds.values())


def test_the_outermost_bars_count_what_is_beyond_them() -> None:
    chart = Histogram.of("motion", Rules.of(CONFIG))
    chart.add(pa.table({"motion": [0.0, 1e-9, 1e-4, 0.01, 3.0, None, float("nan")]}))
    assert (chart.counts[0], chart.counts[-1], chart.measured) == (2, 1, 5)
    assert chart.beyond == [3], "0.0001 is the limit, and more is needed"


@pytest.mark.parametrize(
    ("score", "under", "at", "over"),
    [
        ("frames", 64, 65, 66),
        ("brightness", 0.19, 0.2, 0.21),
        ("black_area", 0.79, 0.8, 0.81),
        ("motion", 9e-5, 1e-4, 1.1e-4),
    ],
)
def test_bars_end_at_the_threshold(score: str, under: float, at: float, over: float) -> None:
    bars = []
    for value in (under, at, over):
        chart = Histogram.of(score, Rules.of(CONFIG))
        chart.add(pa.table({score: [value]}))
        bars.append((int(chart.counts.argmax()), chart.beyond))
    assert bars[0][0] + 1 == bars[2][0]
    assert bars[1] == next(bar for bar in bars[::2] if bar[1] == bars[1][1]), "what is judged alike is in one bar"


def test_an_axis_reaches_beyond_its_threshold() -> None:
    assert Axis(0, 1).including(0.8) == Axis(0, 1)
    assert Axis(0, 1).including(4.5) == Axis(0, 9)
    assert Axis(0, 1).including(-0.2) == Axis(-0.4, 1)
    assert Axis(1e-6, 1, log=True).including(0.0) == Axis(1e-6, 1, log=True)
    longer = Axis(1, 100, log=True).including(0.5)
    assert longer.low < 0.5 < 100 < longer.high
    axis = Axis(1e-6, 1, log=True)
    assert axis.place(1e-3) == pytest.approx(0.5)
    assert axis.at(0.5) == pytest.approx(1e-3)
    assert (axis.place(0), axis.place(7)) == (0, 1)


def test_quotes_cannot_end_an_attribute(html: str) -> None:
    assert QUOTED in unescape(html)
    assert QUOTED not in html
