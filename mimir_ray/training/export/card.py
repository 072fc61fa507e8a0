"""The page of an exported model: how it is loaded, whose it is, what it was trained on and how it scored."""

from pathlib import Path
from typing import Any

import yaml

from mimir_ray.training.reporting.validation import Validation
from mimir_ray.training.state.run import Run

_LICENCE = ("license", "license_name", "license_link")
_LEARNT = {
    "full": "the transformer and the token fuser",
    "lora": "adapters on the transformer, and the token fuser",
    "fuser": "the token fuser alone",
}


def model_card(
    run: Run, account: dict[str, Any], validation: Validation | None, *, form: str = "merged", on_mimir: bool = False
) -> str:
    """Markdown with the hub's front matter.

    Args:
        account: the export's ``training.json``.
        validation: of the weights that are exported, if they have one.
        form: of ``export_run``: ``merged``, ``unmerged`` or ``adapter``.
        on_mimir: whether the training began with a Mimir and not with a CogVideoX.
    """
    model = run.model
    base = _front_matter(model.base, model.revision)
    llm = _front_matter(model.llm, model.llm_revision) if model.llm else {}
    licence = {key: base[key] for key in _LICENCE if key in base} or {"license": "unknown"}
    front = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["text-to-video", "mimir"],
        **licence,
    }
    names = [model.base] if _on_hub(model.base) else _listed(base.get("base_model"))
    names += [model.llm] if model.llm and _on_hub(model.llm) else []
    if names:
        front["base_model"] = list(dict.fromkeys(names))
    if form == "adapter":
        front |= {"tags": [*front["tags"], "lora"], "base_model_relation": "adapter"}
    parts = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# Mimir" if form != "adapter" else "# What a Mimir learnt",
        "",
        f"Text to video: {_named(model.base)}" + (f", read with {_named(model.llm)}" if model.llm else "") + ".",
        "",
        _usage_alone(run, on_mimir) if form == "adapter" else _usage(form == "merged"),
        "",
        "## Trained on",
        "",
        *_training(run, account),
        "",
        "## Scores",
        "",
        *_scores(validation),
        "",
        "## Licence",
        "",
        f"- {_named(model.base)}, where its T5, VAE and transformer come from: {_say(base)}",
        *([f"- {_named(model.llm)}, the language model in it: {_say(llm)}"] if model.llm else []),
    ]
    return "\n".join(parts) + "\n"


def _usage(merged: bool) -> str:
    plain = """Plain diffusers opens it too, once it may run the two files in it that name the classes:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("PATH", trust_remote_code=True)
```

So does `CogVideoXPipeline.from_pretrained`, which gives the whole pipeline then. Put together by hand from the parts
that `CogVideoXPipeline` knows, without the token fuser and the language model, it makes other videos.
"""
    apart = """Its adapters lie beside it in `pytorch_lora_weights.safetensors` and are put on as it is loaded;
`pipeline.set_adapters("default_0", 0.5)` changes their strength, `pipeline.unload_lora_weights()` takes them off.
`DiffusionPipeline.from_pretrained` would not put them on, and is told to refuse.
"""
    return f"""## Use

It needs the Python package `mimir-ray`. `PATH` is this directory, or its name on the hub.

```python
from diffusers.utils import export_to_video

from mimir_ray.model.pipeline import MimirPipeline

pipeline = MimirPipeline.from_pretrained("PATH")
video = pipeline("a prompt", seed=7).frames[0]
export_to_video(video, "video.mp4", fps=8)
```

{plain if merged else apart}""".rstrip()


def _usage_alone(run: Run, on_mimir: bool) -> str:
    model = run.model
    switches = ", ".join(f"{name}={value!r}" for name, value in model.fuser.model_dump(exclude_defaults=True).items())
    llm = f', llm="{_called(model.llm)}"' if model.llm else ""
    fuser = f", fuser=FuserConfig({switches})" if switches and llm else ""
    made = f'from_base("{_called(model.base)}"{llm}{fuser})'
    if on_mimir:
        made = f'from_pretrained("{_called(model.base)}")'
    named = "from mimir_ray.model.config import FuserConfig\n" if "FuserConfig" in made else ""
    return f"""## Use

Adapters of the transformer where they were trained, and the token fuser, to be put on the model that the training began
with. It needs the Python package `mimir-ray`. `PATH` is this directory, or its name on the hub.

```python
from diffusers.utils import export_to_video

{named}from mimir_ray.model.pipeline import MimirPipeline

pipeline = MimirPipeline.{made}
pipeline.load_lora_weights("PATH")
video = pipeline("a prompt", seed=7).frames[0]
export_to_video(video, "video.mp4", fps=8)
```

On the command line, `--lora PATH` puts it on a Mimir that `pipeline.save_pretrained` or `mimir init` wrote."""


def _called(name: str) -> str:
    """A hub id; of a directory its name, as nobody else has its path."""
    return name if _on_hub(name) else Path(name).name


def _training(run: Run, account: dict[str, Any]) -> list[str]:
    config, step = run.training, account["step"]
    tables = ", ".join(f"`{name}` {fingerprint}" for name, fingerprint in sorted(run.tables.items()))
    average = account["weights"] == "average"
    which = "here is the moving average of the weights" if average else "here are the weights themselves"
    return [
        f"- {step} of {config.steps} steps of {config.batch_size} clips: {step * config.batch_size} samples;",
        f"- what learnt: {_LEARNT[config.train]}; {which};",
        f"- tables (fingerprints of how they were made): {tables}; samples `{run.samples}`;",
        "- every setting is in `training.json`.",
    ]


def _scores(validation: Validation | None) -> list[str]:
    if validation is None or validation.score is None:
        return ["These weights have not been scored."]
    rows = [
        f"| {' '.join(video.prompt.split()).replace('|', chr(92) + '|')} | {video.seed} | {video.score:.3f} |"
        for video in validation.videos
        if video.score is not None
    ]
    return [
        f"Validation at step {validation.step}: {validation.score:.3f} on average, from 0 to 1.",
        "",
        "| prompt | seed | score |",
        "|---|---:|---:|",
        *rows,
    ]


def _front_matter(name: str, revision: str | None) -> dict[str, Any]:
    """What the page of a checkpoint says to machines; nothing where there is none that can be read."""
    from huggingface_hub import hf_hub_download, metadata_load

    try:
        if (root := Path(name)).is_dir():
            # A part of a checkpoint, such as the LLM of a Mimir, has the page of the whole.
            whole = root.parent if (root.parent / "model_index.json").is_file() else root
            page = root / "README.md" if (root / "README.md").is_file() else whole / "README.md"
        else:
            page = Path(hf_hub_download(name, "README.md", revision=revision))
        return metadata_load(page) or {}
    except (OSError, ValueError, yaml.YAMLError):  # no page, no network, or one that is not well formed
        return {}


def _on_hub(name: str) -> bool:
    return not Path(name).is_dir()


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _named(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if _on_hub(name) else f"`{Path(name).name}`"


def _say(front: dict[str, Any]) -> str:
    told = [str(front[key]) for key in _LICENCE if key in front]
    return " ".join(told) if told else "unknown; ask whoever made it before you pass this model on"
