"""How long a request waits: limits that move, clients that leave, and cancellations that are somebody else's."""

import asyncio

import pytest

pytest.importorskip("starlette")

from onnxpool.serve.limits import Refusal
from onnxpool.serve.patience import Patience

LONG_S = 600


def waits(scene):
    """What a task that runs this scene is refused with."""
    with pytest.raises(Refusal) as refusal:
        asyncio.run(scene())
    return refusal.value.status, str(refusal.value)


def test_the_last_limit_holds_and_each_begins_where_it_says():
    async def scene():
        with Patience() as patience:
            patience.allow(LONG_S, 408, "too late by {:g}")
            patience.allow(0.05, 504, "none within {:g} s", again=True)
            await asyncio.sleep(LONG_S)

    assert waits(scene) == (504, "none within 0.05 s")


def test_a_limit_may_grow_while_it_is_waited_for():
    async def scene():
        with Patience() as patience:
            patience.allow(0.02, 408, "{}")
            patience.allow(LONG_S, 408, "{}")
            await asyncio.sleep(0.2)
            return "done"

    assert asyncio.run(scene()) == "done"


def test_a_client_that_leaves_ends_it_and_one_that_stays_does_not():
    async def scene(left):
        async def receive():
            await asyncio.sleep(0 if left else LONG_S)
            return {"type": "http.disconnect"}

        with Patience() as patience:
            patience.allow(LONG_S, 504, "{}")
            patience.watch(receive)
            await asyncio.sleep(LONG_S if left else 0.2)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.cancelling()]

    assert waits(lambda: scene(True)) == (499, "the client went away")
    assert asyncio.run(scene(False)) == []


def test_a_task_that_others_cancel_is_cancelled():
    async def waiting():
        with Patience() as patience:
            patience.allow(LONG_S, 504, "{}")
            await asyncio.sleep(LONG_S)

    async def scene():
        task = asyncio.ensure_future(waiting())
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scene())


def test_an_error_within_is_what_it_is_and_nothing_is_left_to_fire():
    async def failing():
        with Patience() as patience:
            patience.allow(0.01, 504, "{}")
            raise ZeroDivisionError

    async def scene():
        with pytest.raises(ZeroDivisionError):
            await failing()
        await asyncio.sleep(0.1)
        return asyncio.current_task().cancelling()

    assert asyncio.run(scene()) == 0
