"""What a run would be, with its sources, and what can be said of it."""

import json
from pathlib import Path

import pytest

from mimir_ray.cli.config_fields import describe
from mimir_ray.cli.options import load_recipe
from mimir_ray.config import UserError, fingerprint, override
from mimir_ray.recipes import RECIPES, Recipe, by_name
from tests.cli.command import ROOT, mimir, run_python


def shown(*arguments: str) -> dict[str, tuple[str, str]]:
    """Source and value of each field that `config show` prints, and `fingerprint`."""
    result = mimir("config", "show", *arguments)
    assert result.exit_code == 0, result.output
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    return {name: (source, "".join(value)) for name, source, *value in rows}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("form", ["yaml", "toml"])
def test_what_is_shown_as_a_file_reads_back_to_the_same_recipe(name: str, form: str, tmp_path: Path) -> None:
    recipe = by_name(name)
    result = mimir("config", "show", "--recipe", name, "--format", form)
    assert result.exit_code == 0, result.output
    (path := tmp_path / f"run.{form}").write_text(result.stdout)
    read = load_recipe(name, None, [str(path)])
    assert read == recipe
    assert fingerprint(read) == fingerprint(recipe)


@pytest.mark.parametrize("base", RECIPES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_whole_yaml_file_means_the_same_on_any_recipe(name: str, base: str, tmp_path: Path) -> None:
    (path := tmp_path / "run.yaml").write_text(mimir("config", "show", "--recipe", name, "--format=yaml").stdout)
    assert load_recipe(base, None, [str(path)]) == by_name(name)


HOSTILE = (
    "a: b # c",
    "1e5",
    "no",
    "null",
    '"',
    "[bold]x[/bold] :smile:",
    "two\nlines\ttab",
    "\x7f\x1b\u2028 雪 😀",
    "\\",
)


@pytest.mark.parametrize("form", ["yaml", "toml"])
def test_no_text_is_lost_on_its_way_through_the_terminal(form: str, tmp_path: Path) -> None:
    setting = f"training.validation.prompts={json.dumps(HOSTILE[:6])}"
    settings = [setting, *(f"name={json.dumps(HOSTILE[6])}",), "training.lora.alpha=1e-7"]
    result = mimir("config", "show", "--format", form, *(f"--set={setting}" for setting in settings))
    assert result.exit_code == 0, result.output
    (path := tmp_path / f"run.{form}").write_text(result.stdout)
    assert load_recipe("shapes", None, [str(path)]) == override(by_name("shapes"), settings)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_toml(text: str, tmp_path: Path) -> None:
    from mimir_ray.cli.config_file import to_toml

    recipe = by_name("shapes").model_copy(update={"name": text})
    (path := tmp_path / "run.toml").write_text(to_toml(recipe))
    assert load_recipe("shapes", None, [str(path)]) == recipe


def test_each_value_says_where_it_is_from(tmp_path: Path) -> None:
    (path := tmp_path / "run.yaml").write_text(
        "training:\n  steps: 2000\n  seed: 3\ncuration:\n  text_area: {frames: 2}\n"
    )
    rows = shown("--config", str(path), "--set", "training.seed=4", "--set", "training.lora={rank: 8}")
    assert rows["training.batch_size"] == ("recipe", "16")
    assert rows["training.betas"] == ("default", "[0.9, 0.95]")
    assert rows["training.steps"] == (f"{path}:2", "2000")
    assert rows["training.seed"] == ("--set", "4")
    assert rows["training.lora.rank"] == ("--set", "8")
    assert rows["curation.text_area.frames"] == (f"{path}:5", "2")
    assert rows["curation.text_area.cpu_threads"] == ("default", "1")
    assert rows["precompute.t5_tokens.batch"] == ("default", "64"), "of the field, where the class has none"
    assert rows["fingerprint"][0] == fingerprint(
        load_recipe("shapes", ["training.seed=4", "training.lora={rank: 8}"], [str(path)])
    )


def test_every_field_is_shown() -> None:
    rows = shown("--recipe", "mimir_5b")
    kinds = {field.name: field.kind for field in describe(Recipe) if "[]" not in field.name}
    hidden = kinds.keys() - rows.keys()
    assert all("section" in kinds[name] for name in hidden), "sections are shown by their fields"
    assert rows.keys() - kinds.keys() == {"fingerprint"}


def test_toml_refuses_a_null_that_it_could_not_give_back() -> None:
    result = mimir("config", "show", "--recipe", "mimir_2b", "--set", "model.llm=null", "--format", "toml")
    assert result.exit_code == 2
    assert "TOML has no null" in result.stderr
    assert 'model.llm was "microsoft/Phi-3.5-mini-instruct"' in result.stderr
    assert "--format yaml" in result.stderr
    assert mimir("config", "show", "--set", "model.llm=null", "--format", "yaml").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["show", "--set", "training.stepps=1"], "did you mean steps"),
        (["show", "--recipe", "shapez"], "no recipe 'shapez'"),
        (["show", "--format", "json"], "json"),
        (["fields", "trainning"], "no field begins with 'trainning'; the sections are model, curation,"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], named: str) -> None:
    result = mimir("config", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""


def test_fields_say_type_limits_default_and_meaning() -> None:
    lines = mimir("config", "fields", "training.").stdout.splitlines()
    assert "training.seed  int, >= 0, < 2**63, default 0" in lines
    assert "training.learning_rate  float, > 0, required" in lines
    assert "training.zero_stage  1 | 2 | 3, default 2" in lines
    place = lines.index("training.warmup_steps  int, >= 0, default 0")
    assert lines[place + 1] == "    Steps of linear warm-up."
    assert all(line.startswith(("training.", "    ")) for line in lines)


def test_no_field_is_without_a_meaning() -> None:
    fields = list(describe(Recipe))
    assert len(fields) > 300
    assert not [field.name for field in fields if not field.meaning]


def test_what_is_described_is_what_a_recipe_would_take() -> None:
    fields = {field.name: field for field in describe(Recipe)}
    assert fields["precompute.latents.batch"].default == 8, "of the field, where the class has none"
    assert fields["curation.pools.text_area.num_cpus"].default == 1.0
    assert fields["precompute.buckets[].height"].limits == ">= 1"
    assert fields["curation.split"].kind == "section | 'off'"
    for field in ("training.warmup_steps", "training.text_dropout", "serving.port", "precompute.seed"):
        for limit in fields[field].limits.split(", "):
            sign, bound = limit.split()
            number = int(eval(bound))
            beyond = {">=": number - 1, ">": number, "<=": number + 1, "<": number}[sign]
            with pytest.raises(UserError, match=f"{field} is {beyond}"):
                override(by_name("shapes"), [f"{field}={beyond}"])


def test_the_page_is_the_one_that_is_generated() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == mimir("config", "fields", "--markdown").stdout, (
        "run mimir config fields --markdown > docs/configuration.md"
    )


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    _, _, block = (ROOT / "docs" / "configuration.md").read_text().partition("```python\n")
    (path := tmp_path / "own.py").write_text(block.partition("```")[0])
    assert load_recipe(f"{path}:gentle", None).name == "gentle"


def test_configuration_is_shown_without_loading_anything_heavy() -> None:
    code = """
import json, sys
from mimir_ray.cli import main
for arguments in (["show"], ["show", "--format", "toml"], ["fields"]):
    try:
        main(["config", *arguments])
    except SystemExit as end:
        assert not end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr
    assert not {"torch", "ray", "transformers", "diffusers", "deepspeed", "cv2"} & set(
        json.loads(run.stderr.splitlines()[-1])
    )
