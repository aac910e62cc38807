"""What Kubernetes and KubeRay make of the fields that our manifests use: names, types, and which must be there.

A dict is an object with these fields and no others, ``"*"`` any name; a list is a list of its one element; ``!`` marks a field that must be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

QUANTITIES = {"*": "quantity"}
"""CPUs, memory, devices: strings such as ``"500m"``, or whole numbers."""
RESOURCES = {"requests": QUANTITIES, "limits": QUANTITIES}
LABELS = {"*": "string"}
PORT_PROBE = {"tcpSocket": {"port!": "quantity"}, "periodSeconds": "integer", "failureThreshold": "integer"}
POD = {
    "automountServiceAccountToken": "boolean",
    "enableServiceLinks": "boolean",
    "terminationGracePeriodSeconds": "integer",
    "securityContext": {
        "fsGroup": "integer",
        "fsGroupChangePolicy": "string",
        "runAsNonRoot": "boolean",
        "runAsUser": "integer",
        "seccompProfile": {"type!": "string"},
    },
    "tolerations": [{"key": "string", "operator": "string", "effect": "string"}],
    "containers!": [
        {
            "name!": "string",
            "image": "string",
            "command": ["string"],
            "args": ["string"],
            "env": [{"name!": "string", "value": "string", "valueFrom": {"secretKeyRef": {"name": "string", "key!": "string"}}}],
            "ports": [{"name": "string", "containerPort!": "integer"}],
            "startupProbe": PORT_PROBE,
            "livenessProbe": PORT_PROBE,
            "readinessProbe": {"exec": {"command": ["string"]}, "periodSeconds": "integer", "timeoutSeconds": "integer"},
            "resources": RESOURCES,
            "securityContext": {"allowPrivilegeEscalation": "boolean", "capabilities": {"drop": ["string"]}},
            "volumeMounts": [{"name!": "string", "mountPath!": "string", "readOnly": "boolean"}],
        }
    ],
    "volumes": [
        {
            "name!": "string",
            "configMap": {"name": "string"},
            "emptyDir": {"medium": "string", "sizeLimit": "quantity"},
            "persistentVolumeClaim": {"claimName!": "string"},
            "secret": {"secretName": "string", "defaultMode": "integer"},
        }
    ],
}
CLUSTER = {
    "authOptions": {"mode": "string"},
    "autoscalerOptions": {"idleTimeoutSeconds": "integer", "resources": RESOURCES, "version": "string"},
    "enableInTreeAutoscaling": "boolean",
    "headGroupSpec!": {"rayStartParams": LABELS, "template!": {"spec": POD}},
    "rayVersion": "string",
    "workerGroupSpecs": [
        {
            "groupName!": "string",
            "maxReplicas!": "integer",
            "minReplicas!": "integer",
            "rayStartParams": LABELS,
            "replicas": "integer",
            "template!": {"spec": POD},
        }
    ],
}
JOB = {
    "backoffLimit": "integer",
    "entrypoint": "string",
    "rayClusterSpec": CLUSTER,
    "shutdownAfterJobFinishes": "boolean",
    "ttlSecondsAfterFinished": "integer",
}
_METADATA = {"name!": "string", "labels": LABELS}
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    ("ray.io/v1", "RayCluster"): {"metadata!": _METADATA, "spec!": CLUSTER},
    ("ray.io/v1", "RayJob"): {"metadata!": _METADATA, "spec!": JOB},
    ("v1", "ConfigMap"): {"metadata!": _METADATA, "data": LABELS},
    ("v1", "PersistentVolumeClaim"): {"metadata!": _METADATA, "spec!": {"accessModes": ["string"], "resources": RESOURCES}},
    ("v1", "Service"): {
        "metadata!": _METADATA,
        "spec!": {
            "selector": LABELS,
            "ports": [{"name": "string", "port!": "integer", "targetPort": "quantity", "appProtocol": "string"}],
        },
    },
    ("apps/v1", "Deployment"): {
        "metadata!": _METADATA,
        "spec!": {
            "replicas": "integer",
            "strategy": {"type": "string"},
            "selector!": {"matchLabels": LABELS},
            "template!": {"metadata": {"labels": LABELS}, "spec": POD},
        },
    },
}
"""What is known of each kind of object, by its ``apiVersion`` and ``kind``."""


def faults(value: Any, fact: Any, path: str) -> Iterator[str]:
    """Yields what is wrong with a value of a manifest, with the path to it."""
    match fact:
        case dict():
            if not isinstance(value, dict):
                yield f"{path} must be an object, got {value!r}"
                return
            known = {name.removesuffix("!"): inner for name, inner in fact.items()}
            for name, inner in value.items():
                if name in known or "*" in known:
                    yield from faults(inner, known.get(name, known.get("*")), f"{path}.{name}")
                else:
                    yield f"{path} has no field {name}"
            yield from (f"{path} needs {name[:-1]}" for name in fact if name.endswith("!") and name[:-1] not in value)
        case list():
            if not isinstance(value, list):
                yield f"{path} must be a list, got {value!r}"
                return
            for index, inner in enumerate(value):
                yield from faults(inner, fact[0], f"{path}[{index}]")
        case _:
            # A bool is an int to isinstance, and never one to Kubernetes.
            allowed = {"string": (str,), "integer": (int,), "boolean": (bool,), "quantity": (str, int)}[fact]
            if type(value) not in allowed:
                yield f"{path} must be of type {fact}, got {value!r}"


def differences(fact: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yields where a fact says another thing than a schema in the form of OpenAPI, as CRDs have it."""
    match fact:
        case {"*": inner}:
            yield from differences(inner, schema.get("additionalProperties", {}), f"{path}.*")
        case dict():
            properties, required = schema.get("properties", {}), set(schema.get("required", ()))
            for name, inner in fact.items():
                bare = name.removesuffix("!")
                if bare not in properties:
                    yield f"{path} has no field {bare}"
                    continue
                if name.endswith("!") != (bare in required):
                    yield f"{path}.{bare} is {'' if bare in required else 'not '}required"
                yield from differences(inner, properties[bare], f"{path}.{bare}")
            yield from (f"{path}.{name} is required, and not in the facts" for name in required if f"{name}!" not in fact)
        case list():
            yield from differences(fact[0], schema.get("items", {}), f"{path}[]")
        case _:
            found = "quantity" if schema.get("x-kubernetes-int-or-string") else schema.get("type")
            if found != fact:
                yield f"{path} is of type {found}, and not {fact}"
