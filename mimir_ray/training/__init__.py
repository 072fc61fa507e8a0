"""Fine-tuning of the token fuser and the video transformer with Ray Train and DeepSpeed ZeRO.

    summary = train("runs/first/data", "runs/first/train", model, config)

The text encoders and the VAE take no part: their tables (``latents``, ``t5_tokens``, ``llm_tokens``) are read instead.

The way to a step, and of one; ``config`` has every setting:

    train       the driver: checks, the run's directory (``state.run``), loggers, and in the end the ``export``
    sizing/     what memory it takes (``memory``) and whether the cluster has it (``capacity``), before workers start
    fit         Ray Train runs as many ``worker``s as asked, with a ``job``: one loads, resumes, and reports checkpoints
    data/       ``source`` has the tables' rows, ``samples`` joins them, ``order`` says which make up step n, ``shards``
                reads them, and ``batches`` draws noise, timestep and caption: a function of (seed, step, place)
    loop        for each batch, made ahead in threads, one step of the engine; for each interval a row of metrics
    engine      DeepSpeed ZeRO: forward and backward of each part of the share, then an update (``average``: AdamW, EMA)
    module      its forward is the loss: token fuser, then transformer, against the velocity (``model.diffusion``)
    state/      at checkpoints what this worker owns of weights and moments (``sharding``), files by name (``pieces``)
    reporting/  rows go to metrics.jsonl (``metrics``) and by ``feed`` to the driver's ``loggers`` and terminal; of the
                checkpoints that are due ``validator`` makes videos, beside the training
    export/     what was learnt as a model that others load: its ``directory``, its ``card``, its place on the ``hub``
"""

from mimir_ray.training.config import CaptionWeights, LoggingConfig, TrainingConfig, ValidationConfig
from mimir_ray.training.reporting.validation import Score, Scorer, read_validations
from mimir_ray.training.train import TrainingSummary, train

__all__ = [
    "CaptionWeights",
    "LoggingConfig",
    "Score",
    "Scorer",
    "TrainingConfig",
    "TrainingSummary",
    "ValidationConfig",
    "read_validations",
    "train",
]
