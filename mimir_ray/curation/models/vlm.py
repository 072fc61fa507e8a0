"""A vision-language model that looks at frames: answers with yes or no, and writes descriptions.

Frames go in as images, of which every such model takes several: video processors need torchvision, images do not.
The model's own image processor sets how large it sees them. Shapes: `B` clips, `N` tokens, `V` vocabulary.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from mimir_ray.config import UserError
from mimir_ray.curation.models.config import Checkpoint, RecaptionConfig, WatermarkConfig
from mimir_ray.curation.models.loading import Frames, images, load, numbers
from mimir_ray.model.questions import stop_ids
from mimir_ray.model.text_branches import choose_tokens, uniforms


class Answer(NamedTuple):
    """What the model says to a yes/no question."""

    yes: bool
    margin: float
    """log p(yes) - log p(no): above 0 where yes is likelier."""
    certainty: float
    """p(yes) + p(no): far below 1, the model would rather say something else, and the margin means little."""


class Text(NamedTuple):
    """What the model wrote, as one paragraph, and how many tokens that took, the end token included."""

    text: str
    tokens: int


class Vlm:
    """Any model of transformers' image-text-to-text classes that has a chat template.

    What a clip gets does not depend on the clips beside it, up to rounding. Raises UserError for what cannot be loaded.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = load(AutoModelForImageTextToText, checkpoint)
        self.processor = load_processor(checkpoint)
        self.tokenizer = self.processor.tokenizer
        self.stop_ids = stop_ids(self.tokenizer, self.model.generation_config)
        # Checkpoints carry defaults such as a temperature or a repetition penalty: here only what is asked for counts.
        pad = self.tokenizer.pad_token_id
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.stop_ids, pad_token_id=self.stop_ids[0] if pad is None else pad
        )

    @torch.inference_mode()
    def first_token(self, clips: Sequence[Frames], prompts: Sequence[str]) -> Tensor:
        """Log-probabilities of the first token of each answer, B V float32."""
        output = self.model.generate(
            **self._inputs(clips, prompts),
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.log_softmax(numbers(output.logits[0], self.checkpoint).float(), dim=-1)

    @torch.inference_mode()
    def write(
        self,
        clips: Sequence[Frames],
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[Text]:
        """One text per clip; the same clip, prompt and seed give the same text. Temperature 0 is greedy."""
        inputs = self._inputs(clips, prompts)
        length = inputs["input_ids"].shape[1]
        draws = torch.stack(
            [uniforms(seed, prompt, max_new_tokens) for seed, prompt in zip(seeds, prompts, strict=True)]
        ).to(self.model.device)

        def leave_the_drawn(ids_BN: Tensor, logits_BV: Tensor) -> Tensor:
            logits_BV = numbers(logits_BV, self.checkpoint).float()
            drawn_B = choose_tokens(logits_BV, draws[:, ids_BN.shape[1] - length], temperature, top_p)
            return torch.full_like(logits_BV, -math.inf).scatter(1, drawn_B[:, None], 0)

        # generate() draws a whole batch from one generator. Here each row has its own numbers: they leave one token.
        chosen = self.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=[leave_the_drawn]
        )[:, length:]
        return [self._text(row) for row in chosen.tolist()]

    def _inputs(self, clips: Sequence[Frames], prompts: Sequence[str]) -> Any:
        pictures = [images(frames) for frames in clips]
        texts = [
            rendered(self.processor, len(frames), prompt) for frames, prompt in zip(pictures, prompts, strict=True)
        ]
        batch = self.processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
        return batch.to(self.model.device, self.model.dtype)

    def _text(self, ids: list[int]) -> Text:
        """``ids`` up to the first end token; what follows is padding."""
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Text(one_paragraph(text), len(ids) if end is None else end + 1)


class Watermark:
    """Asks whether there is a watermark."""

    def __init__(self, config: WatermarkConfig, vlm: Vlm | None = None) -> None:
        """``vlm`` is a model that is loaded already, to be shared; without it ``config.vlm`` is loaded."""
        self.config = config
        self.vlm = vlm or Vlm(config.vlm)
        self.yes_ids = word_ids(self.vlm.tokenizer, "yes")
        self.no_ids = word_ids(self.vlm.tokenizer, "no")

    def __call__(self, clips: Sequence[Frames]) -> list[Answer]:
        """One answer per clip, from the probabilities of the first token.

        Yes is every single token that spells yes (Yes, yes, YES, with a space before it or not), their probabilities
        added; no likewise. Words that begin with such a token and go on are counted with them, as in any such reading.
        """
        log_p_BV = self.vlm.first_token(clips, [self.config.question] * len(clips))
        yes_B = log_p_BV[:, self.yes_ids].logsumexp(-1)
        no_B = log_p_BV[:, self.no_ids].logsumexp(-1)
        return [answer(yes, no) for yes, no in zip(yes_B.tolist(), no_B.tolist(), strict=True)]


class Recaption:
    """Describes clips."""

    def __init__(self, config: RecaptionConfig, vlm: Vlm | None = None) -> None:
        """``vlm`` is a model that is loaded already, to be shared; without it ``config.vlm`` is loaded."""
        self.config = config
        self.vlm = vlm or Vlm(config.vlm)

    def __call__(self, clips: Sequence[Frames], seeds: Sequence[int]) -> list[Text]:
        """One description per clip. A seed belongs to its clip: derive it from the clip's id."""
        config = self.config
        return self.vlm.write(
            clips,
            [asked(config, len(frames)) for frames in clips],
            seeds,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        )


def answer(log_p_yes: float, log_p_no: float) -> Answer:
    """What log-probabilities of the two words say."""
    certainty = min(1.0, math.exp(log_p_yes) + math.exp(log_p_no))
    return Answer(log_p_yes > log_p_no, log_p_yes - log_p_no, certainty)


def asked(config: RecaptionConfig, frames: int) -> str:
    """The prompt about so many frames."""
    return config.prompt.replace("{frames}", str(frames))


def one_paragraph(text: str) -> str:
    """``text`` with every run of spaces and line ends as one space."""
    return " ".join(text.split())


def rendered(processor: Any, images: int, prompt: str) -> str:
    """So many images and then the prompt as the user's turn, in the model's chat format, up to the answer."""
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    return text


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Ids of the single tokens that spell ``word``. Raises UserError where the vocabulary has none."""
    spellings = [space + case(word) for case in (str.lower, str.capitalize, str.upper) for space in ("", " ")]
    encoded = [tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings]
    found = sorted({ids[0] for ids in encoded if len(ids) == 1})
    if not found:
        raise UserError(
            f"the tokenizer has no single token for any of {spellings}: the odds of {word!r} cannot be read from the "
            "first token; name another vision-language model"
        )
    return found


@functools.cache  # a process asks about many shards
def load_processor(checkpoint: Checkpoint) -> Any:
    """The model's processor. Its part for videos needs torchvision, and is left out where that is not installed.

    Raises UserError where a part for images needs it too, and for a model without a chat template.
    """
    loader: Any = AutoProcessor
    try:
        if not is_torchvision_available():
            config = AutoConfig.from_pretrained(checkpoint.name, revision=checkpoint.revision)
            loader = _without_video(PROCESSOR_MAPPING.get(type(config), AutoProcessor))
        processor = loader.from_pretrained(checkpoint.name, revision=checkpoint.revision)
    except ImportError as error:
        raise UserError(f"{checkpoint.name}: {' '.join(str(error).split())}") from error
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise UserError(f"{checkpoint.name} has no chat template; name a model that is tuned to follow instructions")
    return processor


def _without_video(cls: Any) -> Any:
    """A processor class that loads and holds every part but the last, where that is the one for videos."""
    parts = cls.get_attributes() if cls is not AutoProcessor else []
    if parts[-1:] != ["video_processor"]:
        return cls
    return type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: parts[:-1])})
