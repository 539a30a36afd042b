"""The scheduler's configuration, kept in a ConfigMap and followed as it changes.

``kube-system/underway-scheduler`` holds a KubeSchedulerConfiguration under ``config.yaml``. Without
it the defaults hold; one that is wrong is told of in an event, and the last good one holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

import yaml

from underway.api import selectors
from underway.api.objects import Object, labels_of, name_of, namespace_of
from underway.api.resources import CONFIGMAPS, REPLICASETS, SERVICES, STATEFULSETS
from underway.api.selectors import LabelSelector
from underway.base.errors import Invalid
from underway.capabilities.scheduler import profiles
from underway.capabilities.scheduler.model import PodInfo, pod_info, scheduler_name
from underway.capabilities.scheduler.profiles import Configuration
from underway.reconcile import WARNING, Entry, Informer, Manager

log = logging.getLogger(__name__)

NAMESPACE, NAME, KEY = "kube-system", "underway-scheduler", "config.yaml"


class Settings:
    """The configuration that holds now.

    Args:
        manager: whose informers and events are used.
        changed: called when another configuration holds.
    """

    def __init__(self, manager: Manager, changed: Callable[[], None]) -> None:
        self.configuration = profiles.STANDARD
        self._manager = manager
        self._changed = changed
        self.informer = manager.informer(
            CONFIGMAPS, namespace=NAMESPACE, fields=f"metadata.name={NAME}"
        )
        self._kin: dict[str, Informer] = {}

    def listen(self) -> None:
        """Follow the ConfigMap from now on."""
        self.informer.add_handler(self._on_change)

    @property
    def names(self) -> Container[str]:
        """The scheduler names whose pods are scheduled."""
        return self.configuration.profiles

    def info(self, pod: Object) -> PodInfo:
        """A pod as its profile sees it."""
        profile = self.configuration.profiles.get(scheduler_name(pod), profiles.DEFAULT)
        if not profile.spread:
            return pod_info(pod, profile)
        return pod_info(pod, profile, self._selector(pod))

    def _on_change(self, _kind: str, _old: Entry | None, new: Entry | None) -> None:
        found = profiles.STANDARD
        if new is not None:
            try:
                found = _read(new.view)
            except Invalid as error:
                text = f"{KEY}: {error}"
                self._manager.events.event(new.object, WARNING, "InvalidConfiguration", text)
                log.warning("configmap %s/%s: %s", NAMESPACE, NAME, text)
                return
        if found != self.configuration:
            self.configuration = found
            if any(profile.spread for profile in found.profiles.values()):
                self._follow_kin()
            self._changed()

    def _follow_kin(self) -> None:
        for resource in (SERVICES, REPLICASETS, STATEFULSETS):
            if resource.kind not in self._kin:
                self._kin[resource.kind] = self._manager.informer(resource)

    def _selector(self, pod: Object) -> LabelSelector | None:
        """What the pod's Services and its workload select, all together."""
        namespace, labels = namespace_of(pod), labels_of(pod)
        found = []
        for service in self._kin[SERVICES.kind].list(namespace):
            wanted = (service.get("spec") or {}).get("selector")
            selector = selectors.from_object({"matchLabels": wanted})
            if wanted and selector.matches(labels):
                found.append(selector)
        for owner in pod["metadata"].get("ownerReferences") or ():
            informer = self._kin.get(owner["kind"])
            workload = informer.get(f"{namespace}/{owner['name']}") if informer else None
            if owner.get("controller") and workload is not None:
                found.append(selectors.from_object((workload.get("spec") or {}).get("selector")))
        if not found:
            return None
        return LabelSelector(tuple(each for one in found for each in one.requirements))


def _read(configmap: Object) -> Configuration:
    written = (configmap.get("data") or {}).get(KEY)
    if written is None:
        raise Invalid(f"configmap {name_of(configmap)} has no {KEY}")
    try:
        return profiles.configuration(yaml.safe_load(written))
    except (yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise Invalid(f"is no configuration: {error}") from error
