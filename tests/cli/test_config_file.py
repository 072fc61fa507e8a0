"""`--config FILE`: what is read, in which order it counts, and what a refusal says."""

from pathlib import Path

import pytest

from mimir_ray.cli.options import load_recipe
from mimir_ray.config import UserError, override
from mimir_ray.recipes import by_name
from tests.cli.command import ROOT, mimir

YAML = """\
# a comment
training:
  steps: 300
  lora:
    rank: 4
precompute.answers: 3
curation:
  text_area: {frames: 2}
  split: off
precompute:
  buckets: [{num_frames: 17, height: 64, width: 64}]
"""
TOML = """\
# a comment
precompute.answers = 3
[training]
steps = 300
lora.rank = 4
[curation]
text_area = { frames = 2 }
split = "off"
[[precompute.buckets]]
num_frames = 17
height = 64
width = 64
"""


def written(tmp_path: Path, text: str | bytes, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(("name", "text"), [("run.yaml", YAML), ("run.yml", YAML), ("run.toml", TOML)])
def test_a_part_of_a_recipe_is_enough(name: str, text: str, tmp_path: Path) -> None:
    for recipe in ("shapes", "mimir_2b"):
        wanted = ["training.steps=300", "training.lora.rank=4", "precompute.answers=3", "curation.split=off"]
        wanted += ["precompute.buckets=[{num_frames: 17, height: 64, width: 64}]", "curation.text_area={frames: 2}"]
        assert load_recipe(recipe, None, [written(tmp_path, text, name)]) == override(by_name(recipe), wanted)


def test_a_file_says_only_what_it_says_of_a_section(tmp_path: Path) -> None:
    path = written(tmp_path, "curation: {watermark: {frames: 9}, recaption: {}}\ntraining: {}\n")
    recipe, before = load_recipe("mimir_5b", ["curation.watermark.vlm.name=own/vlm"], [path]), by_name("mimir_5b")
    assert recipe == override(before, ["curation.watermark.frames=9", "curation.watermark.vlm.name=own/vlm"])
    assert load_recipe("shapes", None, [path]).curation.recaption != "off"


def test_later_ones_win(tmp_path: Path) -> None:
    first = written(tmp_path, "training: {steps: 300, seed: 1}\ncuration: {text_area: {frames: 2}}", "a.yaml")
    second = written(
        tmp_path, "[training]\nsteps = 400\nlog_every = 7\n[curation.text_area]\ncpu_threads = 2", "b.toml"
    )
    recipe = load_recipe("shapes", ["training.log_every=9", "curation.text_area.frames=5"], [first, second])
    training = recipe.training
    assert (training.seed, training.steps, training.log_every) == (1, 400, 9)
    assert (
        recipe.curation.text_area
        == override(by_name("mimir_5b"), ["curation.text_area={frames: 5, cpu_threads: 2}"]).curation.text_area
    )
    assert load_recipe("shapes", None, [second, first]).training.steps == 300


def test_file_and_assignment_are_judged_together(tmp_path: Path) -> None:
    path = written(tmp_path, "generation: {height: 32}")
    with pytest.raises(
        UserError, match=r"run\.yaml: the configuration: generation\.height is 32 and precompute\.height is 64"
    ):
        load_recipe("shapes", None, [path])
    assert load_recipe("shapes", ["precompute.height=32"], [path]).generation.height == 32


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "\ufefftraining: {}\n"])
def test_a_file_may_say_nothing(text: str, tmp_path: Path) -> None:
    assert load_recipe("shapes", None, [written(tmp_path, text)]) == by_name("shapes")


REFUSED = [
    ("run.yaml", "training:\n  stepps: 5", ["run.yaml:2: there is no field training.stepps; did you mean steps"]),
    ("run.toml", "[training]\nstepps = 5", ["run.toml:2: there is no field training.stepps; did you mean steps"]),
    ("run.yaml", "name: x\nsteps: 5", ["run.yaml:2: there is no field steps here; did you mean training.steps?"]),
    ("run.toml", "name = 'x'\n\nsteps = 5", ["run.toml:3: there is no field steps here; did you mean training.steps?"]),
    ("run.yaml", "training:\n\n  steps: many", ['run.yaml:3: training.steps is "many"; it must be a valid integer']),
    ("run.toml", "training.steps = 1.5", ["run.toml:1: training.steps is 1.5; it must be a valid integer"]),
    ("run.toml", "training = { seed = 1, steps = 0 }", ["run.toml:1: training.steps is 0; it must be greater than 0"]),
    (
        "run.toml",
        "[[precompute.buckets]]\nheight = 64\nwidth = 64",
        ["run.toml:1: precompute.buckets.0.num_frames is req"],
    ),
    ("run.yaml", "training:\n  steps: 40\n", ["run.yaml: training: warmup_steps=50 leaves nothing of steps=40"]),
    (
        "run.yaml",
        "curation:\n  text_area: on",
        ["run.yaml:2: curation.text_area is \"on\"; it must be an object or 'off'"],
    ),
    ("run.yaml", "curation:\n  text_area:\n    frames: 0", ["run.yaml:3: curation.text_area.frames is 0"]),
    ("run.yaml", "training:\n", ["run.yaml:1: training is null; it must be an object"]),
    ("run.yaml", "name: [1]", ["run.yaml:1: name is [1]; it must be a valid string"]),
    ("run.yaml", "name: x\ntraining.steps.a: 1", ["run.yaml:2: cannot set training.steps.a: training.steps is 2400"]),
    ("run.toml", "name = 2024-01-01", ["run.toml:1: name: only numbers, text, lists and mappings can be values"]),
    (
        "run.yaml",
        "a: 1\na: 2",
        ["run.yaml is not valid YAML (line 2, column 1): a is given twice; leave one of them out"],
    ),
    ("run.toml", "a = 1\na = 2\n", ["run.toml is not valid TOML", "line 2", "leave one of them out"]),
    ("run.toml", "[a]\nb = 1\n[a]\nb = 2", ["run.toml is not valid TOML", "line 3", "leave one of them out"]),
    ("run.yaml", "training.seed: 1\ntraining:\n  seed: 2", ["run.yaml:3: training.seed is given twice; leave"]),
    ("run.yaml", "- a", ["run.yaml holds no fields; write them as a mapping"]),
    ("run.yaml", "just text", ["run.yaml holds no fields"]),
    ("run.yaml", "5: 1", ["the key 5 is not text"]),
    ("run.yaml", "a: [", ["run.yaml is not valid YAML (line 1"]),
    ("run.yaml", "a: 1\n---\nb: 2", ["run.yaml is not valid YAML"]),
    ("run.yaml", "a: !!python/object/apply:os.getcwd []", ["run.yaml is not valid YAML"]),
    ("run.yaml", "training: &t {lora: *t}", ["run.yaml", "holds itself"]),
    ("run.toml", "a = no", ["run.toml is not valid TOML", "line 1", "text stands in quotes"]),
    ("run.toml", "llm = null", ["run.toml is not valid TOML", "null cannot be said"]),
    ("run.yaml", b"name: \xff", ["run.yaml' is not UTF-8 text", "byte 6); save it so"]),
    ("run.json", "{}", ["run.json' is neither YAML nor TOML; name a file that ends in .yaml, .yml or .toml"]),
    ("run", "{}", ["is neither YAML nor TOML"]),
]


@pytest.mark.parametrize(("name", "text", "told"), REFUSED)
def test_a_refusal_is_one_line_with_file_line_value_and_remedy(
    name: str, text: str | bytes, told: list[str], tmp_path: Path
) -> None:
    result = mimir("config", "show", "--config", written(tmp_path, text, name))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for words in told:
        assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere.yaml", "nowhere.toml", "s3://bucket/run.yaml", "nul\0.yaml"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read --config .*; name a YAML or TOML file on this machine"):
        load_recipe("shapes", None, [name])


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").mkdir()
    with pytest.raises(UserError, match=r"cannot read --config .* \(Is a directory\)"):
        load_recipe("shapes", None, [str(tmp_path / "run.yaml")])


VERBS = {
    "curate": ["curate", ".", "--out", "o"],
    "precompute": ["precompute", "--data", "."],
    "train": ["train", "--data", ".", "--out", "o"],
    "generate": ["generate", "a ball", "--out", "x.mp4"],
    "serve": ["serve"],
    "init": ["init", "--out", "nowhere"],
    "quickstart": ["quickstart"],
    "score": ["shapes", "score"],
    "pretrain": ["shapes", "pretrain", "--out", "nowhere"],
    "submit": ["submit", "train", "--", "--data", ".", "--out", "o"],
    "show": ["config", "show"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_with_a_recipe_reads_it(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = written(tmp_path, "trainig:\n  steps: 5\n")
    result = mimir(*VERBS[verb], "--config", path)
    assert result.exit_code == 2, result.output
    assert f"{path}:1: there is no field trainig" in result.stderr


def test_whoever_takes_assignments_takes_a_file() -> None:
    from typer.main import get_command

    from mimir_ray.cli import app

    def options(command: object) -> list[set[str]]:
        if inside := getattr(command, "commands", None):
            return [found for inner in inside.values() for found in options(inner)]
        return [{name for parameter in command.params for name in parameter.opts}]  # type: ignore[attr-defined]

    found = [names for names in options(get_command(app)) if "--set" in names]
    assert len(found) == len(VERBS) - 1
    assert all("--config" in names for names in found)
