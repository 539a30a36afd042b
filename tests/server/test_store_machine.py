"""Store and watches as a state machine: whatever is written, watched, lost and reopened, in whatever
order, no watcher loses, doubles or reorders an event, and nothing acknowledged goes away."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from underway.base.clock import SystemClock
from underway.server import watch as watching
from underway.server.store import Key, Store
from underway.server.watch import Hub, Watch

HISTORY = 12
QUEUE = 5
BATCHES = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "delete"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y", "z"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


class Plain:
    name = "plain"

    def one(self, data):
        return data

    def bookmark(self, metadata):
        return msgspec.json.encode({"metadata": metadata})


@dataclass
class Written:
    """One change as the model knows it; ``on`` is None for a deletion."""

    key: Key
    uid: str
    before: bool | None
    on: bool | None
    rv: int = 0


@dataclass
class Seen:
    watch: Watch
    base: dict
    floor: int  # a version below which the history may have begun
    frames: list = field(default_factory=list)
    ended: bool = False
    overtaken: bool = False  # more came at once than its queue holds


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="underway-machine-"))
        self.limits = watching.HISTORY_LIMIT, watching.QUEUE_LIMIT
        watching.HISTORY_LIMIT, watching.QUEUE_LIMIT = HISTORY, QUEUE
        self.runner = asyncio.Runner()
        self.history: list[Written] = []
        self.watchers: list[Seen] = []
        self.tasks: set[asyncio.Task] = set()
        self.serial = self.opened = 0

    @initialize()
    def begin(self):
        self.run(self.open())

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def open(self):
        self.opened += 1
        self.store = Store(self.directory / "db")
        self.store.open()
        self.hub = Hub(self.store, SystemClock())
        self.hub.start()
        self.started_at = self.store.resource_version
        self.states = {self.started_at: self.state()}

    def state(self):
        return {row.key: row.decode() for row in self.store.rows("things")}

    # -- writing ---------------------------------------------------------------------------

    async def write(self, operation, submitted):
        kind, namespace, name, on = operation
        key = Key("things", namespace, name)
        row = self.store.latest(key)
        before = row.decode()["metadata"]["labels"]["on"] if row else None
        if kind == "delete" and row is None:
            return
        self.serial += 1
        uid = row.uid if row else f"uid{self.opened}-{self.serial}"
        change = Written(key, uid, before, None if kind == "delete" else on)
        obj = {"metadata": {"name": name, "uid": uid, "labels": {"on": on}}}
        submitted.append(change)
        if kind == "delete":
            done = self.store.delete(key, row.decode(), row)
        elif row is None:
            done = self.store.create(key, obj)
        else:
            done = self.store.replace(key, obj, row)
        change.rv = (await done).rv

    async def write_all(self, operations):
        submitted: list[Written] = []
        await asyncio.gather(*(self.write(each, submitted) for each in operations))
        assert [c.rv for c in submitted] == sorted(c.rv for c in submitted)
        if submitted and self.history:
            assert submitted[0].rv > self.history[-1].rv
        self.history += submitted
        for seen in self.watchers:
            seen.overtaken = seen.overtaken or len(submitted) > QUEUE
        await self.settle()
        self.states[self.store.resource_version] = self.state()

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    @rule(operations=BATCHES)
    def write_at_once(self, operations):
        self.run(self.write_all(operations))

    @rule(operations=BATCHES)
    def write_one_by_one(self, operations):
        async def each_alone():
            for operation in operations:
                await self.write_all([operation])

        self.run(each_alone())

    # -- watching --------------------------------------------------------------------------

    @rule(data=st.data(), namespace=st.sampled_from(["", "a"]), selecting=st.booleans())
    def watch_from_a_version(self, data, namespace, selecting):
        since = data.draw(st.sampled_from(sorted(self.states)))
        self.watch(since, self.states[since], namespace, selecting)

    @rule(namespace=st.sampled_from(["", "b"]), selecting=st.booleans())
    def watch_from_now(self, namespace, selecting):
        self.watch(None, {}, namespace, selecting)

    def watch(self, since, base, namespace, selecting):
        watch = Watch(
            "things",
            Plain(),
            namespace=namespace,
            since=since,
            match=(lambda obj: obj["metadata"]["labels"]["on"]) if selecting else None,
        )
        seen = Seen(watch, base, self.started_at)
        if since is None:
            seen.base = self.state()
        seen.since = since if since is not None else self.store.resource_version
        kept = [c.rv for c in self.history if c.rv > self.started_at][-HISTORY:]
        before = [c.rv for c in self.history if c.rv > self.started_at][:-HISTORY]
        seen.expired = since is not None and bool(kept) and bool(before) and since < before[-1]
        self.watchers.append(seen)

        async def start():
            task = asyncio.get_running_loop().create_task(self.collect(seen))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await self.settle()

        self.run(start())

    async def collect(self, seen):
        async for frame in self.hub.stream(seen.watch):
            seen.frames.append(msgspec.json.decode(frame))
        seen.ended = True

    def expected(self, seen):
        """(type, key, version) of each event a watcher is owed."""
        found = []
        if seen.watch.since is None:
            found = [
                ("ADDED", key.name, obj["metadata"]["resourceVersion"])
                for key, obj in sorted(seen.base.items())
                if self.wanted(seen, key, obj["metadata"]["labels"]["on"])
            ]
        for change in self.history:
            if change.rv <= seen.since:
                continue
            was = change.before is not None and self.wanted(seen, change.key, change.before)
            now = change.on is not None and self.wanted(seen, change.key, change.on)
            kind = {(0, 1): "ADDED", (1, 1): "MODIFIED", (1, 0): "DELETED"}.get((was, now))
            if kind:
                found.append((kind, change.key.name, str(change.rv)))
        return found

    def wanted(self, seen, key, on):
        return (not seen.watch.namespace or key.namespace == seen.watch.namespace) and (
            seen.watch.match is None or on
        )

    @invariant()
    def every_watcher_saw_what_it_was_owed_in_order(self):
        for seen in self.watchers:
            frames = [
                (
                    f["type"],
                    f["object"]["metadata"].get("name"),
                    f["object"]["metadata"].get("resourceVersion"),
                )
                for f in seen.frames
            ]
            if seen.expired:
                assert [kind for kind, *_ in frames] == ["ERROR"]
                assert seen.frames[0]["object"]["code"] == 410
                continue
            owed = self.expected(seen)
            if seen.ended:  # cut off: it lists again, having been told a prefix of the truth
                assert seen.overtaken
                assert frames == owed[: len(frames)]
            else:
                assert frames == owed

    @invariant()
    def the_store_is_what_was_written(self):
        if not self.opened:
            return
        model = {}
        for change in self.history:
            if change.on is None:
                model.pop(change.key, None)
            else:
                model[change.key] = (change.uid, change.rv, change.on)
        stored = {
            row.key: (row.uid, row.rv, row.decode()["metadata"]["labels"]["on"])
            for row in self.store.rows("things")
        }
        assert stored == model

    # -- ending and beginning again --------------------------------------------------------

    async def end_watches(self):
        self.hub.stop()
        await self.settle()
        for seen in self.watchers:
            assert seen.ended
        self.watchers.clear()

    @rule()
    def reopen(self):
        async def closed_and_opened():
            version = self.store.resource_version
            await self.end_watches()
            await self.store.close()
            await self.open()
            assert self.store.resource_version == version

        self.run(closed_and_opened())

    @precondition(lambda self: self.opened < 6)
    @rule(operations=BATCHES, acknowledged=st.integers(0, 2))
    def crash_while_writing(self, operations, acknowledged):
        """What a killed process leaves is what its files held; the rest of it is thrown away."""

        async def killed():
            await self.end_watches()
            submitted: list[Written] = []
            tasks = [
                asyncio.get_running_loop().create_task(self.write(each, submitted))
                for each in operations
            ]
            await asyncio.sleep(0)
            for task in tasks[:acknowledged]:
                await task
            durable = sum(1 for change in submitted if change.rv)
            old, self.directory = self.directory, Path(tempfile.mkdtemp(prefix="underway-machine-"))
            for name in ("db", "db-wal"):
                if (old / name).exists():
                    shutil.copy(old / name, self.directory / name)
            await asyncio.gather(*tasks)
            await self.store.close()
            shutil.rmtree(old)
            await self.open()
            survived = [c for c in submitted if c.rv <= self.store.resource_version]
            assert len(survived) >= durable
            self.history += survived

        self.run(killed())

    def teardown(self):
        async def ended():
            if self.opened:
                self.hub.stop()
                await self.settle()
                await self.store.close()

        self.run(ended())
        self.runner.close()
        watching.HISTORY_LIMIT, watching.QUEUE_LIMIT = self.limits
        shutil.rmtree(self.directory)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
