"""The sidecar manifest is valid Kubernetes and agrees with the variables of the probe."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from vtprof_schemas import names

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "sidecar.yaml"


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = documents[0]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", ["1.25", "1.34"])
def test_manifest_passes_the_strict_schemas(documents: list[dict[str, Any]], version: str) -> None:
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found(documents: list[dict[str, Any]]) -> None:
    pod(documents)["containers"][0]["volumeMountz"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[0], "1.34", strict=True)
    del pod(documents)["containers"][0]["volumeMountz"]


def test_our_containers_run_without_privileges(documents: list[dict[str, Any]]) -> None:
    ours = [*pod(documents)["initContainers"], pod(documents)["containers"][1]]
    for container in ours:
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_server_and_agent_meet_in_the_same_ring_directory(documents: list[dict[str, Any]]) -> None:
    server, agent = pod(documents)["containers"]
    environment = {entry["name"]: entry["value"] for entry in server["env"]}
    arguments = agent["args"]
    ring_dir = arguments[arguments.index("--ring-dir") + 1]
    assert environment[names.ENV_RING_DIR] == ring_dir
    assert environment[names.ENV_ENABLE] == "1"
    assert environment[names.ENV_RING_GROUP] == str(pod(documents)["securityContext"]["fsGroup"])
    # Whichever starts first makes the folder, and both have to be able to use it.
    assert {"name": names.ENV_RING_GROUP, "value": environment[names.ENV_RING_GROUP]} in agent["env"]
    for container in (server, agent):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert ring_dir.startswith(mounts["ring"] + "/")
    staged = pod(documents)["initContainers"][0]["args"][1]
    assert environment["PYTHONPATH"] == staged
