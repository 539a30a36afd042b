"""The operator SDK: what a program needs that keeps the world as objects say.

Level-triggered: a reconcile function is told which object to look at, reads what is desired and
what is there, and acts on the difference. Everything public is named here.
"""

from underway.api.objects import deleting, find_condition, set_condition
from underway.reconcile.certificates import ManagedCertificate
from underway.reconcile.conditions import condition, is_true, with_conditions
from underway.reconcile.controller import (
    Controller,
    Done,
    Reconcile,
    RequeueAfter,
    Result,
    TerminalError,
)
from underway.reconcile.customresources import Column, CustomResource, Scale, definition
from underway.reconcile.events import NORMAL, WARNING, Recorder
from underway.reconcile.expectations import Expectations
from underway.reconcile.finalizers import add_finalizer, has_finalizer, remove_finalizer
from underway.reconcile.informer import Entry, EventType, Informer, Metadata, OwnerRef
from underway.reconcile.leases import LeaderElector, LeaderLost
from underway.reconcile.management import ManagementServer
from underway.reconcile.manager import Manager
from underway.reconcile.metrics import Counter, Gauge, Histogram, Metrics
from underway.reconcile.owners import adopt, claim, release
from underway.reconcile.program import connect, run_operator
from underway.reconcile.queue import WorkQueue
from underway.reconcile.rbac import leader_rules, policy_rules
from underway.reconcile.schemas import free_form, list_map, rule, rules, schema_of
from underway.reconcile.sources import (
    MapFn,
    Owned,
    Predicate,
    Request,
    Source,
    Watched,
    all_of,
    annotations_changed,
    any_of,
    generation_changed,
    labels_changed,
    negated,
    on_events,
    status_changed,
    with_object,
)
from underway.reconcile.status import write_status
from underway.reconcile.webhooks import Admission, Denied, WebhookServer
from underway.reconcile.writing import (
    Outcome,
    apply_child,
    create_or_patch,
    create_or_update,
    merge_difference,
    set_controller,
    set_owner,
)

__all__ = [
    "NORMAL",
    "WARNING",
    "Admission",
    "Column",
    "Controller",
    "Counter",
    "CustomResource",
    "Denied",
    "Done",
    "Entry",
    "EventType",
    "Expectations",
    "Gauge",
    "Histogram",
    "Informer",
    "LeaderElector",
    "LeaderLost",
    "ManagedCertificate",
    "ManagementServer",
    "Manager",
    "MapFn",
    "Metadata",
    "Metrics",
    "Outcome",
    "Owned",
    "OwnerRef",
    "Predicate",
    "Reconcile",
    "Recorder",
    "Request",
    "RequeueAfter",
    "Result",
    "Scale",
    "Source",
    "TerminalError",
    "Watched",
    "WebhookServer",
    "WorkQueue",
    "add_finalizer",
    "adopt",
    "all_of",
    "annotations_changed",
    "any_of",
    "apply_child",
    "claim",
    "condition",
    "connect",
    "create_or_patch",
    "create_or_update",
    "definition",
    "deleting",
    "find_condition",
    "free_form",
    "generation_changed",
    "has_finalizer",
    "is_true",
    "labels_changed",
    "leader_rules",
    "list_map",
    "merge_difference",
    "negated",
    "on_events",
    "policy_rules",
    "release",
    "remove_finalizer",
    "rule",
    "rules",
    "run_operator",
    "schema_of",
    "set_condition",
    "set_controller",
    "set_owner",
    "status_changed",
    "with_conditions",
    "with_object",
    "write_status",
]
