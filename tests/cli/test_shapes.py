"""`mimir shapes score` on the shipped model."""

from tests.cli.command import mimir


def test_scores_of_the_shipped_model() -> None:
    result = mimir("shapes", "score", "--prompts", "3", "--set", "generation.num_inference_steps=2", "-q")
    assert result.exit_code == 0, result.output
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if "│" in line]
    shares = {(row[0].strip(), row[1].strip()): int(row[3]) for row in rows}
    assert {name for name, _ in shares} == {"long", "seen", "held"}
    assert all(shares[name, "all"] == 3 for name in ("long", "seen", "held"))


def test_a_model_that_is_not_there() -> None:
    result = mimir("shapes", "score", "--model", "/nowhere")
    assert result.exit_code == 2
    assert "/nowhere" in result.stderr
