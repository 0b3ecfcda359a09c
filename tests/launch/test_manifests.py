"""The manifests against the fields of JobSet v1alpha2 and of the batch/v1 Job inside it."""

from __future__ import annotations

import re
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from simjax.cli.main import parse

LAUNCH = Path(__file__).parents[2] / "launch"
MANIFESTS = ("jobset_tpu.yaml", "jobset_gpu.yaml")

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
KEY = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def label(value: Any) -> bool:
    return isinstance(value, str) and bool(LABEL.fullmatch(value)) and len(value) <= 63


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def whole(least: int, most: int = 2**31 - 1):
    return lambda value: type(value) is int and least <= value <= most


def one_of(*allowed: Any):
    return lambda value: value in allowed


def texts(value: Any) -> bool:
    return isinstance(value, dict) and all(KEY.fullmatch(k) and text(v) for k, v in value.items())


def quantities(value: Any) -> bool:
    return isinstance(value, dict) and all(
        KEY.fullmatch(k) and re.fullmatch(r"\d+(\.\d+)?([KMGT]i?|m)?", str(v))
        for k, v in value.items()
    )


class Of:
    """An object: fields that it must have, and fields that it may have."""

    def __init__(self, must: dict[str, Any], may: dict[str, Any] | None = None) -> None:
        self.must, self.all = must, must | (may or {})


class Each:
    """A list of at least one item, whose names differ if they have names."""

    def __init__(self, item: Any) -> None:
        self.item = item


# Only what the manifests use or are likely to: another field is asked about, not let through.
# Sources: api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset; the Kubernetes API
# reference of batch/v1 Job and core/v1 PodTemplateSpec.
METADATA = Of({"name": label}, {"annotations": texts, "labels": texts, "namespace": label})
RULE = Of(
    {"name": lambda v: bool(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", v))}
    | {"action": one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")},
    {
        "onJobFailureReasons": Each(
            one_of(
                *("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes"),
                *("MaxFailedIndexesExceeded", "PodFailurePolicy"),
            )
        ),
        "targetReplicatedJobs": Each(label),
    },
)
EXIT_CODES = Of(
    {"operator": one_of("In", "NotIn"), "values": Each(whole(1, 255))}, {"containerName": label}
)
CONTAINER = Of(
    {"name": label, "image": text},
    {
        "command": Each(text),
        "args": Each(text),
        "env": Each(Of({"name": text}, {"value": text})),
        "ports": Each(Of({"containerPort": whole(1, 65535)}, {"name": label})),
        "resources": Of({}, {"limits": quantities, "requests": quantities}),
        "volumeMounts": Each(Of({"name": label, "mountPath": text})),
    },
)
VOLUME = Of(
    {"name": label},
    {
        "persistentVolumeClaim": Of({"claimName": label}),
        "emptyDir": Of({}, {"medium": one_of("", "Memory"), "sizeLimit": text}),
    },
)
POD = Of(
    {"restartPolicy": one_of("Never", "OnFailure"), "containers": Each(CONTAINER)},
    {
        "nodeSelector": texts,
        "terminationGracePeriodSeconds": whole(0),
        "volumes": Each(VOLUME),
        "subdomain": label,
    },
)
JOB = Of(
    {"template": Of({"spec": POD}, {"metadata": Of({}, {"labels": texts, "annotations": texts})})},
    {
        "parallelism": whole(0),
        "completions": whole(0),
        "completionMode": one_of("Indexed", "NonIndexed"),
        "backoffLimit": whole(0),
        "podFailurePolicy": Of(
            {
                "rules": Each(
                    Of(
                        {"action": one_of("FailJob", "Ignore", "Count")},
                        {"onExitCodes": EXIT_CODES},
                    )
                )
            }
        ),
    },
)
JOBSET = Of(
    {
        "apiVersion": one_of("jobset.x-k8s.io/v1alpha2"),
        "kind": one_of("JobSet"),
        "metadata": METADATA,
        "spec": Of(
            {
                "replicatedJobs": Each(
                    Of({"name": label, "template": Of({"spec": JOB})}, {"replicas": whole(0)})
                )
            },
            {
                "failurePolicy": Of({}, {"maxRestarts": whole(0), "rules": Each(RULE)}),
                "network": Of(
                    {},
                    {
                        "enableDNSHostnames": one_of(True, False),
                        "subdomain": label,
                        "publishNotReadyAddresses": one_of(True, False),
                    },
                ),
                "suspend": one_of(True, False),
                "ttlSecondsAfterFinished": whole(0),
            },
        ),
    }
)


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
    if isinstance(schema, Of):
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        found = [f"{where}.{name}: missing" for name in schema.must if name not in value]
        found += [f"{where}.{name}: no such field" for name in value if name not in schema.all]
        for name in schema.all.keys() & value.keys():
            found += faults(value[name], schema.all[name], f"{where}.{name}")
        return found
    if isinstance(schema, Each):
        if not isinstance(value, list) or not value:
            return [f"{where}: no list of items"]
        names = [item["name"] for item in value if isinstance(item, dict) and "name" in item]
        found = [f"{where}: names repeat"] if len(set(names)) < len(names) else []
        for index, item in enumerate(value):
            found += faults(item, schema.item, f"{where}[{index}]")
        return found
    return [] if schema(value) else [f"{where}: {value!r}"]


PARAMETERS = {
    "NAME": "nli",
    "IMAGE": "registry.example/simjax:1",
    "CLAIM": "shared",
    "HOSTS": "4",
    "MAX_RESTARTS": "20",
    "ARGS": "configs/nli_small.yaml --data.root /shared/data --output /shared/runs/nli",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "CHIPS": "4",
    "GPUS": "8",
}


def manifest(name: str, **changes: str) -> dict[str, Any]:
    """As envsubst makes it, which knows neither defaults nor escapes."""
    source, given = (LAUNCH / name).read_text(encoding="utf-8"), PARAMETERS | changes
    return yaml.safe_load(re.sub(r"\$\{?([A-Z_]+)\}?", lambda m: given[m[1]], source))


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_is_one_that_kubernetes_has(name):
    assert faults(manifest(name), JOBSET) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_check_sees_faults(name):
    wrong = manifest(name)
    job = wrong["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["completionmode"] = job.pop("completionMode")
    job["template"]["spec"]["restartPolicy"] = "Always"
    del job["template"]["spec"]["containers"][0]["image"]
    found = "\n".join(faults(wrong, JOBSET))
    assert "spec.completionmode: no such field" in found
    assert "restartPolicy: 'Always'" in found and "image: missing" in found


@pytest.mark.parametrize("name", MANIFESTS)
def test_parts_refer_to_each_other(name):
    spec = manifest(name)["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    # An indexed job has as many pods as indices, which all run at once; none is replaced alone.
    assert job["parallelism"] == job["completions"] == 4 and job["completionMode"] == "Indexed"
    assert replicated["replicas"] == 1 and job["backoffLimit"] == 0
    # A pod failure policy is allowed with this alone.
    assert pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert spec["failurePolicy"]["maxRestarts"] == 20
    assert pod["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_command_is_one_that_simjax_takes(name):
    spec = manifest(name)["spec"]
    (container,) = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    words = shlex.split(script.replace("$(JOB_COMPLETION_INDEX)", "3"))
    # A shell in between would keep signals from simjax.
    assert words[:3] == ["exec", "simjax", "train"]
    args = parse(words[2:])
    assert args.stopped_status == 75 and str(args.config) == "configs/nli_small.yaml"
    assert args.rest == ["--data.root=/shared/data", "--output=/shared/runs/nli"]
    if name == "jobset_tpu.yaml":
        assert args.distributed == "yes" and args.coordinator is None
        return
    host, _, port = args.coordinator.rpartition(":")
    # JobSet, replicated job, its index, the pod's index; then the subdomain.
    assert host == "nli-train-0-0.nli" == f"nli-train-0-0.{spec['network']['subdomain']}"
    assert {"containerPort": int(port)} in container["ports"]
    assert (args.num_processes, args.process_id) == (4, 3)


@pytest.mark.parametrize("name", MANIFESTS)
def test_arguments_may_hold_what_means_something_in_yaml(name):
    arguments = "x.yaml --data.sources '[{path: a.csv, weight: 1}]' --train.freeze [a,b]"
    spec = manifest(name, ARGS=arguments)["spec"]
    (container,) = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    assert script.startswith(f"exec simjax train {arguments} --stopped_status 75 --")


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_parameter_is_explained_and_used(name):
    source = (LAUNCH / name).read_text(encoding="utf-8")
    head = "".join(line for line in source.splitlines(True) if line.startswith("#"))
    body = source.removeprefix(head)
    used = {m[1] for m in re.finditer(r"\$\{([A-Z_]+)\}", body)}
    assert set(string.Template(body).get_identifiers()) == used
    for parameter in used:
        assert re.search(rf"#   .*\b{parameter}\b.*  +\S", head), parameter
        assert f"{parameter}=" in head, parameter
