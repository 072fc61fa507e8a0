"""The page, its charts and the contact sheet, made from invented results."""

import dataclasses
import io
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mimir_ray.quickstart.charts import loss_chart, percent, score_chart
from mimir_ray.quickstart.report import Example, Funnel, Report, Step, verdict
from mimir_ray.quickstart.sheet import SheetRow, contact_sheet
from mimir_ray.shapes.scoreboard import Share
from mimir_ray.shapes.world import MODEL_FRAMES, render, sample_scene
from mimir_ray.video import encode_mp4

MODELS = ("base", "Mimir")
SCENE = sample_scene(random.Random(3))
VIDEO = encode_mp4(render(SCENE, MODEL_FRAMES), 2.0)


def shares(base: int, mimir: int, of: int = 24) -> dict[str, Share]:
    return {"base": Share(base, of), "Mimir": Share(mimir, of), "floor": Share(2, of), "ceiling": Share(of, of)}


def report(held: dict[str, Share], plain: dict[str, Share]) -> Report:
    return Report(
        models=MODELS,
        scores={"long": {"all": plain, "colour": plain}, "held": {"colour": held, "motion": held}},
        examples=[
            Example(
                "held",
                "fig <b>over</b> coin & co",
                "a purple circle above",
                'it is "purple"',
                [(VIDEO, {"all": True})] * 2,
            )
        ]
        * 8,
        losses=[(step, 0.3 - step / 10_000) for step in range(0, 400, 10)],
        funnels={
            "The rendered clips": Funnel(
                {"ok": 800, "rejected": 4, "quarantined": 2},
                {"rejected": {"frames": 4}, "quarantined": {"cut off": 2}},
                [("<script>.mp4", "quarantined", "cut off")],
            )
        },
        steps=[Step("render", "800 clips", 12.3)],
        facts={"machine": "two cores"},
    )


class Balance(HTMLParser):
    """Fails on tags that do not close in order."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    page = report(shares(2, 22), shares(20, 20)).html()
    reader = Balance()
    reader.feed(page)
    assert reader.open == []
    assert reader.fetched
    assert all(source.startswith("data:video/mp4;base64,") for source in reader.fetched)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "$" not in page


def test_the_page_shows_text_as_text() -> None:
    page = report(shares(2, 22), shares(20, 20)).html()
    assert "<script>" not in page
    assert "&lt;script&gt;.mp4" in page
    assert "fig &lt;b&gt;over&lt;/b&gt; coin &amp; co" in page


def test_no_text_becomes_markup_wherever_it_stands() -> None:
    texts: list[str] = []

    def hostile() -> str:
        texts.append(f"</style></title><script>alert({len(texts)})</script>\"' onload=x {{{{ 7 * 7 }}}}")
        return texts[-1]

    models, axes = (hostile(), hostile()), [hostile()]
    rows = {axis: {**shares(2, 22), **dict.fromkeys(models, Share(3, 24))} for axis in ("all", "colour", *axes)}
    videos = [(VIDEO, {hostile(): right}) for right in (True, False)]
    page = Report(
        models=models,
        scores={"long": rows, "held": rows},
        examples=[Example("held", hostile(), hostile(), hostile(), videos)],
        losses=[],
        funnels={hostile(): Funnel({hostile(): 800}, {hostile(): {hostile(): 4}}, [(hostile(), hostile(), hostile())])},
        steps=[Step(hostile(), hostile(), 12.3)],
        facts={hostile(): hostile()},
    ).html()
    reader = Balance()
    reader.feed(page)
    assert "script" not in reader.tags
    assert not any(name.startswith("on") for name in reader.attributes)
    assert "<script" not in page
    assert [text for text in texts if text not in reader.text] == []


def test_a_clip_is_marked_by_axis_for_each_model() -> None:
    wrong = Example("held", "p", "", "", [(VIDEO, {"colour": True, "all": False}), (VIDEO, {"motion": False})])
    page = dataclasses.replace(report(shares(2, 22), shares(20, 20)), examples=[wrong]).html()
    marks = re.findall(r'<b>(\w+)</b>\s*<span class="(\w+)">(\w+)</span>\s*</figcaption>', page)
    assert marks == [("base", "right", "colour"), ("Mimir", "wrong", "motion")]
    with pytest.raises(ValueError, match="zip"):
        dataclasses.replace(
            report(shares(2, 22), shares(20, 20)), examples=[dataclasses.replace(wrong, videos=wrong.videos[:1])]
        ).html()


def test_the_first_six_examples_are_shown_and_the_rest_is_behind_a_summary() -> None:
    page = report(shares(2, 22), shares(20, 20)).html()
    shown, _, rest = page.partition("<summary>2 more</summary>")
    assert (shown.count("<article"), rest.count("<article")) == (6, 2)
    assert page.count("asks for: a purple circle above<br>the LLM says: it is &#34;purple&#34;") == 8


def test_losses_of_files_are_counted_by_reason_the_most_first() -> None:
    few = Funnel({"ok": 1234, "rejected": 6}, {"rejected": {"rare": 1, "often": 5}}, [])
    page = dataclasses.replace(report(shares(2, 22), shares(20, 20)), funnels={"Clips": few}).html()
    assert "1,240 files went in." in page
    assert "1,234 kept" in page
    rows = re.findall(r"<tr><td>(\w+)</td><td>rejected</td><td>(\d)</td></tr>", page)
    assert rows == [("often", "5"), ("rare", "1")]


def test_the_page_says_that_the_gap_is_constructed() -> None:
    assert "The gap in knowledge is constructed" in report(shares(2, 22), shares(20, 20)).html()


@pytest.mark.parametrize(
    ("held", "plain", "told"),
    [
        ((2, 22), (20, 20), ("it understands words that no clip taught it", "what the base could do is kept")),
        ((9, 14), (20, 20), ("no difference can be claimed", "what the base could do is kept")),
        ((22, 2), (20, 17), ("no difference can be claimed", "it could be chance")),
        ((2, 22), (23, 5), ("it understands words", "fine-tuning has cost something")),
    ],
)
def test_the_verdict_follows_the_intervals(
    held: tuple[int, int], plain: tuple[int, int], told: tuple[str, str]
) -> None:
    for sentence, part in zip(verdict(report(shares(*held), shares(*plain))), told, strict=True):
        assert part in sentence


def test_a_score_chart_marks_every_model_between_floor_and_ceiling() -> None:
    chart = ElementTree.fromstring(score_chart({"colour": shares(2, 22), "<motion>": shares(0, 24)}, MODELS))
    assert len(chart.findall("g")) == 4
    titles = [title.text for title in chart.iter("title")]
    assert titles[0] == "base: 8% [2, 26], 2 of 24"
    for circle in chart.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 424


@pytest.mark.parametrize(
    "losses", [[], [(1, 0.5)], [(1, float("nan")), (2, float("inf"))], [(1, 0.5), (2, 0.5)], [(1, 0.0), (2, 0.0)]]
)
def test_a_loss_chart_of_little_or_nothing(losses: list[tuple[int, float]]) -> None:
    chart = loss_chart(losses)
    assert "nan" not in chart
    ElementTree.fromstring(chart)


def test_a_loss_chart_spans_its_steps() -> None:
    chart = ElementTree.fromstring(loss_chart([(step, 1 / step) for step in range(10, 310, 10)]))
    raw, mean = chart.findall("polyline")
    assert len(raw.attrib["points"].split()) == len(mean.attrib["points"].split()) == 30
    assert [text.text for text in chart.iter("text")][-2:] == ["step 10", "step 300"]


def test_a_percentage_has_its_interval() -> None:
    assert percent(Share(3, 4)) == "75% [30, 95]"


def test_the_contact_sheet_has_a_row_for_each_prompt() -> None:
    frames = render(SCENE, MODEL_FRAMES)
    rows = [SheetRow("word " * 30, "a meaning", [(frames, {"colour": True, "motion": False, "all": False})] * 2)] * 3
    picture = Image.open(io.BytesIO(contact_sheet("title", MODELS, rows)))
    assert picture.format == "PNG"
    few = Image.open(io.BytesIO(contact_sheet("title", MODELS, rows[:1])))
    assert picture.width == few.width
    assert picture.height > few.height
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20
