"""`mimir doctor`: what works on this machine, and what to do about what does not."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.text import Text

from mimir_ray.cli import checks
from mimir_ray.cli.checks import Finding
from mimir_ray.cli.verb import FAILED, register
from mimir_ray.console import results, status

MARKS = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "failure": ("failure", "red")}

CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    checks.python,
    checks.disk,
    checks.compiler,
    checks.libraries,
    checks.gpus,
    checks.deepspeed,
    checks.decoders,
    checks.round_trip,
    checks.shipped_weights,
    checks.bases,
    checks.ray_token,
    checks.ray_starts,
)


def add_to(app: typer.Typer) -> None:
    """Register the verb of this module."""
    register(app, "doctor", examples=["mimir doctor", "mimir doctor --json"])(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False) -> None:
    """Check versions, GPUs, Ray, DeepSpeed, codecs, compiler, disk and the shipped weights.

    Ends with 1 if something that mimir_ray cannot do without is broken.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        with status.status(f"checking {check.__name__.replace('_', ' ')}"):
            found = list(_guarded(check))
        findings += found
        if not as_json:
            for finding in found:
                _show(finding)
    if as_json:
        results.print(json.dumps([finding.model_dump() for finding in findings], indent=2), markup=False)
    if any(finding.level == "failure" for finding in findings):
        raise typer.Exit(FAILED)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The check's findings; a check that breaks is itself a finding, so that the others are still made."""
    try:
        yield from check()
    except Exception as error:
        subject = check.__name__.replace("_", " ")
        yield Finding(
            subject=subject,
            level="failure",
            detail=f"{type(error).__name__}: {error}",
            remedy="reinstall the pinned versions: pip install -c constraints.txt mimir-ray",
        )


def _show(finding: Finding) -> None:
    mark, colour = MARKS[finding.level]
    results.print(Text(mark, style=colour) + Text(f"  {finding.subject:<11} {finding.detail}"))
    if finding.remedy:
        results.print(Text(f"{'':9}{'':<12}-> {finding.remedy}", style="bold"))
