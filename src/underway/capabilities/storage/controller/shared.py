"""Informers that several of the controllers read, with their indexes."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, deleting
from underway.api.resources import PERSISTENTVOLUMES, PODS
from underway.capabilities.storage.model import claim_key, claims_of, class_of
from underway.reconcile import Informer, Manager, Request

BY_CLAIM = "claim"
FREE = "free volumes of class"


def pods(manager: Manager) -> Informer:
    """Pods, indexed by the claims they use."""
    informer = manager.informer(PODS)
    informer.add_index(BY_CLAIM, claims_of)
    return informer


def volumes(manager: Manager) -> Informer:
    """Volumes, indexed by the claim they are for, or else by class."""
    informer = manager.informer(PERSISTENTVOLUMES)
    informer.add_index(BY_CLAIM, _claim)
    informer.add_index(FREE, _free)
    return informer


def claims_used(pod: Object) -> Iterable[Request]:
    """From a pod to the claims it uses."""
    return [Request.of(key) for key in claims_of(pod)]


def _claim(volume: Object) -> Iterable[str]:
    return [key] if (key := claim_key(volume)) else ()


def _free(volume: Object) -> Iterable[str]:
    return () if claim_key(volume) or deleting(volume) else (class_of(volume) or "",)
