"""One build: the stages a target needs, those that do not wait for one another at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from underway.base.clock import Clock
from underway.base.errors import UnderwayError
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.grounds import Grounds, Overlays
from underway.capabilities.build.backend.lending import Lender
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.step_mounts import hiding
from underway.capabilities.build.backend.steps import Job, Site, StageRun, warning
from underway.capabilities.build.backend.stopping import Stop, Stopped
from underway.capabilities.build.model import DEFAULT_PATH, Image, Layer, StageState
from underway.capabilities.build.rules import stages as stage_rules
from underway.capabilities.build.rules.keys import framed
from underway.kit.ports import BaseImage, Progress
from underway.wire import dockerfile_lint

__all__ = ["Execution", "Job", "Outcome", "Resolve"]

Resolve = Callable[[str, Progress], tuple[Image, BaseImage]]
"""From an image's name to the image, fetched and unpacked."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job. ``keys`` are all steps' cache keys with their layers, in order;

    ``own_keys`` how many of them, the last ones, are the target stage's.
    """

    image: Image
    bases: tuple[BaseImage, ...]
    inputs_digest: str
    steps_total: int
    steps_cached: int
    keys: tuple[tuple[str, Layer | None], ...] = ()
    own_keys: int = 0


class Execution:
    """Runs a job once, in a thread with mounts of its own where its grounds need that."""

    def __init__(
        self,
        shelf: Shelf,
        room: Room,
        job: Job,
        resolve: Resolve,
        progress: Progress,
        clock: Clock,
        *,
        grounds: Grounds | None = None,
        lenders: Sequence[Lender] = (),
        stop: Stop | None = None,
        resolve_for: Callable[[str], Resolve] | None = None,
    ) -> None:
        """As the class says; ``resolve_for`` gives what resolves names for an architecture."""
        self._room, self._job = room, job
        self._resolve_for = resolve_for or (lambda _architecture: resolve)
        hide = hiding(job.secrets.values())
        self._tell: Progress = lambda line: progress(hide(line))
        variables = machine.platform_args(job.platform)
        self._plan = stage_rules.plan(
            job.dockerfile, job.target, job.build_args, variables, job.contexts
        )
        self._finished: dict[int, StageState] = {}
        self._bases: dict[tuple[str, str], tuple[Image, BaseImage]] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._stop = stop or Stop()
        self._site = Site(
            shelf=shelf,
            grounds=grounds or Overlays(shelf.layers),
            job=job,
            plan=self._plan,
            digests=shelf.digests,
            clock=clock,
            stop=self._stop,
            tell=self._tell,
            hide=hide,
            image=self._image,
            finished=self._finished,
            lenders=lenders,
        )
        self._runs = {
            each.stage.index: StageRun(self._site, each, room.within(f"s{each.stage.index}"))
            for each in self._plan.stages
        }

    def run(self) -> Outcome:
        """Build the target stage and those it needs.

        Raises:
            BadRequest: the Dockerfile is at fault; names file and line.
            StepFailed: a command failed; names file and line and carries its last lines.
        """
        job, dockerfile = self._job, self._job.dockerfile
        for name in stage_rules.unused_args(dockerfile, job.build_args):
            self._tell(f"warning: the build argument {name} is not declared by any ARG")
        if job.lint:
            for each in dockerfile_lint.lint(dockerfile):
                self._tell(warning(dockerfile, each))
        self._run_stages()
        last = self._plan.stages[-1].stage.index
        final = self._finished[last].image
        if job.labels:
            final.config["Labels"] = {**(final.config.get("Labels") or {}), **job.labels}
        runs = list(self._runs.values())
        bases = tuple(base for _, (_, base) in sorted(self._bases.items()))
        inputs = [text for each in runs for text in each.inputs]
        platform = [job.platform] if job.platform else []
        digest = framed(
            [job.target, str(job.epoch_s), *platform, *(base.digest for base in bases)],
            job.build_args,
            job.labels,
            inputs,
        )
        return Outcome(
            image=final,
            bases=bases,
            inputs_digest=f"sha256:{digest}",
            steps_total=sum(each.total for each in runs),
            steps_cached=sum(each.cached for each in runs),
            keys=tuple(pair for each in runs for pair in each.keys.items()),
            own_keys=len(self._runs[last].keys),
        )

    def _run_stages(self) -> None:
        waiting = {each.stage.index: set(each.needs) for each in self._plan.stages}
        at_once = min(self._site.grounds.stages_at_once, len(waiting))
        if at_once < 2:
            for index in waiting:
                self._finished[index] = self._runs[index].run()
            return
        from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

        # Threads are born in the mount namespace of the thread that submits the work.
        with ThreadPoolExecutor(at_once, thread_name_prefix="stage") as pool:
            running: dict[Future[StageState], int] = {}
            failure: BaseException | None = None
            try:
                while waiting or running:
                    for index in [i for i, needs in waiting.items() if not needs]:
                        del waiting[index]
                        running[pool.submit(self._runs[index].run)] = index
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        index = running.pop(future)
                        error = future.exception()
                        if error is not None:
                            # The first failure is the one to tell; it stops the others.
                            if failure is None or isinstance(failure, Stopped):
                                failure = error
                            waiting.clear()
                            self._stop.set()
                            continue
                        self._finished[index] = future.result()
                        for needs in waiting.values():
                            needs.discard(index)
            except BaseException:
                self._stop.set()
                raise
        if failure is not None:
            raise failure

    def _image(self, name: str, architecture: str, where: str) -> Image:
        if name == "scratch":
            return Image(config={"Env": [f"PATH={DEFAULT_PATH}"]})
        wanted = (name, architecture)
        with self._locks.setdefault(wanted, threading.Lock()):
            if wanted not in self._bases:
                try:
                    resolve = self._resolve_for(architecture)
                    self._bases[wanted] = resolve(self._job.contexts.get(name, name), self._tell)
                except UnderwayError as error:
                    raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
            return self._bases[wanted][0]
