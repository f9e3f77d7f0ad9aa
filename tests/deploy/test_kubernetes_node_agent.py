"""The node agent's manifests are valid Kubernetes, and folders, groups, ports and limits agree with agent and probe."""

import copy
import json
import os
import re
import shutil
import subprocess
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from vtprof_agent.config import Config, merge
from vtprof_agent.loop import DRAIN_S
from vtprof_agent.sampling import JOIN_S
from vtprof_schemas import names

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
README = KUBERNETES.parent / "README.md"
TMPFILES = KUBERNETES.parent / "systemd" / "vtprof.tmpfiles.conf"
VERSIONS = ("1.25", "1.34")
MIB = 1 << 20
Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text("utf-8")))


@pytest.fixture(scope="module")
def node() -> dict[str, Document]:
    """The documents of the node agent by kind."""
    return {document["kind"]: document for document in documents("node-agent.yaml")}


@pytest.fixture(scope="module")
def pod(node: dict[str, Document]) -> Document:
    spec: Document = node["DaemonSet"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def settings(node: dict[str, Document]) -> Config:
    text = node["ConfigMap"]["data"]["agent.toml"]
    return merge({}, {}, tomllib.loads(text), "agent.toml").config


def mounts(container: Document) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def host_paths(pod: Document) -> dict[str, str]:
    return {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}


def variables(container: Document) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


# --- Kubernetes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_passes_the_strict_schemas(version: str) -> None:
    for document in documents("node-agent.yaml"):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found(node: dict[str, Document]) -> None:
    wrong = copy.deepcopy(node["DaemonSet"])
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def merged(base: Any, patch: Any) -> Any:
    """Merge as a strategic merge patch does here: objects by key, lists of named things by name, other lists replace."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {
            key: merged(base.get(key), patch[key]) if key in patch else base[key] for key in {**base, **patch}
        }
    if isinstance(base, list) and isinstance(patch, list) and isinstance(patch[0], dict):
        by = "mountPath" if "mountPath" in patch[0] else "name"
        known = {item[by]: item for item in base}
        return list({**known, **{item[by]: merged(known.get(item[by]), item) for item in patch}}.values())
    return patch


@pytest.fixture
def server() -> Document:
    """A server with a group, a variable and a PYTHONPATH of its own."""
    own = {"HF_HOME": "/models", "PYTHONPATH": "/app/lib"}
    container = {
        "name": "server",
        "image": "vllm/vllm-openai",
        "env": [{"name": name, "value": value} for name, value in own.items()],
    }
    labels = {"app": "vlm"}
    spec = {
        "securityContext": {"fsGroup": 3000, "supplementalGroups": [2000]},
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vlm-server"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_a_patched_server_passes_the_strict_schemas(server: Document, version: str) -> None:
    patched = merged(server, documents("server-patch.yaml")[0])
    kubernetes_validate.validate(patched, version, strict=True)
    (patched_container,) = patched["spec"]["template"]["spec"]["containers"]
    assert variables(patched_container)["HF_HOME"] == "/models"
    assert variables(patched_container)[names.ENV_ENABLE] == "1"


def by_name(value: Any) -> Any:
    """Return a value with its lists of named things in the order of their names; kubectl has one of its own."""
    if isinstance(value, dict):
        return {key: by_name(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted(map(by_name, value), key=partial(json.dumps, sort_keys=True))
    return value


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_merge_here_is_that_of_kubectl(server: Document, tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps(server))
    patch = KUBERNETES / "server-patch.yaml"
    command = ["kubectl", "patch", "--local", "--filename", "server.json", "--patch-file", str(patch)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": os.devnull}
    result = subprocess.run(
        [*command, "--output", "json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert by_name(json.loads(result.stdout)) == by_name(merged(server, documents("server-patch.yaml")[0]))


def test_whatever_the_patch_takes_from_a_server_is_said_where_it_is_taken(server: Document) -> None:
    patch = KUBERNETES / "server-patch.yaml"
    spec = merged(server, documents(patch.name)[0])["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"fsGroup": 3000, "supplementalGroups": [10001]}
    assert variables(spec["containers"][0])["PYTHONPATH"] == "/vtprof/probe"
    lines = patch.read_text("utf-8").splitlines()
    for taken in ("supplementalGroups:", "PYTHONPATH"):
        (at,) = [number for number, line in enumerate(lines) if taken in line.partition("#")[0]]
        assert "replaced" in lines[at - 1] + lines[at], taken


def test_a_server_keeps_its_own_groups_and_path_the_way_that_the_readme_tells(server: Document) -> None:
    readme = README.read_text("utf-8")
    (groups,) = re.findall(r"`supplementalGroups: (\[.*?\])`", readme)
    (path,) = re.findall(r"`value: (/vtprof/probe\S+)`", readme)
    patch = (KUBERNETES / "server-patch.yaml").read_text("utf-8")
    assert patch.count("supplementalGroups: [10001]") == patch.count("value: /vtprof/probe}") == 1
    patch = patch.replace("supplementalGroups: [10001]", f"supplementalGroups: {groups}")
    patch = patch.replace("value: /vtprof/probe}", f"value: {path}}}")
    spec = merged(server, yaml.safe_load(patch))["spec"]["template"]["spec"]
    assert spec["securityContext"]["supplementalGroups"] == [10001, 2000]
    assert variables(spec["containers"][0])["PYTHONPATH"] == "/vtprof/probe:/app/lib"


# --- Agent and servers --------------------------------------------------------------------------------------


def test_agent_and_servers_meet_in_the_same_folders_of_the_node(pod: Document, settings: Config) -> None:
    server_pod = documents("server-patch.yaml")[0]["spec"]["template"]["spec"]
    (server,), (agent,) = server_pod["containers"], pod["containers"]
    ours, theirs = host_paths(pod), host_paths(server_pod)
    assert (theirs["vtprof-ring"], theirs["vtprof-probe"]) == (ours["ring"], ours["probe"])
    assert mounts(agent)["ring"] == str(settings.ring_dir)
    environment = variables(server)
    assert environment[names.ENV_RING_DIR] == mounts(server)["vtprof-ring"]
    assert environment["PYTHONPATH"] == mounts(server)["vtprof-probe"]
    staging = pod["initContainers"][1]
    assert staging["args"] == ["stage", mounts(staging)["probe"]]
    group = environment[names.ENV_RING_GROUP]
    assert group == variables(agent)[names.ENV_RING_GROUP]
    for one in (pod, server_pod):
        assert one["securityContext"]["supplementalGroups"] == [int(group)]
    # In memory: a ring on a disk would be written back to it all the time.
    assert Path(ours["ring"]).is_relative_to("/dev/shm")


def test_a_server_never_waits_for_the_agent_to_make_a_folder() -> None:
    """The kubelet keeps a pod in ContainerCreating while a folder of type Directory is not there."""
    spec = documents("server-patch.yaml")[0]["spec"]["template"]["spec"]
    assert {volume["hostPath"]["type"] for volume in spec["volumes"]} == {"DirectoryOrCreate"}


def test_the_line_that_makes_the_ring_folder_at_boot_is_that_of_the_agent(pod: Document) -> None:
    (line,) = re.findall(r"`(d /dev/shm/\S+ .*?)`", README.read_text("utf-8"))
    kind, folder, mode, owner, group, age = line.split()
    service = TMPFILES.read_text("utf-8").splitlines()[-1].split()
    assert [kind, folder, mode, age] == [service[0], service[1], service[2], service[5]]
    assert folder == host_paths(pod)["ring"]
    context = pod["containers"][0]["securityContext"]
    assert (int(owner), int(group)) == (context["runAsUser"], context["runAsGroup"])
    assert f"chmod {mode} {mounts(pod['containers'][0])['ring']}\n" in pod["initContainers"][0]["args"][0]


def test_what_brings_a_changed_setting_to_the_agents_is_said(node: dict[str, Document]) -> None:
    """Nothing in the pod's template changes with the ConfigMap, and a file of a subPath stays as it was."""
    metadata = node["DaemonSet"]["metadata"]
    command = f"kubectl -n {metadata['namespace']} rollout restart daemonset/{metadata['name']}"
    assert command in README.read_text("utf-8")
    before_settings = (KUBERNETES / "node-agent.yaml").read_text("utf-8").partition("agent.toml: |")[0]
    assert command in before_settings


def test_whatever_the_agent_writes_outlives_its_pod(pod: Document, settings: Config) -> None:
    state = mounts(pod["containers"][0])["state"]
    assert "state" in host_paths(pod)
    for folder in (settings.out_dir, settings.spool_dir):
        assert folder is not None
        assert folder.is_relative_to(state)


def test_dead_servers_are_seen_and_what_cpu_the_others_take(pod: Document, settings: Config) -> None:
    """A ring tells the PID that its writer has in its own container; from the node's namespace it is found."""
    assert pod["hostPID"] is True
    assert "host" in settings.samplers


def test_two_agents_never_share_a_ring_folder(node: dict[str, Document]) -> None:
    assert node["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_page_is_guarded_and_probed_where_it_listens(pod: Document, settings: Config) -> None:
    (agent,) = pod["containers"]
    assert settings.insecure_listen is False
    secret = mounts(agent)["metrics"]
    for file in (settings.tls_cert_file, settings.tls_key_file, settings.token_file):
        assert file is not None
        assert file.is_relative_to(secret)
    assert settings.metrics is not None
    (port,) = agent["ports"]
    assert settings.metrics.endswith(f":{port['containerPort']}")
    assert agent["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"], "scheme": "HTTPS"}


def test_the_pod_monitor_finds_the_agents_and_their_secret(node: dict[str, Document], pod: Document) -> None:
    (monitor,) = documents("podmonitor.yaml")
    labels = node["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["metadata"]["namespace"] == node["DaemonSet"]["metadata"]["namespace"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (agent,) = pod["containers"]
    assert endpoint["port"] == agent["ports"][0]["name"]
    assert endpoint["scheme"] == agent["livenessProbe"]["httpGet"]["scheme"].lower()
    (secret,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    assert {
        endpoint["authorization"]["credentials"]["name"],
        endpoint["tlsConfig"]["ca"]["secret"]["name"],
    } == {secret}


# --- Privileges and limits ----------------------------------------------------------------------------------


def test_the_agent_has_no_privilege_and_claims_no_gpu(pod: Document) -> None:
    (agent,) = pod["containers"]
    for container in (agent, pod["initContainers"][1]):
        context = container["securityContext"]
        assert context["runAsNonRoot"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["initContainers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert not any("nvidia.com/gpu" in limits for limits in agent["resources"].values())
    assert variables(agent)["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_limits_stand_above_the_budget_that_sheds_detail(pod: Document, settings: Config) -> None:
    resources = pod["containers"][0]["resources"]
    assert int(resources["limits"]["memory"].removesuffix("Mi")) * MIB >= 1.5 * settings.budget_rss_bytes
    assert int(resources["requests"]["memory"].removesuffix("Mi")) * MIB >= settings.budget_rss_bytes
    assert float(resources["limits"]["cpu"]) >= 3 * settings.budget_cpu_ratio
    assert int(resources["requests"]["cpu"].removesuffix("m")) / 1000 == settings.budget_cpu_ratio


def test_a_stop_has_the_time_that_the_agent_takes_at_most(pod: Document, settings: Config) -> None:
    assert pod["terminationGracePeriodSeconds"] >= DRAIN_S + settings.stop_s + JOIN_S + 10


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv (util-linux)"
)
def test_the_folders_are_prepared_with_the_one_capability_given_also_a_second_time(
    pod: Document, tmp_path: Path
) -> None:
    folders = pod["initContainers"][0]
    script = folders["args"][0]
    for name, inside in mounts(folders).items():
        (tmp_path / name).mkdir()
        script = script.replace(inside, str(tmp_path / name))
    given = [
        "--bounding-set=-all,+chown",
        "--inh-caps=-all",
        "--no-new-privs",
        "--regid=10001",
        "--clear-groups",
    ]
    for _ in range(2):
        result = subprocess.run(
            ["setpriv", *given, *folders["command"], script], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")
        modes = {name: (tmp_path / name).stat() for name in ("ring", "probe", "state")}
        assert {name: oct(status.st_mode & 0o7777) for name, status in modes.items()} == {
            "ring": "0o3770", "probe": "0o755", "state": "0o700",
        }  # fmt: skip
        assert {(status.st_uid, status.st_gid) for status in modes.values()} == {(10001, 10001)}
