"""The operator SDK: informers, work queues, controllers and what they need.

Level-triggered: a reconcile function is told which object to look at, reads what is desired and
what is there, and acts on the difference.
"""

from underway.reconcile.controller import (
    Controller,
    Done,
    Request,
    RequeueAfter,
    Result,
    TerminalError,
    generation_changed,
)
from underway.reconcile.events import NORMAL, WARNING, Recorder
from underway.reconcile.expectations import Expectations
from underway.reconcile.finalizers import add_finalizer, has_finalizer, remove_finalizer
from underway.reconcile.informer import Entry, Informer, Metadata
from underway.reconcile.leases import LeaderElector, LeaderLost
from underway.reconcile.manager import Manager
from underway.reconcile.owners import adopt, claim, release
from underway.reconcile.queue import WorkQueue
from underway.reconcile.status import write_status

__all__ = [
    "NORMAL",
    "WARNING",
    "Controller",
    "Done",
    "Entry",
    "Expectations",
    "Informer",
    "LeaderElector",
    "LeaderLost",
    "Manager",
    "Metadata",
    "Recorder",
    "Request",
    "RequeueAfter",
    "Result",
    "TerminalError",
    "WorkQueue",
    "add_finalizer",
    "adopt",
    "claim",
    "generation_changed",
    "has_finalizer",
    "release",
    "remove_finalizer",
    "write_status",
]
