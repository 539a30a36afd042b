"""How a build ends early: one failure, or the user, stops every step that still runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from underway.base.errors import UnderwayError


class Stopped(UnderwayError):
    """The build was ended while this step ran; what ended it is told elsewhere."""

    reason = "Stopped"
    code = 499


class Stop:
    """Shared by all threads of one build."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come while it is held
        self._set = False
        self._ends: list[Callable[[], object]] = []

    def set(self) -> None:
        """End what runs; nothing more begins."""
        with self._lock:
            self._set = True
            ends, self._ends = self._ends, []
        for end in ends:
            end()

    def check(self) -> None:
        """Raise ``Stopped`` once the build has been ended."""
        if self._set:
            raise Stopped("the build was stopped")

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """While this lasts, SIGINT and SIGTERM set it; for a process's main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        for each in before:
            signal.signal(each, lambda _number, _frame: self.set())
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextlib.contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """While this lasts, ``end`` is what stops it; called from another thread, at most once."""
        with self._lock:
            if self._set:
                raise Stopped("the build was stopped")
            self._ends.append(end)
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._ends.remove(end)
