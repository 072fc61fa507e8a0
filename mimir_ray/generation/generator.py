"""One generation in this process, from request to frames.

generator = load_generator("out/export", config.runtime)
request = config.request("a red ball rolls left", model=generator.model)
frames = generate(generator, request)                                  # F H W 3 uint8
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimir_ray.generation.stages import Condition, DecodeStage, DenoiseStage, EncodeStage, Stopwatch, Timings
from mimir_ray.model.sampling import DenoiseState
from mimir_ray.records import GenerationRequest

if TYPE_CHECKING:
    from mimir_ray.model.pipeline import MimirPipeline


class Generator:
    """The three stages around one ``MimirPipeline``.

    Args:
        model: the name that requests and records carry; see ``checkpoint.model_name``.
    """

    def __init__(self, pipeline: "MimirPipeline", model: str) -> None:
        self.model = model
        self._encode = EncodeStage(pipeline)
        self._denoise = DenoiseStage(pipeline.transformer, pipeline.scheduler, pipeline.vae.config)
        self._decode = DecodeStage(pipeline.vae)

    def encode(self, request: GenerationRequest) -> Condition:
        """Raises UserError for a prompt or a size that the model cannot take."""
        return self._encode.encode(request)

    def start(self, request: GenerationRequest, condition: Condition) -> DenoiseState:
        """The state before the first denoise step."""
        return self._denoise.start(request, condition)

    def step(self, state: DenoiseState, condition: Condition) -> DenoiseState:
        """One denoise step."""
        return self._denoise.step(state, condition)

    def decode(self, state: DenoiseState) -> NDArray[np.uint8]:
        """F H W 3 frames of a state, finished or not."""
        return self._decode.decode(state.latents)


def generate(
    generator: Generator,
    request: GenerationRequest,
    on_step: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Frames of a request, F H W 3. ``on_step(done, total)`` after each step; an exception from it cancels."""
    return generate_timed(generator, request, on_step)[0]


def generate_timed(
    generator: Generator,
    request: GenerationRequest,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.uint8], Timings]:
    """Same as ``generate``, with the seconds of each stage."""
    watch = Stopwatch()
    condition = generator.encode(request)
    encode_s = watch.lap()
    state = generator.start(request, condition)
    while not state.finished:
        state = generator.step(state, condition)
        if on_step is not None:
            on_step(state.step, state.num_inference_steps)
    denoise_s = watch.lap()
    frames = generator.decode(state)
    return frames, Timings(encode_s, denoise_s, watch.lap())
