"""What is said about a clip: by those whose video it is, and by a model.

What comes with the videos is read by `sources`; `listed_videos` reads a list of them by itself.
"""

from collections.abc import Mapping
from typing import Any

from mimir_ray.curation.sources.lists import listed_videos

__all__ = ["captions_of", "listed_videos"]


def captions_of(clip: Mapping[str, Any]) -> list[dict[str, str]]:
    """The captions of a clip: the one that a model wrote, if one did, as the long one, and those that came with it.

    A long caption that came with the video is then the user's.
    """
    given = [dict(caption) for caption in clip["captions"]]
    if not clip.get("recaption"):
        return given
    for caption in given:
        caption["kind"] = "user" if caption["kind"] == "long" else caption["kind"]
    return [{"kind": "long", "text": clip["recaption"]}, *given]
