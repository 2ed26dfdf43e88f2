"""A fleet as what Kubernetes or KServe is given: YAML with the engine's own launch line.

::

    FleetOption ──fleet_of──▶ Fleet ──deployment_manifest──▶ Deployment + Service
                                    ──kserve_manifest──────▶ InferenceService (v1beta1)

What kvsim found stands in annotations, since values of labels hold no free text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, UnsupportedError, printable
from kvsim.search.containers import HEALTH_PATH, image_of, server_of
from kvsim.search.fleet_option import FleetOption
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.yaml_files import dump_yaml
from kvsim.units import digits

__all__ = ["Fleet", "deployment_manifest", "dns_label", "fleet_of", "kserve_manifest"]

# KServe makes host names of "NAME-predictor-NAMESPACE", which are 63 characters at most.
_LONGEST_NAME = 40
_SECRET = "hf-token-secret"
_MODELS = "/models"

# Vendor: the resource of its device plugin, the label with a product's name, what stands there
# for a space (NVIDIA's gpu-feature-discovery; AMD's node labeller).
_VENDORS = {
    "NVIDIA": ("nvidia.com/gpu", "nvidia.com/gpu.product", "-"),
    "AMD": ("amd.com/gpu", "amd.com/gpu.product-name", "_"),
}


@dataclass(frozen=True)
class Fleet:
    """Equal replicas of one model, a pod each.

    Parameters
    ----------
    name : str
        A DNS label: what the objects are called.
    model : str
        What is served.
    image : str
        Container image.
    command, args : tuple of str
        The launch line: its program, and what that is given.
    port : int
        Where the engine listens.
    gpu_resource : str
        What a device plugin calls a device: "nvidia.com/gpu".
    devices : int
        Devices of a pod.
    replicas : int
        Pods.
    environment : mapping of str to str
        Variables of the engine.
    node_labels : mapping of str to str
        What a node must be labelled with.
    downloads : bool
        Whether the engine fetches the model from the hub; else a volume claim holds it.
    found : mapping of str to str
        What kvsim found, by names without a space.
    remarks : tuple of str
        What the reader must know, one line each.
    """

    name: str
    model: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    port: int
    gpu_resource: str
    devices: int
    replicas: int
    environment: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    downloads: bool = True
    found: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def claim(self) -> str:
        """Name of the volume claim that holds the model, where the engine does not fetch it."""
        return f"{self.name}-models"


def fleet_of(
    option: FleetOption,
    engine: str = "vllm",
    version: str = "",
    *,
    image: str = "",
    currency: str = "USD",
) -> Fleet:
    """Make the fleet of an answer to a demand.

    Parameters
    ----------
    option : FleetOption
        The answer.
    engine, version : str
        The engine and its release that the answer was found with: `scenario.engine`'s `name`
        and `version`.
    image : str
        Container image, in place of the engine's own of that release.
    currency : str
        Of the option's price.

    Raises
    ------
    InputError
        For an option that is no answer.
    UnsupportedError
        For what no launch line says, a replica that takes more devices than a node has, a vendor
        or an engine that no pod is known for, or a release without a known image.
    """
    if option.replicas is None or not option.command:
        why = f": {option.problem}" if option.problem else ""
        raise InputError(f"{option.accelerator} carries nothing{why}", fix="choose another option")
    profile = find_accelerator(option.profile or option.accelerator)
    server = server_of(engine)
    if profile.vendor not in _VENDORS:
        known = " and ".join(_VENDORS)
        raise UnsupportedError(f"no pods with {profile.name} are known: only with {known} devices")
    _refuse_many_nodes(option, profile)
    if option.unsaid:
        raise UnsupportedError(f"no flag of {engine} says {', '.join(option.unsaid)}")
    line = server.split(option.command)
    fleet = Fleet(
        name=dns_label(line.model.rpartition("/")[2]),
        model=line.model,
        image=image or image_of(engine, version, profile),
        command=line.command,
        args=line.args,
        port=server.port,
        gpu_resource=_VENDORS[profile.vendor][0],
        devices=option.devices_per_replica,
        replicas=option.replicas,
        environment=line.environment,
        node_labels=_node_labels(profile),
        downloads=server.downloads,
        found=_found(option, line.model, currency),
    )
    return _remarked(fleet, profile)


def deployment_manifest(fleet: Fleet) -> str:
    """Return a Deployment and its Service as YAML of two documents.

    A replacement takes the devices of what it replaces: a fleet has none to spare.
    """
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(fleet),
        "spec": {
            "replicas": fleet.replicas,
            "selector": {"matchLabels": _labels(fleet)},
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": _labels(fleet)}, "spec": _pod(fleet, fleet.name)},
        },
    }
    port = {"name": "http", "port": fleet.port, "targetPort": "http"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": fleet.name, "labels": _labels(fleet)},
        "spec": {"selector": _labels(fleet), "ports": [port]},
    }
    return f"{_remarks(fleet)}{_yaml(deployment)}---\n{_yaml(service)}"


def kserve_manifest(fleet: Fleet) -> str:
    """Return an InferenceService (v1beta1) as YAML: as many replicas always, without Knative."""
    metadata = _metadata(fleet)
    metadata["annotations"]["serving.kserve.io/deploymentMode"] = "RawDeployment"
    replicas = {"minReplicas": fleet.replicas, "maxReplicas": fleet.replicas}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": replicas | _pod(fleet, "kserve-container")},
    }
    return _remarks(fleet) + _yaml(service)


def dns_label(text: str) -> str:
    """Return a name that Kubernetes takes for every object: RFC 1035, so a letter comes first.

    A long one is cut, and ends in what tells it from others that begin alike.

    Examples
    --------
    >>> dns_label("Llama-3.1-8B_Instruct"), dns_label("01-ai.Yi"), dns_label("模型")
    ('llama-3-1-8b-instruct', 'model-01-ai-yi', 'model')
    """
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}".rstrip("-")
    if len(label) <= _LONGEST_NAME:
        return label
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:6]
    return f"{label[: _LONGEST_NAME - 7].rstrip('-')}-{digest}"


def _refuse_many_nodes(option: FleetOption, profile: AcceleratorProfile) -> None:
    """Refuse a replica that one pod cannot hold: a pod runs on one node."""
    needed, there = option.devices_per_replica, profile.node_devices
    if needed <= there:
        return
    degrees = {"TP": option.tensor_parallel_size, "PP": option.stages, "DP": option.ranks}
    said = ", ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1)
    raise UnsupportedError(
        f"a replica takes {needed} {profile.name} ({said}) and a node has {there} at most"
        f" (node_devices of its profile): its pods need a LeaderWorkerSet and a launcher over"
        f" nodes such as Ray; choose {there} devices a replica or fewer"
    )


def _node_labels(profile: AcceleratorProfile) -> dict[str, str]:
    _, label, space = _VENDORS[profile.vendor]
    return {label: profile.product_name.replace(" ", space)} if profile.product_name else {}


def _found(option: FleetOption, model: str, currency: str) -> dict[str, str]:
    """What the answer says of itself, in words."""
    found = {
        "model": model,
        "accelerator": option.accelerator,
        "demand": f"{option.demand:g} {option.unit}",
        "devices": f"{option.devices}",
    }
    if option.highest_rate is not None:
        found["highest-rate-per-replica"] = f"{digits(option.highest_rate)} {option.unit}"
    if option.headroom is not None:
        found["headroom"] = f"{option.headroom_percent}%"
    if option.cost_per_hour is not None:
        said = " to ".join(dict.fromkeys(f"{cost:.2f}" for cost in option.cost_per_hour))
        found["cost-per-hour"] = f"{said} {currency}"
    return found


def _remarked(fleet: Fleet, profile: AcceleratorProfile) -> Fleet:
    """Say what the manifest leaves to its reader."""
    remarks = []
    if not fleet.node_labels:
        remarks.append(
            f"No node label of {profile.name} is known: add a nodeSelector where the cluster has"
            f" other {fleet.gpu_resource} too."
        )
    if fleet.downloads:
        remarks.append(
            f"A gated model needs a token: kubectl create secret generic {_SECRET}"
            " --from-literal=token=hf_..."
        )
    else:
        remarks.append(
            f"The volume claim {fleet.claim} must hold {fleet.model}.gguf, readable from all nodes."
        )
    return replace(fleet, remarks=tuple(remarks))


def _labels(fleet: Fleet) -> dict[str, str]:
    return {"app.kubernetes.io/name": fleet.name}


def _metadata(fleet: Fleet) -> dict[str, Any]:
    annotations = {f"kvsim/{name}": text for name, text in fleet.found.items()}
    return {"name": fleet.name, "labels": _labels(fleet), "annotations": annotations}


def _pod(fleet: Fleet, container: str) -> dict[str, Any]:
    """The pod's spec: one container with its devices, on a node that has them."""
    mounts, volumes = _volumes(fleet)
    # else a Service "vllm" would set VLLM_PORT, which the engine takes for its own
    pod: dict[str, Any] = {"enableServiceLinks": False}
    if fleet.node_labels:
        pod["nodeSelector"] = dict(fleet.node_labels)
    # clouds taint nodes with devices by their resource, so that nothing else fills them
    pod["tolerations"] = [
        {"key": fleet.gpu_resource, "operator": "Exists", "effect": "NoSchedule"},
    ]
    pod["containers"] = [_container(fleet, container) | mounts]
    return pod | volumes


def _container(fleet: Fleet, name: str) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [
        {"name": variable, "value": _literal(text)} for variable, text in fleet.environment.items()
    ]
    if fleet.downloads:
        token = {"secretKeyRef": {"name": _SECRET, "key": "token", "optional": True}}
        environment.append({"name": "HF_TOKEN", "valueFrom": token})
    place = {} if fleet.downloads else {"workingDir": _MODELS}
    return {
        "name": name,
        "image": fleet.image,
        "command": [_literal(word) for word in fleet.command],
        "args": [_literal(word) for word in fleet.args],
        **place,
        **({"env": environment} if environment else {}),
        "ports": [{"name": "http", "containerPort": fleet.port}],
        "resources": {
            "requests": {fleet.gpu_resource: fleet.devices},
            "limits": {fleet.gpu_resource: fleet.devices},
        },
        # SGLang needs a second to answer, which is the default of a probe
        "readinessProbe": {
            "httpGet": {"path": HEALTH_PATH, "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
    }


def _volumes(fleet: Fleet) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is mounted, and what that is: NCCL's shared memory, and models that are files."""
    volumes, mounts = [], []
    if fleet.devices > 1:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if not fleet.downloads:
        claim = {"claimName": fleet.claim, "readOnly": True}
        volumes.append({"name": "models", "persistentVolumeClaim": claim})
        mounts.append({"name": "models", "mountPath": _MODELS})
    return ({"volumeMounts": mounts}, {"volumes": volumes}) if volumes else ({}, {})


def _literal(word: str) -> str:
    """Keep Kubernetes from expanding ``$(NAME)`` in a word of a container."""
    return word.replace("$", "$$")


def _remarks(fleet: Fleet) -> str:
    return "".join(f"# {printable(remark)}\n" for remark in fleet.remarks)


def _yaml(content: dict[str, Any]) -> str:
    return dump_yaml(content, width=math.inf)
