"""A file to curate, and what is said about it before anybody has looked at it."""

import json
import logging
import os
import re
from dataclasses import dataclass

from mimir_ray.config import UserError
from mimir_ray.curation.sources.row import Caption, GivenSpan, captions_in
from mimir_ray.jsonl import decode
from mimir_ray.storage import parent, read_bytes

logger = logging.getLogger(__name__)

NOT_TEXT = re.compile("[\ufffd\ud800-\udfff]")
"""Characters that stand for bytes that could not be decoded."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to curate. The driver holds one for each file of the corpus, so it is small."""

    path: str
    size_bytes: int
    modified_ns: int
    captions: tuple[Caption, ...] = ()
    """From a list or a captions file; none where nothing names it."""
    spans: tuple[GivenSpan, ...] = ()
    """Where given, the clips to cut out of it, first to last: its shots are not looked for."""
    text: str = ""
    """Location of a `.txt` or `.json` beside it, which is read where `captions` are none."""
    text_modified_ns: int = 0
    problem: str = ""
    """Why it cannot even be tried, or empty."""


def captions_of_source(file: SourceFile) -> tuple[Caption, ...]:
    """The captions of a file; of a span that has captions of its own, these are not asked for.

    From a list, else from the text beside it, else the words of its name: there is always one that can be read. A text
    that is not UTF-8 comes as far as it can be read, and is rejected with its clips' other captions as not text.
    Raises OSError where the text beside it cannot be read: it was there when the file was found.
    """
    captions = file.captions or (_beside(file.text) if file.text else ())
    if any(not NOT_TEXT.search(caption.text) for caption in captions):
        return captions
    return (*captions, Caption("filename", words(parent(file.path)[1])))


def words(name: str) -> str:
    """A file's name as words: `arm_wrestling-2.mp4` says "arm wrestling 2"."""
    stem = os.path.splitext(name)[0]
    return " ".join(re.sub(r"[\W_]+", " ", stem).split()) or "video"


def _beside(location: str) -> tuple[Caption, ...]:
    data = read_bytes(location)
    try:
        text = decode(data, location)
    except UserError as error:
        logger.warning("%s", error)
        text = data.decode(errors="replace")
    if not parent(location)[1].lower().endswith(".json"):
        text = " ".join(text.split())
        return (Caption("user", text),) if text else ()
    try:
        row = json.loads(text)
        return captions_in(row, location) if isinstance(row, dict) else ()
    except (ValueError, RecursionError, UserError) as error:
        logger.warning("%s gives no caption: %s", location, error)
        return ()
