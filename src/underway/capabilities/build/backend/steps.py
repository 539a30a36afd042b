"""One stage of a build: its steps in order, each from the cache where it is known."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from underway.base.clock import Clock
from underway.base.errors import BadRequest, UnderwayError
from underway.capabilities.build.backend import machine, running
from underway.capabilities.build.backend.arrivals import Arrivals
from underway.capabilities.build.backend.copying import Manner, copy_into
from underway.capabilities.build.backend.delivery import unpack_archive
from underway.capabilities.build.backend.digests import Digests
from underway.capabilities.build.backend.grounds import Grounds
from underway.capabilities.build.backend.lending import Lender
from underway.capabilities.build.backend.paths import inside, make_directories, read_text
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.step_mounts import Lent, StepMounts
from underway.capabilities.build.backend.stopping import Stop
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import DEFAULT_PATH, Image, Layer, Packing, StageState
from underway.capabilities.build.rules import configure as config_rules
from underway.capabilities.build.rules import stages as stage_rules
from underway.capabilities.build.rules.container import SCRIPT_FILE, Bind
from underway.capabilities.build.rules.identity import owner
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S, framed, moment_of
from underway.kit.ports import Progress
from underway.linux.layers import Mtimes
from underway.wire import dockerfile_instructions as ins
from underway.wire import dockerfile_lint
from underway.wire.dockerfile import parse_trigger
from underway.wire.dockerignore import IgnoreRules

SLACK_S = 2.0  # a file's time comes from a clock coarser than the one a step's start is read from
SHOWN_CHARS = 120


@dataclass(frozen=True)
class Job:
    """What to build.

    Attributes:
        secrets: files or values by id, for ``RUN --mount=type=secret``.
        agents: sockets by id, for ``RUN --mount=type=ssh``.
        contexts: what FROM and ``--from`` mean by a name.
        platform: ``linux/ARCH[/VARIANT]`` of the image; empty for this machine's.
        entitlements: ``security.insecure`` allows ``RUN --security=insecure``.
        step_timeout_s: how long one RUN may take; 0 is for ever.
    """

    dockerfile: ins.Dockerfile
    context: Tree
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path | bytes] = field(default_factory=dict)
    agents: Mapping[str, Path] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    lint: bool = True
    platform: str = ""
    packing: Packing = field(default_factory=Packing)
    entitlements: frozenset[str] = frozenset()
    step_timeout_s: float = 0.0

    @property
    def epoch_s(self) -> int:
        """The time everything made by the build carries, in Unix seconds."""
        text = self.build_args.get("SOURCE_DATE_EPOCH", "")
        if text and not text.isdigit():
            raise BadRequest(f"SOURCE_DATE_EPOCH must be Unix seconds, not {text!r}")
        return int(text) if text else DEFAULT_EPOCH_S

    @property
    def architecture(self) -> str:
        """The image's architecture."""
        return machine.architecture_of(self.platform)


@dataclass(frozen=True)
class Site:
    """What all stages of one build share."""

    shelf: Shelf
    grounds: Grounds
    job: Job
    plan: stage_rules.Plan
    digests: Digests
    clock: Clock
    stop: Stop
    tell: Progress
    hide: Callable[[str], str]
    image: Callable[[str, str, str], Image]
    """(name, architecture, where) -> the image that FROM or --from means."""
    finished: Mapping[int, StageState]
    """Stages that are done, by index: at least those that a running one needs."""
    lenders: Sequence[Lender] = ()


class StageRun:
    """Runs one stage. ``inputs`` is what went into it; ``keys`` its steps' cache keys."""

    def __init__(self, site: Site, planned: stage_rules.StagePlan, room: Room) -> None:
        self._site, self._planned, self._room = site, planned, room
        self._job, self._shelf = site.job, site.shelf
        self._dockerfile = site.job.dockerfile
        self._arrivals = Arrivals(room, site.job.context)
        self._count, self.total = 0, len(planned.stage.steps)
        self._within = ""  # the trigger a step comes from, where it is not of this file
        self._arch = machine.architecture()
        self.inputs: list[str] = []
        self.keys: dict[str, Layer | None] = {}
        self.cached = 0

    def run(self) -> StageState:
        """Take the stage from its FROM to its last step; raises as ``Execution.run``."""
        stage, plan = self._planned.stage, self._site.plan
        where = f"{self._dockerfile.file}:{stage.base.line}"
        platform = stage_rules.word(
            self._dockerfile, stage.base, stage.base.platform, plan.variables
        )
        self._arch = machine.architecture_of(platform or self._job.platform)
        if self._planned.base_stage is not None:
            image = self._site.finished[self._planned.base_stage].image.copy()
        else:
            image = self._site.image(self._planned.base_image, self._arch, where).copy()
        state = StageState(image, dict(image.environment))
        if self._job.lint:
            known = {*state.scope, *stage_rules.PROXY_ARGS, "SOURCE_DATE_EPOCH"}
            for each in dockerfile_lint.undefined(self._dockerfile, stage, known):
                self._tell(warning(self._dockerfile, each))
        triggers = image.config.pop("OnBuild", None) or []
        self._within = f"{where}: ONBUILD of {self._planned.base_image}"
        self.total += len(triggers)
        for text in triggers:
            self._step(parse_trigger(text, self._within), state, stage.index)
        self._within = ""
        for step in stage.steps:
            self._step(step, state, stage.index)
        return state

    def _step(self, step: ins.Step, state: StageState, stage: int) -> None:
        self._site.stop.check()
        self._count += 1
        self.inputs.append(step.at.source)
        self.inputs += [doc.content for doc in step.at.heredocs]
        layer: Layer | None = None
        try:
            if isinstance(step, ins.Arg):
                self._show(step)
                stage_rules.declare(
                    self._dockerfile,
                    step,
                    state.scope,
                    self._job.build_args,
                    self._site.plan.variables,
                )
            elif isinstance(step, ins.Run):
                layer = self._run(step, state, stage)
            elif isinstance(step, ins.Copy):
                layer = self._copy(step, state, stage)
            elif isinstance(step, ins.Workdir):
                layer = self._workdir(step, state)
            else:
                self._show(step)
                config_rules.configure(self._dockerfile, step, state)
        except (UnderwayError, ValueError) as error:
            placed = self._placed(step, error)
            raise placed from (error if placed is not error else error.__cause__)
        history: dict[str, object] = {"created_by": step.at.source}
        if layer:
            state.image.layers.append(layer)
        else:
            history["empty_layer"] = True
        state.image.history.append(history)

    def _where(self, step: ins.Step) -> str:
        return self._within or f"{self._dockerfile.file}:{step.line}"

    def _placed(self, step: ins.Step, error: UnderwayError | ValueError) -> UnderwayError:
        """An error that says at which line of which file it arose."""
        if isinstance(error, ValueError):
            return BadRequest(f"{self._where(step)}: {error}")
        if error.message.startswith(self._dockerfile.file):
            return error
        return type(error)(f"{self._where(step)}: {error.message}", hint=error.hint)

    def _show(self, step: ins.Step, *, cached: bool = False) -> None:
        text = " ".join(step.at.source.split())
        text = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
        self._tell(f"[{self._label()}] {text}{' (cached)' if cached else ''}")

    def _label(self) -> str:
        """``STEP/STEPS``, with the stage's name where there are several."""
        place = f"{self._count}/{self.total}"
        if len(self._site.plan.stages) == 1:
            return place
        stage = self._planned.stage
        return f"{stage.name or f'stage-{stage.index}'} {place}"

    def _tell(self, line: str) -> None:
        self._site.tell(line)

    # Steps that make layers

    def _layered(
        self,
        step: ins.Step,
        image: Image,
        key: str,
        change: Callable[[Path], None],
        *,
        runs: bool = False,
    ) -> Layer | None:
        """The layer that ``change`` makes of the image, from the cache where ``key`` is known."""
        known, layer = (False, None) if self._job.no_cache else self._recall(key)
        self._show(step, cached=known)
        if known:
            self.cached += 1
        else:
            layer = self._made(image, change, runs=runs)
            self._shelf.remember(key, layer)
        self.keys[key] = layer
        return layer

    def _recall(self, key: str) -> tuple[bool, Layer | None]:
        known, layer = self._shelf.recall(key)
        for lender in () if known else self._site.lenders:
            known, layer = lender.recall(key, self._shelf, self._tell)
            if known:
                self._shelf.remember(key, layer)
                break
        return known, layer

    def _made(
        self, image: Image, change: Callable[[Path], None], *, runs: bool = False
    ) -> Layer | None:
        started_s = self._site.clock.now().timestamp() - SLACK_S
        layers = self._shelf.layers
        with layers.scratch() as scratch:
            with self._site.grounds.changing(
                image.diff_ids, scratch, self._room, runs=runs
            ) as root:
                change(root)
            self._site.stop.check()
            if not any(scratch.upper.iterdir()):
                return None
            made = layers.commit(
                scratch.upper,
                self._shelf.blobs,
                Mtimes(self._job.epoch_s, started_s),
                self._job.packing.compression,
                self._job.packing.level,
            )
            return Layer(made.diff_id, made.digest, made.size_bytes, made.media_type)

    def _key(self, kind: str, image: Image, *parts: str | list[str] | Mapping[str, str]) -> str:
        epoch = str(self._job.epoch_s)
        return framed(kind, self._arch, epoch, image.diff_ids, *self._job.packing.key, *parts)

    def _workdir(self, step: ins.Workdir, state: StageState) -> Layer | None:
        path = config_rules.workdir(self._dockerfile, step, state)
        state.image.config["WorkingDir"] = path

        def change(root: Path) -> None:
            make_directories(root, inside(root, path))

        return self._layered(step, state.image, self._key("workdir", state.image, path), change)

    def _run(self, step: ins.Run, state: StageState, stage: int) -> Layer | None:
        self._may_run(step)
        variables = {k: v for k, v in state.scope.items() if k not in stage_rules.PROXY_ARGS}
        argv, script = _argv(step, state)
        lent = Lent(self._job.secrets, self._job.agents)
        with StepMounts(self._room, self._shelf, step.mounts, lent) as extra:
            extra.open(
                lambda name: self._tree(name, stage, step),
                state.scope,
                self._dockerfile.escape,
                self._job.context,
            )
            key = self._key(
                "run",
                state.image,
                argv,
                variables,
                [state.user, state.workdir, step.network, step.security, script],
                extra.key,
            )
            environment = {
                **machine.lent_environment(self._job.build_args),
                "SOURCE_DATE_EPOCH": str(self._job.epoch_s),
                "PATH": DEFAULT_PATH,
                **variables,
                **extra.environment,
            }
            command = running.Command(
                argv=argv,
                environment=environment,
                cwd=state.workdir,
                user=state.user,
                binds=[*extra.binds, *self._script(script)],
                tmpfs=extra.tmpfs,
                network=step.network,
                insecure=step.security == "insecure",
                timeout_s=self._job.step_timeout_s,
            )
            prefix = "  " if len(self._site.plan.stages) == 1 else f"  [{self._label()}] "

            def change(root: Path) -> None:
                ended = self._site.grounds.run(
                    self._room,
                    root,
                    command,
                    lambda line: self._tell(f"{prefix}{line}"),
                    self._site.stop,
                )
                if ended.exit_code:
                    raise self._failed(step, ended)

            return self._layered(step, state.image, key, change, runs=True)

    def _may_run(self, step: ins.Run) -> None:
        if step.security == "insecure" and "security.insecure" not in self._job.entitlements:
            raise BadRequest(
                "RUN --security=insecure is not allowed", hint="--allow security.insecure allows it"
            )
        machine.check_runs(self._arch, self._where(step))

    def _script(self, content: str) -> list[Bind]:
        if not content:
            return []
        path = self._room.path / "script"
        path.write_text(content)
        path.chmod(0o755)
        return [Bind(str(path), SCRIPT_FILE, read_only=True)]

    def _failed(self, step: ins.Run, ended: running.Ended) -> UnderwayError:
        shown = step.at.source if len(step.at.source) < 400 else step.at.source[:400] + "…"
        tail = (
            "\n".join(f"  {self._site.hide(line)}" for line in ended.tail)
            or "  (it printed nothing)"
        )
        hint = ""
        if ended.exit_code == 127:
            hint = "the command was not found in the image: install it in an earlier RUN"
        failure = running.StepFailed(
            f"{self._where(step)}: {shown}\n"
            f"ended with exit code {ended.exit_code}; its last lines:\n{tail}",
            hint=hint,
        )
        failure.exit_code = ended.exit_code
        return failure

    def _tree(self, name: str, stage: int, step: ins.Step) -> tuple[Tree, str]:
        """The files that ``--from=NAME`` means, and what identifies them."""
        named = self._job.contexts.get(name, "")
        if named and "://" not in named:
            tree = Tree(Path(named).resolve(), what=f"context {name}", digests=self._site.digests)
            # Its content is hashed by what is copied from it.
            return tree, framed(name, tree.digest(tree.find(".")))
        found = None if named else self._site.plan.stage_named(name, stage)
        if found is not None and found not in self._site.finished:
            raise BadRequest(f"the stage {name} was not built, for its name came from a variable")
        if found is None and not named and name.isdigit():
            raise BadRequest(f"there is no stage {name} before this one")
        if found is not None:
            image = self._site.finished[found].image
        else:
            image = self._site.image(name, self._arch, self._where(step))
        point = self._site.grounds.reading(image.diff_ids, self._room)
        return Tree(point, what=f"stage {name}"), framed(image.diff_ids)

    def _copy(self, step: ins.Copy, state: StageState, stage: int) -> Layer | None:
        def word(text: str) -> str:
            return stage_rules.word(self._dockerfile, step, text, state.scope)

        sources = [s if s.startswith("<<") else word(s) for s in step.sources]
        destination, chown, chmod = word(step.destination), word(step.chown), word(step.chmod)
        path = posixpath.normpath(posixpath.join("/", state.workdir, destination))
        path = "/" + path.lstrip("/")
        if destination.endswith(("/", "/.")) or destination == "." or len(sources) > 1:
            path = path.rstrip("/") + "/"
        excludes = IgnoreRules([word(each) for each in step.excludes], self._dockerfile.file)
        lent = self._lends(word(step.stage))
        if step.stage:
            tree, content = self._tree(word(step.stage), stage, step)
            deliveries = self._arrivals.from_tree(tree, sources)
        else:
            deliveries = self._arrivals.from_context(step, sources, state.scope, self._dockerfile)
            content = framed([each.tree.digest(each.sources, excludes) for each in deliveries])
        if lent:
            self.inputs.append(content)
        fixed = "SOURCE_DATE_EPOCH" in self._job.build_args
        mtime_s = None if not lent else moment_of(content, self._job.epoch_s, fixed=fixed)

        def change(root: Path) -> None:
            named = self._owner(root, chown)
            kept = named or (0, 0) if lent else named
            for index, each in enumerate(deliveries):
                if each.archive:
                    folder = self._room.path / "archives" / f"{self._count}-{index}"
                    folder.mkdir(parents=True)
                    tree = unpack_archive(each.tree.root / each.sources[0].relative, folder)
                    copy_into(root, tree, tree.find("."), f"{path}/", Manner(named, chmod))
                    continue
                manner = Manner(kept, chmod, mtime_s)
                if not step.parents:
                    copy_into(root, each.tree, each.sources, path, manner, excludes)
                    continue
                for source in each.sources:
                    within = "/".join(source.relative.split("/")[source.above :])
                    if not (each.tree.root / source.relative).is_dir():
                        within = within.rpartition("/")[0]
                    copy_into(root, each.tree, [source], f"{path}/{within}/", manner, excludes)

        key = self._key(
            "add" if step.add else "copy",
            state.image,
            [content, path, chown, chmod, str(step.unpack), str(step.parents)],
            sources if step.stage or step.parents else [],
            [s.relative for each in deliveries for s in each.sources] if step.parents else [],
            [word(each) for each in step.excludes],
        )
        return self._layered(step, state.image, key, change)

    def _lends(self, name: str) -> bool:
        """Whether COPY takes its files from a directory of the user's, not from an image."""
        named = self._job.contexts.get(name, "")
        return not name or bool(named and "://" not in named)

    def _owner(self, root: Path, chown: str) -> tuple[int, int] | None:
        if not chown:
            return None
        return owner(chown, read_text(root, "etc/passwd"), read_text(root, "etc/group"))


def warning(dockerfile: ins.Dockerfile, finding: dockerfile_lint.Finding) -> str:
    """A lint finding as a line for the user."""
    return f"warning: {dockerfile.file}:{finding.line}: {finding.message} ({finding.rule})"


def _argv(step: ins.Run, state: StageState) -> tuple[list[str], str]:
    """What a RUN runs, and the script where that is a here-document with a ``#!`` line.

    Other here-documents are handed to the shell, as text behind the command.
    """
    if not step.command.shell or not step.at.heredocs:
        return config_rules.argv_of(step.command, state), ""
    text = step.command.argv[0]
    only = step.at.heredocs[0]
    if len(step.at.heredocs) == 1 and text.startswith("<<") and len(text.split()) == 1:
        if only.content.startswith("#!"):
            return [SCRIPT_FILE], only.content
        return [*state.shell, only.content], ""
    documents = "".join(f"{doc.content}{doc.name}\n" for doc in step.at.heredocs)
    return [*state.shell, f"{text}\n{documents}"], ""
