"""One build: the stages of a Dockerfile, step by step, each from the cache where it is known."""

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
from underway.capabilities.build.backend.paths import inside, make_directories, read_text
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.step_mounts import StepMounts, hiding
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import DEFAULT_PATH, Image, Layer, StageState
from underway.capabilities.build.rules import configure as config_rules
from underway.capabilities.build.rules import stages as stage_rules
from underway.capabilities.build.rules.container import SCRIPT_FILE, Bind
from underway.capabilities.build.rules.identity import owner
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S, framed, moment_of
from underway.kit.ports import BaseImage, Progress
from underway.linux import mounts
from underway.linux.layers import Mtimes
from underway.wire import dockerfile_instructions as ins
from underway.wire import dockerfile_lint
from underway.wire.dockerfile import parse_trigger
from underway.wire.dockerignore import IgnoreRules

SLACK_S = 2.0  # a file's time comes from a clock coarser than the one a step's start is read from
SHOWN_CHARS = 120

Resolve = Callable[[str, Progress], tuple[Image, BaseImage]]
"""From an image's name to the image, fetched and unpacked."""


@dataclass(frozen=True)
class Job:
    """What to build. ``secrets`` are files or values by id, for ``RUN --mount=type=secret``.

    ``contexts`` are what FROM and ``--from`` mean by a name.
    """

    dockerfile: ins.Dockerfile
    context: Tree
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path | bytes] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    lint: bool = True

    @property
    def epoch_s(self) -> int:
        """The time everything made by the build carries, in Unix seconds."""
        text = self.build_args.get("SOURCE_DATE_EPOCH", "")
        if text and not text.isdigit():
            raise BadRequest(f"SOURCE_DATE_EPOCH must be Unix seconds, not {text!r}")
        return int(text) if text else DEFAULT_EPOCH_S


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    image: Image
    bases: tuple[BaseImage, ...]
    inputs_digest: str
    steps_total: int
    steps_cached: int


class Execution:
    """Runs a job once. Must run in a thread with mounts of its own (``with_own_mounts``)."""

    def __init__(
        self,
        shelf: Shelf,
        room: Room,
        job: Job,
        resolve: Resolve,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._shelf, self._room, self._job = shelf, room, job
        self._resolve, self._clock = resolve, clock
        self._hide = hiding(job.secrets.values())
        self._tell: Progress = lambda line: progress(self._hide(line))
        self._dockerfile = job.dockerfile
        self._plan = stage_rules.plan(
            job.dockerfile, job.target, job.build_args, machine.platform_args()
        )
        self._stages: dict[int, StageState] = {}
        self._bases: dict[str, tuple[Image, BaseImage]] = {}
        self._inputs: list[str] = []
        self._count = self._cached = self._total = 0
        self._within = ""  # the trigger a step comes from, where it is not of this file
        self._arrivals = Arrivals(room, job.context)

    def run(self) -> Outcome:
        """Build the target stage and those it needs.

        Raises:
            BadRequest: the Dockerfile is at fault; names file and line.
            StepFailed: a command failed; names file and line and carries its last lines.
        """
        for name in stage_rules.unused_args(self._dockerfile, self._job.build_args):
            self._tell(f"warning: the build argument {name} is not declared by any ARG")
        if self._job.lint:
            self._warn(dockerfile_lint.lint(self._dockerfile))
        self._total = sum(len(each.stage.steps) for each in self._plan.stages)
        for each in self._plan.stages:
            self._stages[each.stage.index] = self._stage(each)
        final = self._stages[self._plan.stages[-1].stage.index].image
        if self._job.labels:
            final.config["Labels"] = {**(final.config.get("Labels") or {}), **self._job.labels}
        bases = tuple(base for _, base in self._bases.values())
        digest = framed(
            [self._job.target, str(self._job.epoch_s), *(base.digest for base in bases)],
            self._job.build_args,
            self._job.labels,
            self._inputs,
        )
        return Outcome(final, bases, f"sha256:{digest}", self._total, self._cached)

    def _stage(self, planned: stage_rules.StagePlan) -> StageState:
        stage = planned.stage
        where = f"{self._dockerfile.file}:{stage.base.line}"
        platform = stage_rules.word(
            self._dockerfile, stage.base, stage.base.platform, self._plan.variables
        )
        machine.check_platform(platform, where)
        if planned.base_stage is not None:
            image = self._stages[planned.base_stage].image.copy()
        else:
            image = self._image(planned.base_image, where).copy()
        state = StageState(image, dict(image.environment))
        if self._job.lint:
            known = {*state.scope, *stage_rules.PROXY_ARGS, "SOURCE_DATE_EPOCH"}
            self._warn(dockerfile_lint.undefined(self._dockerfile, stage, known))
        triggers = image.config.pop("OnBuild", None) or []
        self._within = f"{where}: ONBUILD of {planned.base_image}"
        for text in triggers:
            self._total += 1
            self._step(parse_trigger(text, self._within), state, stage.index)
        self._within = ""
        for step in stage.steps:
            self._step(step, state, stage.index)
        return state

    def _warn(self, findings: Sequence[dockerfile_lint.Finding]) -> None:
        for each in findings:
            where = f"{self._dockerfile.file}:{each.line}"
            self._tell(f"warning: {where}: {each.message} ({each.rule})")

    def _image(self, name: str, where: str) -> Image:
        if name == "scratch":
            return Image(config={"Env": [f"PATH={DEFAULT_PATH}"]})
        if name not in self._bases:
            try:
                self._bases[name] = self._resolve(self._job.contexts.get(name, name), self._tell)
            except UnderwayError as error:
                raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
        return self._bases[name][0]

    def _step(self, step: ins.Step, state: StageState, stage: int) -> None:
        self._count += 1
        self._inputs.append(step.at.source)
        self._inputs += [doc.content for doc in step.at.heredocs]
        layer: Layer | None = None
        try:
            if isinstance(step, ins.Arg):
                self._show(step)
                stage_rules.declare(
                    self._dockerfile, step, state.scope, self._job.build_args, self._plan.variables
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
        self._tell(f"[{self._count}/{self._total}] {text}{' (cached)' if cached else ''}")

    # Steps that make layers

    def _layered(
        self,
        step: ins.Step,
        image: Image,
        key: str,
        change: Callable[[Path], None],
        beneath: Path | None = None,
    ) -> Layer | None:
        """The layer that ``change`` makes of the image, from the cache where ``key`` is known.

        What lies in ``beneath`` is seen below the image's own layers and belongs to none.
        """
        known, layer = (False, None) if self._job.no_cache else self._shelf.recall(key)
        self._show(step, cached=known)
        if known:
            self._cached += 1
            return layer
        started_s = self._clock.now().timestamp() - SLACK_S
        with self._shelf.layers.scratch() as scratch:
            root, empty = scratch.root / "root", scratch.root / "empty"
            root.mkdir()
            empty.mkdir()
            lowers = [self._shelf.layers.path(diff_id) for diff_id in image.diff_ids][::-1]
            lowers.append(beneath or empty)
            mounts.mount_overlay(lowers, scratch.upper, scratch.work, root, volatile=True)
            try:
                change(root)
            finally:
                mounts.unmount(root)
            if any(scratch.upper.iterdir()):
                made = self._shelf.layers.commit(
                    scratch.upper, self._shelf.blobs, Mtimes(self._job.epoch_s, started_s)
                )
                layer = Layer(made.diff_id, made.digest, made.size_bytes, made.media_type)
            else:
                layer = None
        self._shelf.remember(key, layer)
        return layer

    def _key(self, kind: str, image: Image, *parts: str | list[str] | Mapping[str, str]) -> str:
        arch = machine.architecture()
        return framed(kind, arch, str(self._job.epoch_s), image.diff_ids, *parts)

    def _workdir(self, step: ins.Workdir, state: StageState) -> Layer | None:
        path = config_rules.workdir(self._dockerfile, step, state)
        state.image.config["WorkingDir"] = path

        def change(root: Path) -> None:
            make_directories(root, inside(root, path))

        return self._layered(step, state.image, self._key("workdir", state.image, path), change)

    def _run(self, step: ins.Run, state: StageState, stage: int) -> Layer | None:
        variables = {k: v for k, v in state.scope.items() if k not in stage_rules.PROXY_ARGS}
        argv, script = _argv(step, state)
        with StepMounts(self._room, self._shelf, step.mounts, self._job.secrets) as extra:
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
                [state.user, state.workdir, step.network, script],
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
            )

            def change(root: Path) -> None:
                ended = running.run(self._room, root, command, lambda line: self._tell(f"  {line}"))
                if ended.exit_code:
                    raise self._failed(step, ended)

            beneath = running.mount_points(self._room)
            return self._layered(step, state.image, key, change, beneath)

    def _script(self, content: str) -> list[Bind]:
        if not content:
            return []
        path = self._room.path / "script"
        path.write_text(content)
        path.chmod(0o755)
        return [Bind(str(path), SCRIPT_FILE, read_only=True)]

    def _failed(self, step: ins.Run, ended: running.Ended) -> UnderwayError:
        shown = step.at.source if len(step.at.source) < 400 else step.at.source[:400] + "…"
        tail = "\n".join(f"  {self._hide(line)}" for line in ended.tail) or "  (it printed nothing)"
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
            tree = Tree(Path(named).resolve(), what=f"context {name}")
            # Its content is hashed by what is copied from it.
            return tree, framed(name, tree.digest(tree.find(".")))
        found = None if named else self._plan.stage_named(name, stage)
        if found is not None and found not in self._stages:
            raise BadRequest(f"the stage {name} was not built, for its name came from a variable")
        if found is None and not named and name.isdigit():
            raise BadRequest(f"there is no stage {name} before this one")
        image = (
            self._stages[found].image if found is not None else self._image(name, self._where(step))
        )
        point = self._room.path / "from" / framed(image.diff_ids)[:16]
        if not point.exists():
            point.mkdir(parents=True)
            if image.layers:
                self._shelf.layers.mount(image.diff_ids, point)
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
            self._inputs.append(content)
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
