"""``MimirPipeline``: CogVideoX's components, an LLM and a token fuser as one diffusers pipeline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.pipelines.cogvideo.pipeline_output import CogVideoXPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5EncoderModel

from mimir_ray.config import UserError, from_dict
from mimir_ray.model import latents as latent_video
from mimir_ray.model.adapters import load_adapters, load_own_adapters
from mimir_ray.model.call import Callback, Rows, check_output, denoise, text_of
from mimir_ray.model.config import FuserConfig, LanguageConfig, ModelConfig
from mimir_ray.model.fresh import fresh_components
from mimir_ray.model.layout import own_names, publish
from mimir_ray.model.offload import execution_device
from mimir_ray.model.sampling import Sampler
from mimir_ray.model.text_branches import LLMBranch, T5Branch
from mimir_ray.model.token_fuser import TokenFuser
from mimir_ray.model.tokens import TextTokens
from mimir_ray.model.trained import load_fuser, trained_folder


class MimirPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):  # type: ignore[misc]
    """Text to video with Mimir, or with its base alone where ``llm`` is None.

        pipeline = MimirPipeline.from_pretrained("out/export")
        video = pipeline("a red ball rolls left", num_inference_steps=50, seed=7).frames[0]
        diffusers.utils.export_to_video(video, "ball.mp4", fps=8)

    Args:
        language: the fields of ``LanguageConfig`` (what the LLM is asked), kept in ``model_index.json``.
    """

    model_cpu_offload_seq = "text_encoder->llm->token_fuser->transformer->vae"
    _optional_components = ["llm_tokenizer", "llm"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: T5EncoderModel,
        vae: AutoencoderKLCogVideoX,
        transformer: CogVideoXTransformer3DModel,
        scheduler: CogVideoXDDIMScheduler | CogVideoXDPMScheduler,
        token_fuser: TokenFuser,
        llm_tokenizer: PreTrainedTokenizerBase | None = None,
        llm: PreTrainedModel | None = None,
        language: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
            token_fuser=token_fuser,
            llm_tokenizer=llm_tokenizer,
            llm=llm,
        )
        if token_fuser.config.decoder and (llm is None or llm_tokenizer is None):
            raise UserError(
                "this token fuser reads an LLM's tokens: pass llm and llm_tokenizer, or a fuser with decoder=False"
            )
        if next(token_fuser.parameters(), None) is None:  # that of the baseline: there is nothing to offload
            self.model_cpu_offload_seq = self.model_cpu_offload_seq.replace("token_fuser->", "")
            self._exclude_from_cpu_offload = ["token_fuser"]
        self.language = from_dict(LanguageConfig, language or {}, "language")
        self.register_to_config(language=self.language.model_dump(mode="json"))

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        llm: str | Path | None = None,
        fuser: FuserConfig | None = None,
        language: LanguageConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        llm_revision: str | None = None,
        transformer: CogVideoXTransformer3DModel | None = None,
        vae: AutoencoderKLCogVideoX | None = None,
    ) -> Self:
        """A fresh Mimir from any CogVideoX text-to-video checkpoint, directory or hub id.

        Every weight of the base stays as it is. A 2B-style transformer gets room for the fuser's sequence length (its
        position buffer is computed, not stored). Without ``llm`` the result is the base itself, with the fuser of the
        baseline cell: what diffusers makes of it.

        Args:
            transformer, vae: the base's own, where they are there already and not to be loaded.

        Raises:
            UserError: a base that cannot be run, a fuser that needs an LLM without one, or a base whose positions
                cannot take the longer text.
        """
        return cls(
            **fresh_components(
                base,
                llm,
                fuser,
                dtype=dtype,
                revision=revision,
                llm_revision=llm_revision,
                transformer=transformer,
                vae=vae,
            ),
            language=(language or LanguageConfig()).model_dump(mode="json"),
        )

    @classmethod
    def from_model_config(cls, config: ModelConfig) -> Self:
        """A fresh Mimir as a recipe names it; without an LLM, its base."""
        fuser = config.fuser if config.llm is not None or not config.fuser.decoder else FuserConfig.baseline()
        return cls.from_base(
            config.base,
            config.llm,
            fuser,
            config.language,
            dtype=getattr(torch, config.dtype),
            revision=config.revision,
            llm_revision=config.llm_revision,
        )

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a whole repository of the hub; diffusers' own would refuse a component whose class it does not ship."""
        passed = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        return str(
            snapshot_download(pretrained_model_name, **{name: kwargs[name] for name in passed if name in kwargs})
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a saved Mimir, directory or hub id, with the adapters that are kept beside its components."""
        folder = str(pretrained_model_name_or_path)
        if not Path(folder).is_dir():
            folder = cls.download(folder, **kwargs)
        pipeline: Self = super().from_pretrained(folder, **kwargs)
        if "transformer" not in kwargs:
            load_own_adapters(pipeline.transformer, folder)
        return pipeline

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The index of a checkpoint; a Mimir's without the files by which plain diffusers finds its classes."""
        loaded = super().load_config(*args, **kwargs)
        return own_names(loaded) if isinstance(loaded, dict) else loaded

    def save_config(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the index, and the files by which plain diffusers finds the classes in it."""
        super().save_config(save_directory, **kwargs)
        publish(Path(save_directory))

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Put a LoRA on the transformer, in the form of diffusers, peft, kohya or ComfyUI; see ``load_adapters``.

        Nothing of the file is left out: diffusers' own passes over what it does not know. Those that are on stay on.
        The token fuser of what ``mimir export --adapter`` wrote takes the place of the pipeline's.

        Raises:
            UserError: what is no plain LoRA of this transformer, or is on already; a fuser of another base or LLM.
        """
        source = pretrained_model_name_or_path_or_dict
        if not isinstance(source, Mapping) and (folder := trained_folder(source, kwargs.get("revision"))):
            load_fuser(self, folder)
            if not (folder / LORA_WEIGHT_NAME_SAFE).is_file():
                return
            source, kwargs = folder / LORA_WEIGHT_NAME_SAFE, {}
        load_adapters(self.transformer, source, adapter_name, pipeline=self, hotswap=hotswap, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does. Raises UserError where adapters are on, whose weights no loader would find again."""
        if getattr(self.transformer, "peft_config", None):
            raise UserError(
                "adapters are on the transformer: call fuse_lora() and then unload_lora_weights() to save their "
                "effect, or unload_lora_weights() alone to save without them"
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def t5_branch(self) -> T5Branch:
        return T5Branch(self.tokenizer, self.text_encoder, int(self.token_fuser.config.text_length))

    @property
    def llm_branch(self) -> LLMBranch | None:
        """None without an LLM."""
        return None if self.llm is None else LLMBranch(self.llm_tokenizer, self.llm, self.language)

    @property
    def sampler(self) -> Sampler:
        """A sampler on the current transformer and scheduler; keep it for a whole run."""
        return Sampler(self.transformer, self.scheduler)

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Raise ``UserError`` with the nearest valid sizes where the VAE or the transformer cannot make this one."""
        latent_video.check_size(self.vae.config, self.transformer.config, num_frames, height, width)

    def check_prompt(self, prompt: str) -> None:
        """Raise ``UserError`` for a prompt that the text encoder would have to cut."""
        limit = self.t5_branch.max_length
        if (count := self.t5_branch.token_count(prompt)) > limit:
            raise UserError(
                f"the prompt has {count} text tokens; this model reads {limit}: "
                f"shorten it by {count - limit} tokens or more"
            )

    def default_size(self) -> tuple[int, int, int]:
        """num_frames, height, width that the transformer was trained at."""
        config, factor = self.transformer.config, latent_video.spatial_factor(self.vae.config)
        return int(config.sample_frames), int(config.sample_height) * factor, int(config.sample_width) * factor

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """T C h w of a video of this size."""
        return latent_video.latent_shape(self.vae.config, self.transformer.config, num_frames, height, width)

    def encode_prompt(self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0) -> TextTokens:
        """Tokens of both branches, B rows. The seed decides the LLM's sampled answers and nothing else here."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        row_seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
        if len(row_seeds) != len(prompts):
            raise ValueError(
                f"{len(row_seeds)} seeds for {len(prompts)} prompts; give one seed, or one for each prompt"
            )
        t5 = self.t5_branch.encode(prompts)
        branch = self.llm_branch
        if branch is None or not self.token_fuser.config.decoder:
            return TextTokens.from_t5(t5)
        queries, answers, instruction = branch.encode(prompts, row_seeds)
        return TextTokens.collate(t5, queries, answers, instruction, int(self.token_fuser.config.text_length))

    @torch.no_grad()
    def condition(self, tokens: TextTokens) -> tuple[Tensor, Tensor]:
        """The fused condition and the null condition, both B N' D in the transformer's dtype."""
        tokens = tokens.to(execution_device(self.token_fuser))
        fused = self.token_fuser(tokens)
        null = self.token_fuser(tokens, keep=torch.zeros(len(tokens)))
        return fused.to(self.transformer.dtype), null.to(self.transformer.dtype)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        *,
        guidance_scale: float = 6.0,
        num_videos_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """A ``CogVideoXPipelineOutput`` of videos; the arguments are those of ``CogVideoXPipeline``, and their meaning.

        Args:
            prompt: one or a list.
            negative_prompt: what guidance above 1 leads away from, read by both text branches as a prompt is; one for
                all prompts or one for each. None, or an empty one, is the null condition of the model's training.
            num_frames, height, width: the transformer's own where None.
            seed: one for all prompts or one for each, and for the k-th further video of a prompt k more; decides the
                LLM's answers and the noise, whatever the batch. A batch of requests goes by it.
            generator: in place of ``seed``: one for all videos in turn or one for each. Its own seed decides the LLM's
                answers. Without either the noise is that of torch's global generator, another one each time.
            latents: B T C h w noise to start from.
            prompt_embeds, negative_prompt_embeds: in place of the prompts: B N' D as ``condition`` returns them, T5's
                and the LLM's tokens fused, which are what the transformer reads. Of a base alone they are T5's.
            output_type: ``pil``, a list of images of each video; ``np``, B F H W 3 of 0 to 1; ``pt``, B F 3 H W of 0 to
                1; ``latent``, B T C h w.
            return_dict: False for a tuple.
            callback_on_step_end: called with (pipeline, step, timestep, tensors) after each step; returns those
                that change, or None. An exception from it cancels the call; ``pipeline._interrupt = True`` ends
                it with what is there.
            callback_on_step_end_tensor_inputs: of ``latents``; ``prompt_embeds``, all that the transformer reads, with
                guidance the null conditions and then the prompts'; ``negative_prompt_embeds``, to be read alone.

        Raises:
            UserError: a size or a prompt that this model cannot take, or arguments that do not fit one another.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        check_output(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        if guidance_scale <= 1:  # nothing leads away from them then
            negative_prompt = negative_prompt_embeds = None
        if negative_prompt and negative_prompt_embeds is not None:
            raise UserError("negative_prompt and negative_prompt_embeds say the same: give one of them")
        device = execution_device(self.transformer)
        embedded = None if prompt_embeds is None else len(prompt_embeds)
        rows = Rows.read(prompt, negative_prompt, embedded, num_videos_per_prompt, seed, generator, device)
        own = self.default_size()
        size = (num_frames or own[0], height or own[1], width or own[2])
        self.check_size(*size)
        for asked in {*rows.prompts, *rows.negative_prompts}:
            self.check_prompt(asked)
        text, null = text_of(self, rows, prompt_embeds, negative_prompt_embeds)
        shape = self.latent_shape(*size)
        if latents is None:
            drawn = (len(text), *shape)
            noise = randn_tensor(drawn, generator=list(rows.generators), device=text.device, dtype=text.dtype)
        else:
            noise = rows.noise(latents, shape).to(text.device, text.dtype)
        sampler = self.sampler
        state = sampler.start_from(
            noise, rows.generators, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        state = denoise(self, sampler, state, text, null, callback_on_step_end, callback_on_step_end_tensor_inputs)
        for given, reached in zip(rows.generators, state.generator_states, strict=True):
            given.set_state(reached)  # so that the next call with it makes another video
        frames: Any = state.latents
        if output_type != "latent":
            video = latent_video.decode_video(self.vae, state.latents)
            frames = VideoProcessor().postprocess_video(video, output_type)
        self.maybe_free_model_hooks()
        return CogVideoXPipelineOutput(frames) if return_dict else (frames,)
