"""Yes/no margins, descriptions and batches of a real, small Qwen2-VL, against plain forward passes."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from mimir_ray.config import UserError
from mimir_ray.curation.models.config import Checkpoint, RecaptionConfig, WatermarkConfig
from mimir_ray.curation.models.loading import Frames, images
from mimir_ray.curation.models.vlm import Recaption, Vlm, Watermark, word_ids
from mimir_ray.model.text_branches import choose_tokens, uniforms
from tests.curation.models.tiny import tiny_vlm
from tests.tiny import tiny_llm

RANDOM = np.random.default_rng(2)
CLIPS: list[Frames] = [
    RANDOM.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    for frames, height, width in ((2, 32, 48), (3, 40, 40), (1, 64, 32))
]
SEEDS = [11, 12, 13]
QUESTION = WatermarkConfig().question


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "vlm")


@pytest.fixture(scope="module")
def vlm(path: Path) -> Vlm:
    return Vlm(Checkpoint(name=str(path), device="cpu"))


def recaption(vlm: Vlm, **given: Any) -> Recaption:
    return Recaption(RecaptionConfig(**{"max_new_tokens": 12, **given}), vlm)


def direct_logits(vlm: Vlm, frames: Frames, prompt: str, answer: Sequence[int] = ()) -> torch.Tensor:
    """Logits after a hand-written prompt and ``answer``, from one forward pass without batch, cache or generate()."""
    pictures = "<|vision_start|><|image_pad|><|vision_end|>" * len(frames)
    text = f"<|im_start|>user\n{pictures}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    inputs = vlm.processor(text=[text], images=images(frames), return_tensors="pt")
    extra = torch.tensor([answer], dtype=torch.long)
    fill = {"input_ids": extra, "attention_mask": torch.ones_like(extra), "mm_token_type_ids": torch.zeros_like(extra)}
    inputs.update({name: torch.cat([inputs[name], more], dim=1) for name, more in fill.items()})
    with torch.no_grad():
        logits: torch.Tensor = vlm.model(**inputs).logits[0, -1].float()
    return logits


def test_the_checkpoint_loads_as_its_own_class(vlm: Vlm) -> None:
    assert isinstance(vlm.model, Qwen2VLForConditionalGeneration)
    assert type(vlm.processor).__name__ == "Qwen2VLProcessor"


def test_the_margin_is_that_of_the_first_token(vlm: Vlm) -> None:
    answers = Watermark(WatermarkConfig(), vlm)(CLIPS)
    for frames, answer in zip(CLIPS, answers, strict=True):
        p = direct_logits(vlm, frames, QUESTION).softmax(-1)
        yes = sum(float(p[vlm.tokenizer.convert_tokens_to_ids(word)]) for word in ("Yes", "yes", " Yes"))
        no = sum(float(p[vlm.tokenizer.convert_tokens_to_ids(word)]) for word in ("No", "no"))
        assert answer.margin == pytest.approx(math.log(yes) - math.log(no), abs=1e-4)
        assert answer.certainty == pytest.approx(yes + no, abs=1e-5)
        assert answer.yes == (yes > no)
    assert len({round(answer.margin, 3) for answer in answers}) == len(CLIPS)  # it does look at the frames


def test_the_answer_follows_the_words_not_their_order(vlm: Vlm) -> None:
    watermark = Watermark(WatermarkConfig(), vlm)
    plain = watermark(CLIPS)
    watermark.yes_ids, watermark.no_ids = watermark.no_ids, watermark.yes_ids
    for answer, turned in zip(plain, watermark(CLIPS), strict=True):
        assert turned.margin == pytest.approx(-answer.margin, abs=1e-5)
        assert turned.yes is not answer.yes


def test_the_batch_does_not_change_an_answer(vlm: Vlm) -> None:
    watermark = Watermark(WatermarkConfig(), vlm)
    together = watermark(CLIPS)
    for frames, answer in zip(CLIPS, together, strict=True):
        assert watermark([frames])[0] == pytest.approx(answer, abs=1e-4)


def test_words_are_single_tokens(vlm: Vlm) -> None:
    assert vlm.tokenizer.convert_ids_to_tokens(word_ids(vlm.tokenizer, "yes")) == ["Yes", "yes", " Yes"]
    with pytest.raises(UserError, match=r"no single token for any of .*'Perhaps'.* name another"):
        word_ids(vlm.tokenizer, "perhaps")


def test_greedy_takes_the_likeliest_token_each_time(vlm: Vlm) -> None:
    """And so without the sampling and the repetition penalty that the checkpoint asks for."""
    config = RecaptionConfig(max_new_tokens=4)
    for frames, text in zip(CLIPS, Recaption(config, vlm)(CLIPS, SEEDS), strict=True):
        prompt, ids = config.prompt.replace("{frames}", str(len(frames))), list[int]()
        inputs = {"clips": [frames], "prompts": [prompt], "seeds": [0]}
        for length in range(1, 5):
            if ids and ids[-1] in vlm.stop_ids:
                break
            ids.append(int(direct_logits(vlm, frames, prompt, ids).argmax()))
            assert vlm.write(**inputs, max_new_tokens=length)[0].tokens == len(ids)
        assert text.tokens == len(ids)
        assert text.text == " ".join(vlm.tokenizer.decode(ids, skip_special_tokens=True).split())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_does_not_change_a_text(vlm: Vlm, temperature: float) -> None:
    describe = recaption(vlm, temperature=temperature)
    together = describe(CLIPS, SEEDS)
    assert len({text.text for text in together}) == len(CLIPS)
    alone = [describe([frames], [seed])[0] for frames, seed in zip(CLIPS, SEEDS, strict=True)]
    turned = describe(CLIPS[::-1], SEEDS[::-1])[::-1]
    assert together == alone == turned


def test_a_seed_fixes_a_text_and_another_gives_another(vlm: Vlm) -> None:
    describe = recaption(vlm, temperature=1.0)
    assert describe(CLIPS, SEEDS) == describe(CLIPS, SEEDS)
    assert describe(CLIPS[:1], [11]) != describe(CLIPS[:1], [14])
    twice = describe([CLIPS[0], CLIPS[0]], [11, 14])
    assert twice[0] != twice[1]
    greedy = recaption(vlm)
    assert greedy(CLIPS[:1], [11]) == greedy(CLIPS[:1], [14])


def test_tokens_are_drawn_from_the_model_with_the_clips_own_numbers(vlm: Vlm) -> None:
    prompt, frames = "What is it?", CLIPS[0]
    logits, first = direct_logits(vlm, frames, prompt)[None], set()
    for seed in range(5):
        text = vlm.write([frames], [prompt], [seed], max_new_tokens=1, temperature=1.5, top_p=0.95)[0]
        token = choose_tokens(logits, uniforms(seed, prompt, 1), 1.5, 0.95)
        assert text.text == " ".join(vlm.tokenizer.decode(token, skip_special_tokens=True).split())
        first.add(int(token))
    assert len(first) > 1


def test_the_end_token_is_counted_and_what_follows_it_is_not(vlm: Vlm, path: Path, tmp_path: Path) -> None:
    prompt = "What is it?"
    free = vlm.model.generate(**vlm._inputs(CLIPS[:1], [prompt]), do_sample=False, max_new_tokens=6, eos_token_id=None)[
        0, -6:
    ].tolist()
    early = shutil.copytree(path, tmp_path / "early")
    settings = json.loads((early / "generation_config.json").read_text())
    (early / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [free[2]]}))
    ending = Vlm(Checkpoint(name=str(early), device="cpu"))
    texts = ending.write(CLIPS, [prompt] * 3, SEEDS, max_new_tokens=6)
    assert texts[0].tokens == free.index(free[2]) + 1
    assert max(text.tokens for text in texts) <= 6
    assert texts == [ending.write([c], [prompt], [0], max_new_tokens=6)[0] for c in CLIPS]


def test_the_prompt_tells_the_number_of_frames(vlm: Vlm) -> None:
    told = recaption(vlm, prompt="These are {frames} frames.")(CLIPS[:1], [0])
    assert told == recaption(vlm, prompt="These are 2 frames.")(CLIPS[:1], [0])
    assert told != recaption(vlm, prompt="These are 3 frames.")(CLIPS[:1], [0])


def test_a_scorer_loads_its_model_itself(vlm: Vlm, path: Path) -> None:
    checkpoint = Checkpoint(name=str(path), device="cpu")
    assert Watermark(WatermarkConfig(vlm=checkpoint))(CLIPS[:1]) == Watermark(WatermarkConfig(), vlm)(CLIPS[:1])
    own = Recaption(RecaptionConfig(vlm=checkpoint, max_new_tokens=12))
    assert own(CLIPS[:1], [0]) == recaption(vlm)(CLIPS[:1], [0])


def test_half_precision_loads(path: Path) -> None:
    half = Vlm(Checkpoint(name=str(path), dtype="bfloat16", device="cpu"))
    assert half.model.dtype == torch.bfloat16
    assert Watermark(WatermarkConfig(), half)(CLIPS)[0].certainty > 0


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    bare = tiny_vlm(tmp_path / "bare", chat_template=False)
    with pytest.raises(UserError, match="has no chat template; name a model that is tuned to follow instructions"):
        Vlm(Checkpoint(name=str(bare), device="cpu"))


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load .*nowhere.*directory or hub id"):
        Vlm(Checkpoint(name=str(tmp_path / "nowhere")))


def test_numbers_that_do_not_fit_are_no_answer(path: Path) -> None:
    overflowing = Vlm(Checkpoint(name=str(path), dtype="float16", device="cpu"))
    with torch.no_grad():
        overflowing.model.lm_head.weight.fill_(torch.nan)
    message = "computes numbers that do not fit float16; set dtype to bfloat16 or float32"
    with pytest.raises(UserError, match=message):
        Watermark(WatermarkConfig(), overflowing)(CLIPS[:1])
    with pytest.raises(UserError, match=message):
        recaption(overflowing)(CLIPS[:1], [0])


def test_a_model_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load .*; name a model's directory or hub id"):
        Vlm(Checkpoint(name=str(tiny_llm(tmp_path / "llm")), device="cpu"))
