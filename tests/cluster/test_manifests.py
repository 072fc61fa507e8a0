"""Manifests against the schemas of what reads them, and every name in them against our code."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mimir_ray.cli import app
from mimir_ray.cli.options import load_recipe
from mimir_ray.config import from_dict
from mimir_ray.serving.config import ServingConfig
from mimir_ray.shapes.weights import mimir_dir

ROOT = Path(__file__).parents[2]
CRDS = ROOT / ".." / "shared" / "data" / "kuberay-crds"
MANIFESTS = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason="KubeRay's resource definitions are not on this machine")


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def strict(schema: Any) -> Any:
    """The schema with every key that it does not name refused, as an API server warns of and then drops."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    return schema


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """Kind -> strict OpenAPI schema of ray.io/v1."""
    found = {}
    for path in CRDS.glob("*.yaml"):
        definition = load(path)["spec"]
        (version,) = (version for version in definition["versions"] if version["name"] == "v1")
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        found[definition["names"]["kind"]] = schema
    return found


def problems(manifest: Any, schema: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(manifest)]


@needs_crds
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_kuberay(path: Path, schemas: dict[str, Any]) -> None:
    manifest = load(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert not problems(manifest, schemas[manifest["kind"]])


@needs_crds
def test_an_unknown_key_and_a_wrong_type_are_found(schemas: dict[str, Any]) -> None:
    manifest = load(ROOT / "cluster" / "kuberay" / "raycluster.yaml")
    manifest["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = 7
    assert len(problems(manifest, schemas["RayCluster"])) == 2


def cluster_spec(manifest: Any) -> Any:
    spec = manifest["spec"]
    return spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_token_authentication_is_on_and_the_head_runs_no_work(path: Path) -> None:
    spec = cluster_spec(load(path))
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_requested_gpus_are_granted(path: Path) -> None:
    for group in cluster_spec(load(path))["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_ray_up_file_fits_rays_own_schema() -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = load(ROOT / "cluster" / "aws.yaml")
    assert not problems(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("RAY_AUTH_MODE=token ray start" in command for command in config[commands])


def test_versions_agree() -> None:
    pinned = re.search(r"^ray(?:\[.*\])?==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"ray:{pinned[1]}-py311" in (ROOT / "cluster" / "Dockerfile").read_text()
    for path in MANIFESTS:
        assert cluster_spec(load(path))["rayVersion"] == pinned[1]


def serve_configs() -> Iterator[tuple[str, Any]]:
    for path in sorted((ROOT / "serve").glob("*.yaml")):
        yield path.name, load(path)
    for path in MANIFESTS:
        manifest = load(path)
        if "serveConfigV2" in manifest["spec"]:
            yield path.name, yaml.safe_load(manifest["spec"]["serveConfigV2"])


SERVE_CONFIGS = dict(serve_configs())


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_serve_configurations_name_real_things(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = SERVE_CONFIGS[name]
    ServeDeploySchema.model_validate(config)
    for application in config["applications"]:
        module, _, attribute = application["import_path"].partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        from_dict(ServingConfig, application["args"], name)


@pytest.mark.parametrize("name", SERVE_CONFIGS)
def test_serve_overrides_fit_the_graph_and_the_worker_groups(name: str) -> None:
    graph = importlib.import_module("mimir_ray.serving.deployments")
    for application in SERVE_CONFIGS[name]["applications"]:
        for override in application.get("deployments", []):
            assert hasattr(graph, override["name"])
            assert {"num_cpus", "num_gpus"} <= override["ray_actor_options"].keys(), "options are replaced whole"
            manifest = load(ROOT / "cluster" / "kuberay" / name)
            groups = [group["labels"] for group in cluster_spec(manifest)["workerGroupSpecs"]]
            assert override["ray_actor_options"]["label_selector"] in groups


def test_the_local_configuration_stays_on_this_machine_and_is_the_shapes_recipe() -> None:
    config = SERVE_CONFIGS["local.yaml"]
    assert config["http_options"]["host"] == "127.0.0.1"
    (application,) = config["applications"]
    written = from_dict(ServingConfig, application["args"])
    located = written.model_copy(update={"checkpoint": str((ROOT / written.checkpoint).resolve())})
    assert located == load_recipe("shapes", None).endpoint(mimir_dir())


def test_the_job_runs_a_real_verb_with_options_it_has() -> None:
    from typer.main import get_command

    words = shlex.split(load(ROOT / "cluster" / "kuberay" / "train.yaml")["spec"]["entrypoint"])
    assert words[:2] == ["python", "-m"]
    importlib.import_module(words[2])
    command = get_command(app).commands[words[2].removeprefix("jobs.")]  # type: ignore[attr-defined]
    with command.make_context("mimir", words[3:]) as parsed:
        load_recipe(parsed.params["recipe"], parsed.params["assignments"])
