"""What `mimir train` can be told. Imports neither torch nor ray."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mimir_ray.config import Config


class CaptionWeights(Config):
    """How often a step sees each kind of caption, relative to the other kinds that the clip has; 0 never shows it.

    Captions of mixed length matter: with long captions alone the LLM branch has nothing to learn.
    """

    long: float = Field(1.0, ge=0)
    """Weight of long captions."""
    short: float = Field(1.0, ge=0)
    """Weight of short captions."""
    user: float = Field(1.0, ge=0)
    """Weight of captions that people gave."""
    filename: float = Field(0.1, ge=0)
    """Weight of captions made of files' names."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("every weight is 0, so no caption could be drawn; give one kind a weight, such as long=1")
        return self


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers of the transformer's attention."""


class LoraConfig(Config):
    """Low-rank adapters on the transformer (``training.train=lora``)."""

    rank: int = Field(128, gt=0)
    """Width of the adapters."""
    alpha: float = Field(128.0, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    targets: tuple[str, ...] = Field(ATTENTION, min_length=1)
    """Linear layers that get one, by the end of their name; these are the attention's."""


class ValidationConfig(Config):
    """Videos of fixed prompts, made and scored beside the training from time to time."""

    every: int = Field(0, ge=0)
    """Steps between validations, a multiple of ``training.checkpoint_every``; there is one at the end too. 0 makes
    none."""
    prompts: tuple[str, ...] = ()
    """What the videos are to show, one video each."""
    seed: int = Field(0, ge=0, lt=2**62)
    """The seed of the first prompt; each further prompt has the next. The same in every validation."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that a validation reserves, beside those of the training workers."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that a validation reserves, beside those of the training workers; 0 computes on the CPU."""
    timeout_s: float = Field(3600.0, gt=0)
    """A validation that takes longer, its wait for CPUs and GPUs included, is given up."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.every and not self.prompts:
            raise ValueError(
                f"every={self.every} validates and there are no prompts; set prompts='[\"a red ball rolls left\"]', "
                "or every=0"
            )
        if blank := [index for index, prompt in enumerate(self.prompts) if not prompt.strip()]:
            raise ValueError(f"prompt {blank[0] + 1} of {len(self.prompts)} is blank; write it, or leave it out")
        return self


class LoggingConfig(Config):
    """Where rows of metrics and validation videos go besides metrics.jsonl."""

    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Services; metrics.jsonl is written in any case."""
    project: str = Field("mimir", min_length=1)
    """W&B's project, MLflow's experiment."""
    name: str | None = Field(None, min_length=1)
    """The run's name there; None takes the last part of its output folder."""


class TrainingConfig(Config):
    """A fine-tuning run of the token fuser and the video transformer."""

    steps: int = Field(gt=0)
    """Optimiser steps of the whole run; the learning rate is a function of step / steps."""
    batch_size: int = Field(gt=0)
    """Samples of a step over all workers. The batch of a step is the same for any number of workers."""
    workers: int = Field(1, gt=0)
    """Training processes: one GPU each, or one CPU each."""
    min_workers: int | None = Field(None, gt=0)
    """Fewest of them with which the run goes on while machines are lacking; None waits for all. Each of fewer workers
    takes more parts of a batch, so that memory stays what it was."""
    resize_check_s: float = Field(60.0, gt=0)
    """With ``min_workers``: how often Ray looks for machines that came back, which costs a restart from the last
    checkpoint."""
    accumulate: int = Field(1, gt=0)
    """Parts into which a worker cuts its share of a batch to save memory; gradients are summed in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes GPUs where the cluster has one for every worker."""
    train: Literal["full", "lora", "fuser"] = "full"
    """What learns beside the token fuser: all of the transformer, low-rank adapters on it, or nothing."""
    lora: LoraConfig = LoraConfig()
    """Read where ``train=lora``."""
    zero_stage: Literal[1, 2, 3] = 2
    """DeepSpeed ZeRO: 1 shards optimiser states, 2 also gradients, 3 also parameters."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in main memory instead of the GPU's: optimiser states and master weights; with ZeRO 3 all weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The precision of parameters and activations; master weights, gradients' sums, messages and loss are float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each of the transformer's blocks with ``torch.compile``; needs a C++ compiler, on GPUs Triton."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of the video transformer."""
    fuser_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the token fuser; None is the transformer's."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to ``final_learning_rate`` along half a cosine, or constant."""
    final_learning_rate: float = Field(0.0, ge=0, le=1)
    """Where the cosine ends, as a fraction of the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two decay rates."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The norm that gradients of all weights together are clipped to."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay per step of the moving average of the weights, which is then what the export holds; 0 keeps none."""

    text_dropout: float = Field(0.1, ge=0, lt=1)
    """Probability that a sample's text becomes the null condition, for guidance."""
    caption_weights: CaptionWeights = CaptionWeights()
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the order of samples, every draw of a step and the fuser's initial weights."""
    shuffle_shards: int = Field(8, gt=0)
    """Shards whose rows are mixed with each other."""
    read_ahead: int = Field(4, gt=0)
    """Batches that a worker makes while it computes, each in a thread of its own: several reads at a time keep a disk
    or an object store busy, and a slow one is not waited for."""
    cache_mib: int = Field(1024, gt=0)
    """Memory of a worker for rows that were read and may soon be wanted: small ones lie in groups of about 4 MiB, and a
    group that had to go is read again for its next row. Rows of megabytes are read once, whatever this is."""

    log_every: int = Field(10, gt=0)
    """Steps between lines of metrics.jsonl. Losses are read from the device this often."""
    max_skipped_steps: int = Field(10, ge=0)
    """A step whose gradient is not finite is left out; one more than this many in a run ends it."""
    checkpoint_every: int = Field(200, gt=0)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, gt=0)
    """Checkpoints that are kept."""
    keep_by: Literal["step", "loss", "score"] = "step"
    """Which checkpoints are kept: the last ones, or those of the lowest loss, or of the highest score in validation,
    with the last one beside them."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint after a worker died."""
    validation: ValidationConfig = ValidationConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = self.workers * self.accumulate
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            choices = f"{below} or {below + parts}" if below else f"{parts}"
            raise ValueError(
                f"batch_size={self.batch_size} does not divide by workers={self.workers} x "
                f"accumulate={self.accumulate}; set batch_size to {choices}, or change the number of workers"
            )
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers={self.min_workers} is above workers={self.workers}; set it to fewer, or null"
            )
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(
                f"offload=all moves weights that zero_stage={self.zero_stage} keeps whole on every GPU; set "
                "zero_stage=3, or offload=optimizer"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}; set warmup_steps below "
                f"{self.steps}: add --set training.warmup_steps={self.steps // 20}"
            )
        if rest := self.validation.every % self.checkpoint_every:
            above = self.validation.every - rest + self.checkpoint_every
            raise ValueError(
                f"validation.every={self.validation.every} is no multiple of checkpoint_every={self.checkpoint_every}, "
                f"and it is checkpoints that are validated; set validation.every={above}, or checkpoint_every="
                f"{self.validation.every}"
            )
        return self
