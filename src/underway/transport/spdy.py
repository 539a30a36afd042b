"""A SPDY/3.1 connection as seen by the side that accepts streams.

Kubernetes' own SPDY peers take part in no flow control: they neither heed windows nor open them.
So windows are heeded only once the peer has shown that it knows them, and a stream whose reader
is slow holds up the whole connection, which is the only brake such peers feel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from underway.base.errors import BadRequest, UnderwayError
from underway.transport.bytestreams import Outbox
from underway.transport.inbox import Inbox
from underway.wire import spdy
from underway.wire.http import ByteStream

log = logging.getLogger(__name__)

_STREAM_LIMIT = 1000  # open at the same time
_BUFFER_BYTES = 256 * 1024  # received and unread, of one stream
_HEARTBEAT = spdy.Ping(2)  # the accepting side's pings are even
_UPDATE_BYTES = spdy.INITIAL_WINDOW // 2


class Stream:
    """One stream of a session; a ByteStream whose ends are also awaitable."""

    def __init__(self, session: Session, frame: spdy.SynStream, window: int) -> None:
        self.id = frame.stream_id
        self.headers = frame.headers
        self.inbox = Inbox()
        self.window = spdy.Window(window)
        self._session = session
        self._finished = frame.unidirectional
        self._reset = asyncio.Event()
        self._granted = asyncio.Event()
        self._unannounced = 0

    @property
    def done(self) -> bool:
        """Whether both directions have ended."""
        return self._reset.is_set() or (self._finished and self.inbox.ended)

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Raises ConnectionError after a reset."""
        data = await self.inbox.read()
        self._unannounced += len(data)
        if self._unannounced >= _UPDATE_BYTES and not self.inbox.ended:
            self._session.post(spdy.WindowUpdate(self.id, self._unannounced))
            self._unannounced = 0
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the peer is slow; raises ConnectionError once it is reset."""
        view = memoryview(data)
        while view:
            size = min(len(view), spdy.DATA_CHUNK)
            if self._session.flow_controlled:
                while self.window.available <= 0 and not self._reset.is_set():
                    self._granted.clear()
                    await self._granted.wait()
                size = min(size, max(self.window.available, 1))
            if self._reset.is_set() or self._finished:
                raise ConnectionResetError("the stream is closed")
            self.window.spend(size)
            await self._session.send(spdy.Data(self.id, bytes(view[:size])))
            view = view[size:]

    def write_eof(self) -> None:
        """End our direction."""
        if not self._finished and not self._reset.is_set():
            self._finished = True
            self._session.post(spdy.Data(self.id, b"", fin=True))
            self._session.forget(self)

    def close(self) -> None:
        """End our direction and ignore what still comes."""
        self.write_eof()
        self.inbox.discard()

    def granted(self, delta: int) -> None:
        """The peer opened the window."""
        self.window.grant(delta)
        self._granted.set()

    @property
    def was_reset(self) -> bool:
        """Whether the peer, or the loss of the connection, ended the stream."""
        return self._reset.is_set()

    async def until_reset(self) -> None:
        """Wait until the stream is reset, and raise ConnectionResetError."""
        await self._reset.wait()
        raise ConnectionResetError("the stream was reset")

    def reset(self, error: Exception) -> None:
        """The peer, or the loss of the connection, ended the stream."""
        self._reset.set()
        self.inbox.end(error)
        self._granted.set()


class Session:
    """A connection's streams.

    Args:
        stream: the connection.
        on_stream: called with each stream the peer opens; False refuses it.
    """

    def __init__(self, stream: ByteStream, on_stream: Callable[[Stream], bool]) -> None:
        self.flow_controlled = False
        self._stream = stream
        self._on_stream = on_stream
        self._encoder = spdy.FrameEncoder()
        self._outbox = Outbox(stream, lambda: self._encoder.encode(_HEARTBEAT))
        self._decoder = spdy.FrameDecoder()
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._window = spdy.INITIAL_WINDOW

    async def run(self) -> None:
        """Receive until the peer goes; every stream has ended afterwards."""
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._outbox.run())
            try:
                await self._receive()
            finally:
                sender.cancel()
                for stream in list(self._streams.values()):
                    stream.reset(ConnectionResetError("the connection is closed"))
                self._streams.clear()

    def post(self, frame: spdy.Frame) -> None:
        """Send a small frame without waiting."""
        self._outbox.post(self._encoder.encode(frame))

    async def send(self, frame: spdy.Data) -> None:
        """Send data, waiting while the peer is slow; raises ConnectionError."""
        await self._outbox.send(self._encoder.encode(frame))

    async def flush(self) -> None:
        """Wait until everything posted is on its way; raises ConnectionError."""
        await self._outbox.send(b"")

    def forget(self, stream: Stream) -> None:
        """Drop the stream if both its directions have ended."""
        if stream.done:
            self._streams.pop(stream.id, None)

    async def _receive(self) -> None:
        try:
            while data := await self._stream.read():
                filled = [self._handle(frame) for frame in self._decoder.feed(data)]
                for stream in {stream.id: stream for stream in filled if stream}.values():
                    await stream.inbox.room(_BUFFER_BYTES)
        except UnderwayError as error:
            log.info("a SPDY connection was ended: %s", error)
            self.post(spdy.GoAway(self._last_id, status=1))
        except ConnectionError as error:
            log.debug("a SPDY connection broke: %s", error)

    def _handle(self, frame: spdy.Frame) -> Stream | None:
        """Act on a frame; returns the stream that got data by it."""
        match frame:
            case spdy.Data():
                return self._data(frame)
            case spdy.SynStream():
                self._open(frame)
            case spdy.Headers() if frame.fin and frame.stream_id in self._streams:
                self._end(self._streams[frame.stream_id])
            case spdy.RstStream():
                stream = self._streams.pop(frame.stream_id, None)
                if stream is not None:
                    stream.reset(ConnectionResetError("the peer reset the stream"))
            case spdy.Ping(ping_id) if ping_id % 2:  # even ones would answer pings of ours
                self.post(frame)
            case spdy.WindowUpdate(stream_id, delta):
                self.flow_controlled = True
                if stream_id in self._streams:
                    self._streams[stream_id].granted(delta)
            case spdy.Settings(values) if spdy.Setting.INITIAL_WINDOW_SIZE in values:
                self._resize_windows(values[spdy.Setting.INITIAL_WINDOW_SIZE])
            case _:
                pass  # nothing here depends on the others
        return None

    def _open(self, frame: spdy.SynStream) -> None:
        if frame.stream_id % 2 == 0 or frame.stream_id <= self._last_id:
            raise BadRequest(f"SPDY: stream {frame.stream_id} opened out of order")
        self._last_id = frame.stream_id
        stream = Stream(self, frame, self._window)
        if len(self._streams) >= _STREAM_LIMIT or not self._on_stream(stream):
            self.post(spdy.RstStream(frame.stream_id, spdy.ResetStatus.REFUSED_STREAM))
            return
        self._streams[frame.stream_id] = stream
        self.post(spdy.SynReply(frame.stream_id))
        if frame.fin:
            self._end(stream)

    def _data(self, frame: spdy.Data) -> Stream | None:
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            if frame.stream_id > self._last_id:
                self.post(spdy.RstStream(frame.stream_id, spdy.ResetStatus.INVALID_STREAM))
            return None
        stream.inbox.feed(frame.data)
        if frame.fin:
            self._end(stream)
        return stream

    def _end(self, stream: Stream) -> None:
        stream.inbox.end()
        self.forget(stream)

    def _resize_windows(self, size: int) -> None:
        self.flow_controlled = True
        if size > spdy.MAX_WINDOW:
            raise BadRequest("SPDY: an initial window beyond 2**31 - 1")
        for stream in self._streams.values():
            stream.granted(size - self._window)
        self._window = size
