"""Complete run configurations, one function each, named for what they train.

    recipe = by_name("mimir_5b")
    recipe = override(recipe, ["training.learning_rate=2e-5"])

Sources in the comments: "paper" is Mimir (arXiv 2412.03085), "CogVideoX" the configurations that its authors published
with the weights; "ours" marks what both leave open. Imports neither torch nor ray.
"""

from collections.abc import Callable, Iterator
from typing import Self

from pydantic import model_validator

from mimir_ray.config import Config, UserError, from_dict
from mimir_ray.curation.config import (
    AestheticConfig,
    AgreementConfig,
    CaptionRules,
    CurationConfig,
    Pools,
    RecaptionConfig,
    TextAreaConfig,
    WatermarkConfig,
)
from mimir_ray.dataflow import ActorPool
from mimir_ray.generation.config import GenerationConfig, RuntimeConfig, StageActors
from mimir_ray.model.config import FuserConfig, LanguageConfig, ModelConfig
from mimir_ray.precompute.config import PrecomputeConfig
from mimir_ray.serving.config import EndpointConfig, ServingConfig, StageDeployment
from mimir_ray.shapes.weights import base_dir, mimir_dir
from mimir_ray.training.config import ATTENTION, CaptionWeights, LoraConfig, TrainingConfig


class Recipe(Config):
    """The whole run: every stage of the road and the model it is for. Sections that disagree make none."""

    name: str
    """What outputs and messages call it."""
    model: ModelConfig
    curation: CurationConfig
    precompute: PrecomputeConfig
    training: TrainingConfig
    generation: GenerationConfig
    serving: EndpointConfig

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if found := "; ".join([*_sizes(self), *_rates(self), *_dtypes(self)]):
            raise ValueError(found)
        return self

    def endpoint(self, checkpoint: str) -> ServingConfig:
        """The endpoint that serves a checkpoint by this recipe.

        Raises:
            UserError: its own limits refuse what a bare prompt asks for.
        """
        own, usual = (section.model_dump(mode="json") for section in (self.serving, self.generation))
        return from_dict(ServingConfig, {**own, "checkpoint": checkpoint, "generation": usual})


def _sizes(recipe: Recipe) -> Iterator[str]:
    """Where the video that is generated has none of the sizes that the model is trained at."""
    fields = ("num_frames", "height", "width")
    wanted = {field: getattr(recipe.generation, field) for field in fields}
    if any(wanted == dict(size) for size in recipe.precompute.sizes):
        return
    for field in fields:
        here, there = wanted[field], getattr(recipe.precompute, field)
        if here != there:
            yield (
                f"generation.{field} is {here} and precompute.{field} is {there}, and a model makes the videos that it "
                f"is trained on: set precompute.{field}={here} or generation.{field}={there}, or give the size in "
                "precompute.buckets"
            )


def _rates(recipe: Recipe) -> Iterator[str]:
    """Where videos would be played at another rate than that at which the clips' frames are taken."""
    here, there = recipe.generation.fps, recipe.precompute.sample_fps
    if there not in (None, here):
        yield (
            f"generation.fps is {here} and precompute.sample_fps is {there}, so that things would move at another "
            f"speed than in the clips: set precompute.sample_fps={here} or generation.fps={there}"
        )


def _dtypes(recipe: Recipe) -> Iterator[str]:
    """Where the model is exported in another number format than it generates in, or a 16-bit format becomes the other
    one, which loses either range or digits."""
    made, used, stored = recipe.model.dtype, recipe.generation.runtime.dtype, recipe.precompute.dtype
    if made != used:
        yield (
            f"model.dtype is {made} and generation.runtime.dtype is {used}, so that validation and what is generated "
            f"would differ: set generation.runtime.dtype={made} or model.dtype={used}"
        )
    if {made, stored} == {"float16", "bfloat16"}:
        yield (
            f"model.dtype is {made} and precompute.dtype is {stored}, which does not hold all its numbers: set "
            f"precompute.dtype={made} or model.dtype={stored}"
        )


def shapes() -> Recipe:
    """The embedded world on any laptop: 9 frames of 64x64, no GPU, no network, weights inside the package."""
    return Recipe(
        name="shapes",
        model=ModelConfig(
            base=base_dir(),
            llm=f"{mimir_dir()}/llm",
            # The paper's fuser, with a scale that lets the LLM's tokens outweigh T5's within the steps a laptop has
            # time for; with 1 the nicknames of the clips are learnt from T5's tokens by heart, others much later.
            fuser=FuserConfig(scale_init=6.0),
            language=LanguageConfig(max_new_tokens=24),  # the longest answer of the shapes language has 12
        ),
        curation=CurationConfig(split="off"),  # its clips are single shots already
        precompute=PrecomputeConfig(num_frames=9, height=64, width=64),
        training=TrainingConfig(
            steps=2400,
            batch_size=16,
            workers=2,
            # Adapters, and a fuser no faster than they: all of the transformer at a laptop's pace, or LLM tokens that
            # outgrow T5's before they can be told apart, cost plain words (benchmarks/plain_words.json).
            train="lora",
            lora=LoraConfig(rank=32, alpha=32, targets=(*ATTENTION, "ff.net.0.proj", "ff.net.2")),
            learning_rate=1e-3,
            fuser_learning_rate=8e-4,
            warmup_steps=50,
            # Short captions teach the LLM branch; long ones keep what the base can do.
            caption_weights=CaptionWeights(long=2, short=3),
            ema_decay=0.995,  # two hundred steps: what batches of 16 shake loose evens out
            checkpoint_every=250,
        ),
        generation=GenerationConfig(
            num_frames=9,
            height=64,
            width=64,
            fps=2.0,  # a clip has 16 frames per second, of which the model sees every 8th
            num_inference_steps=12,
            guidance_scale=1.5,
            # Stages work side by side on few cores, where threads of several processes that wait for each other spin.
            runtime=RuntimeConfig(cpu_threads=1),
        ),
        serving=EndpointConfig(),
    )


def mimir_2b() -> Recipe:
    """Mimir on CogVideoX-2B: 24 GB cards encode, 40 GB cards and more train and generate."""
    return Recipe(
        name="mimir_2b",
        model=ModelConfig(
            base="zai-org/CogVideoX-2b",
            llm="microsoft/Phi-3.5-mini-instruct",  # paper, section 3.1
            dtype="bfloat16",  # as it is trained; CogVideoX: float16
        ),
        curation=_curation(),
        precompute=_precompute(),
        # Ours: one machine of 8 GPUs, 4 samples at once; docs/memory.md has what other numbers of GPUs need.
        training=_training(workers=8, accumulate=2),
        generation=_generation(),
        serving=_serving(),
    )


def mimir_5b() -> Recipe:
    """Mimir on CogVideoX-5B, the paper's own: 24 GB cards encode, 80 GB cards train and generate."""
    return Recipe(
        name="mimir_5b",
        model=ModelConfig(
            base="zai-org/CogVideoX-5b",  # paper, Table 3: its baseline is CogVideoX-5B's row of Table 1
            llm="microsoft/Phi-3.5-mini-instruct",  # paper, section 3.1
            dtype="bfloat16",  # CogVideoX
        ),
        curation=_curation(),
        precompute=_precompute(),
        # Ours: two machines of 8 GPUs of 40 GB and more, one sample at once (28 GiB; docs/memory.md).
        training=_training(workers=16, accumulate=4),
        generation=_generation(),
        serving=_serving(),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"shapes": shapes, "mimir_2b": mimir_2b, "mimir_5b": mimir_5b}


def by_name(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def _curation() -> CurationConfig:
    """Every stage of the paper's appendix A, at its limits."""
    vlm = ActorPool(actors=4, num_cpus=4, num_gpus=1, batch=8)  # Qwen2-VL-7B in bfloat16 takes 17 GB
    clip = ActorPool(actors=1, num_cpus=4, num_gpus=0.25, batch=1)  # ViT-L/14 takes 2 GB: decoding sets its pace
    return CurationConfig(
        # The paper's predictor, as it is published for fine-tuning with rewards: the same layers under the same names.
        aesthetic=AestheticConfig(head="trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth"),
        text_area=TextAreaConfig(),
        watermark=WatermarkConfig(),
        recaption=RecaptionConfig(),
        agreement=AgreementConfig(),
        captions=CaptionRules(),
        pools=Pools(
            aesthetic=clip,
            text_area=ActorPool(actors=8, num_cpus=1, batch=1),  # a second a frame on one core
            watermark=vlm,
            recaption=vlm,
            agreement=clip,
        ),
    )


def _precompute() -> PrecomputeConfig:
    return PrecomputeConfig(
        num_frames=49,  # CogVideoX: 49 frames of 480x720 at 8 frames per second
        height=480,
        width=720,
        sample_fps=8.0,
        dtype="bfloat16",
        # Ours: answers are sampled (paper, figure 7b), and each costs up to 226 x 3072 x 2 bytes = 1.4 MB a caption.
        answers=2,
        latents=ActorPool(actors=4, num_cpus=4, num_gpus=1, batch=1),
        t5_tokens=ActorPool(actors=1, num_cpus=1, num_gpus=1, batch=64),
        llm_tokens=ActorPool(actors=3, num_cpus=1, num_gpus=1, batch=32),
    )


def _training(*, workers: int, accumulate: int) -> TrainingConfig:
    """The paper gives the clips and the loss, and nothing else of its training."""
    return TrainingConfig(
        steps=8_000,  # ours: 8,000 x 64 is one pass over the paper's 500,000 clips (section 3.1)
        batch_size=64,  # ours; CogVideoX fine-tunes with at least 16
        workers=workers,
        accumulate=accumulate,
        device="cuda",
        zero_stage=2,  # CogVideoX
        precision="bf16",  # CogVideoX-5B; its 2B is float16, whose range training in bfloat16 does not have to mind
        gradient_checkpointing=True,  # CogVideoX: checkpoint_activations
        learning_rate=1e-5,  # CogVideoX: the full fine-tuning configuration (sft.yaml)
        fuser_learning_rate=1e-4,  # ours: the fuser is new, the transformer is not
        warmup_steps=200,  # ours
        schedule="cosine",  # ours
        betas=(0.9, 0.95),  # CogVideoX
        weight_decay=1e-4,  # CogVideoX
        max_grad_norm=0.1,  # CogVideoX: gradient_clipping
        ema_decay=0.0,  # ours: one pass at a rate that falls to 0 leaves little to average
        text_dropout=0.1,  # CogVideoX: ucg_rate
        caption_weights=CaptionWeights(),  # ours: long and short captions as often as each other
        checkpoint_every=500,  # CogVideoX: save_interval
    )


def _generation() -> GenerationConfig:
    gpu = StageActors(num_cpus=1, num_gpus=1)
    return GenerationConfig(
        num_frames=49,  # CogVideoX: 49 frames of 480x720 at 8 frames per second, 50 steps, guidance 6
        height=480,
        width=720,
        fps=8.0,
        num_inference_steps=50,
        guidance_scale=6.0,
        runtime=RuntimeConfig(dtype="bfloat16", device="cuda"),  # as it is trained; CogVideoX: the 2B's is float16
        encode=gpu,
        denoise=StageActors(max_actors=8, num_cpus=1, num_gpus=1),
        decode=gpu,
    )


def _serving() -> EndpointConfig:
    """Each stage on GPUs of its own: small ones encode and decode, large ones denoise, which is nearly all the time."""
    return EndpointConfig(
        encoder=StageDeployment(num_cpus=1, num_gpus=1),
        denoiser=StageDeployment(num_cpus=1, num_gpus=1, max_replicas=8),
        decoder=StageDeployment(num_cpus=1, num_gpus=1),
    )
