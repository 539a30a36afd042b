"""Reading metrics: of resources, and custom and external ones where the cluster serves them."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from underway.api import quantity, selectors
from underway.api.objects import Object
from underway.base.clock import parse_rfc3339
from underway.base.errors import UnderwayError
from underway.capabilities.workloads.controller.inventory import resource_of
from underway.capabilities.workloads.rules.demand import Measured, Unmeasured
from underway.reconcile import Manager

_RESOURCE = "/apis/metrics.k8s.io/v1beta1"
_CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2"
_EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
_WINDOW = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>[\d.]+)s)?")


class Measures:
    """Asks the metrics APIs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client

    async def resource(
        self, namespace: str, selector: str, resource: str, container: str = ""
    ) -> dict[str, Measured]:
        """What pods use of a resource, by pod: all their containers together, or one of them.

        Raises:
            Unmeasured: the API gives no metrics.
        """
        path = f"{_RESOURCE}/namespaces/{namespace}/pods"
        answer = await self._get(path, "FailedGetResourceMetric", labelSelector=selector)
        found = {}
        for item in answer.get("items") or ():
            used = [
                (each.get("usage") or {}).get(resource)
                for each in item.get("containers") or ()
                if container in ("", each.get("name"))
            ]
            if not used or any(amount is None for amount in used):
                continue
            milli = sum(_milli(amount) for amount in used)
            at = parse_rfc3339(item["timestamp"])
            found[item["metadata"]["name"]] = Measured(milli, at, _seconds(item.get("window")))
        if not found:
            text = "unable to get metrics for resource {}: no metrics returned from resource "
            raise Unmeasured("FailedGetResourceMetric", text.format(resource) + "metrics API")
        return found

    async def pods(self, namespace: str, selector: str, metric: Object) -> dict[str, Measured]:
        """A custom metric of pods, by pod.

        Raises:
            Unmeasured: the API gives no metrics.
        """
        path = f"{_CUSTOM}/namespaces/{namespace}/pods/*/{quote(metric['name'])}"
        answer = await self._get(
            path,
            "FailedGetPodsMetric",
            labelSelector=selector,
            metricLabelSelector=_selector(metric),
        )
        found = {}
        for item in answer.get("items") or ():
            at = parse_rfc3339(item["timestamp"])
            found[item["describedObject"]["name"]] = Measured(_milli(item["value"]), at)
        if not found:
            raise Unmeasured("FailedGetPodsMetric", "no metrics returned from custom metrics API")
        return found

    async def object(self, namespace: str, described: Object, metric: Object) -> int:
        """A custom metric of one object, in thousandths.

        Raises:
            Unmeasured: the API gives none, or there is no such kind.
        """
        reason = "FailedGetObjectMetric"
        resource = await resource_of(self._manager, described["apiVersion"], described["kind"])
        if resource is None:
            raise Unmeasured(reason, f"no resource is of kind {described['kind']}")
        where = f"namespaces/{namespace}/" if resource.namespaced else ""
        path = (
            f"{_CUSTOM}/{where}{resource.group_resource}/{quote(described['name'])}"
            f"/{quote(metric['name'])}"
        )
        answer = await self._get(path, reason, metricLabelSelector=_selector(metric))
        items = answer.get("items") or []
        if len(items) != 1:
            raise Unmeasured(reason, f"the custom metrics API returned {len(items)} values, not 1")
        return _milli(items[0]["value"])

    async def external(self, namespace: str, metric: Object) -> int:
        """The sum of an external metric's series, in thousandths.

        Raises:
            Unmeasured: the API gives none.
        """
        path = f"{_EXTERNAL}/namespaces/{namespace}/{quote(metric['name'])}"
        reason = "FailedGetExternalMetric"
        answer = await self._get(path, reason, labelSelector=_selector(metric))
        items = answer.get("items") or []
        if not items:
            raise Unmeasured(reason, "no metrics returned from external metrics API")
        return sum(_milli(item["value"]) for item in items)

    async def _get(self, path: str, reason: str, **query: str) -> Any:
        text = urlencode({name: value for name, value in query.items() if value})
        try:
            response = await self._client.request("GET", path, text)
            return msgspec.json.decode(await response.read())
        except (UnderwayError, msgspec.DecodeError) as error:
            raise Unmeasured(reason, f"unable to fetch metrics from {path}: {error}") from error


def _selector(metric: Object) -> str:
    return str(selectors.from_object(metric["selector"])) if metric.get("selector") else ""


def _milli(amount: Any) -> int:
    return math.ceil(quantity.parse(str(amount)) * 1000)


def _seconds(text: Any) -> float:
    match = _WINDOW.fullmatch(str(text or ""))
    if match is None:
        return 60.0
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(match[name] or 0) * factor for name, factor in units.items())
