"""How long one request is waited for: until its time is up, or its client has left.

>>> async def within_a_second(work):
...     with Patience() as patience:
...         patience.allow(1.0, 504, "there was no answer within {:g} s")
...         return await work
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self, TypeAlias

from onnxpool.serve.limits import Refusal

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

NO_ANSWER = "there was no answer within {:g} s"

LOOK_S = 0.05
"""How long a client is not watched: most answers come sooner, and need neither a task nor a second timer."""


class Patience:
    """A context in which a task may wait; it is cancelled there, and a :class:`Refusal` leaves the context.

    One timer serves every limit of a request, since :meth:`allow` only moves its end. Those that end the task from
    elsewhere are not taken for it: their CancelledError passes.
    """

    __slots__ = (
        "_begin_s",
        "_due_s",
        "_end_s",
        "_given_up",
        "_loop",
        "_others",
        "_receive",
        "_said",
        "_task",
        "_timer",
        "_watch",
    )

    def __enter__(self) -> Self:
        """Begin to count; within a task."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._others = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._begin_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Future[Any] | None = None
        self._receive: Receive | None = None
        self._given_up: Refusal | None = None
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Refuse where it was this that ended the task."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._left)
            self._watch.cancel()
        if self._given_up is not None and self._task.uncancel() <= self._others and kind is asyncio.CancelledError:
            raise self._given_up from None

    def allow(self, seconds: float, status: int, said: str, *, again: bool = False) -> None:
        """So much time from the beginning, or from now on if ``again``; ``said`` of the refusal has a {} for it."""
        if again:
            self._begin_s = self._loop.time()
        self._end_s = self._begin_s + seconds
        self._said = (status, said, seconds)
        due_s = min(self._end_s, self._begin_s + LOOK_S)
        if self._timer is None or due_s < self._due_s:
            self._arm(due_s)

    def watch(self, receive: Receive) -> None:
        """Refuse (499) when the client of this ASGI conversation, whose request is whole, has left."""
        self._receive = receive

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        if self._loop.time() >= self._end_s:
            status, said, seconds = self._said
            self._give_up(Refusal(status, said.format(seconds)))
            return
        if self._receive is not None and self._watch is None:
            self._watch = asyncio.ensure_future(self._receive())
            self._watch.add_done_callback(self._left)
        self._arm(self._end_s if self._watch is not None else min(self._end_s, self._loop.time() + LOOK_S))

    def _left(self, gone: asyncio.Future[Any]) -> None:
        if not gone.cancelled():
            gone.exception()  # looked at, so that nobody is told of it
            self._give_up(Refusal(499, "the client went away"))

    def _give_up(self, refusal: Refusal) -> None:
        if self._given_up is None:
            self._given_up = refusal
            self._task.cancel()
