"""Dynamic batching: who runs with whom, in which order, and that nobody harms a neighbour."""

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("starlette")

from onnxpool.errors import SessionError
from onnxpool.serve import batcher as batching
from onnxpool.serve.batcher import Batcher
from onnxpool.serve.limits import Options, Refusal


def rows(*values, width=2):
    """A request whose rows are these values, ``width`` times each."""
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


class Model:
    """Doubles; remembers the first column of each run; refuses the value 13 with an error."""

    def __init__(self):
        self.runs = []

    def __call__(self, feeds):
        self.runs.append(feeds["x"][:, 0].tolist())
        if 13 in feeds["x"]:
            raise SessionError("13 is bad luck")
        return {"y": 2 * feeds["x"]}


LONG_S = 600
"""Longer than any test: what waits so long waits for something else."""


def outcomes(run, requests, joins=True, observe=lambda _: None, **options):
    """What each request gets, when all of them wait for the one worker, which is busy; errors as values."""
    may_run = threading.Event()

    def busy_at_first(feeds):
        if "first" in feeds:
            assert may_run.wait(LONG_S)
            return feeds
        return run(feeds)

    async def all_of_them():
        batcher = Batcher(busy_at_first, Options(**options), joins=joins, observe=observe)
        first = asyncio.ensure_future(batcher.submit({"first": np.zeros(0)}))
        await asyncio.sleep(0)  # it has the worker
        submitted = [asyncio.ensure_future(batcher.submit(request)) for request in requests]
        await asyncio.sleep(0)
        may_run.set()
        await first
        return await asyncio.gather(*submitted, return_exceptions=True)

    return asyncio.run(all_of_them())


def test_requests_join_in_order_and_get_their_own_rows():
    model = Model()
    given = outcomes(model, [rows(1), rows(2, 3), rows(4)], max_batch=4)
    assert model.runs == [[1, 2, 3, 4]]
    assert [answer["y"][:, 1].tolist() for answer in given] == [[2], [4, 6], [8]]


def test_a_batch_is_never_larger_than_allowed_and_no_request_is_split():
    model = Model()
    outcomes(model, [rows(1, 1, 1), rows(2, 2, 2), rows(3, 3, 3)], max_batch=8)
    assert model.runs == [[1, 1, 1, 2, 2, 2], [3, 3, 3]]


def test_only_equal_item_shapes_and_types_join():
    model = Model()
    half = {"x": np.full((1, 2), 9, np.float16)}
    given = outcomes(model, [rows(1), rows(2, width=3), half, rows(3)], max_batch=8)
    assert sorted(model.runs) == [[1, 3], [2], [9]]
    assert [answer["y"].shape for answer in given] == [(1, 2), (1, 3), (1, 2), (1, 2)]
    assert given[2]["y"].dtype == np.float16


def test_a_bad_request_harms_no_neighbour():
    model = Model()
    first, bad, last = outcomes(model, [rows(1), rows(13), rows(3)], max_batch=8)
    assert model.runs == [[1, 13, 3], [1], [13], [3]]
    assert (first["y"][0, 0], last["y"][0, 0]) == (2, 6)
    assert isinstance(bad, SessionError)


def test_a_model_that_gives_other_rows_runs_its_requests_one_by_one():
    given = outcomes(lambda feeds: {"y": feeds["x"].sum(0, keepdims=True)}, [rows(1), rows(2, 3)])
    assert [answer["y"].tolist() for answer in given] == [[[1, 1]], [[5, 5]]]


@pytest.mark.parametrize(
    ("requests", "joins", "most"),
    [
        ([rows(1), rows(2)], False, 8),
        ([rows(1), rows(2)], True, 1),
        ([rows(), rows()], True, 8),
        ([rows(*range(9)), rows(*range(9))], True, 8),
    ],
    ids=["not joinable", "batch of 1", "no rows", "too many rows"],
)
def test_these_run_alone(requests, joins, most):
    model = Model()
    given = outcomes(model, requests, joins=joins, max_batch=most)
    assert model.runs == [request["x"][:, 0].tolist() for request in requests]
    assert [len(answer["y"]) for answer in given] == [len(request["x"]) for request in requests]


def test_the_queue_ends():
    given = outcomes(Model(), [rows(i) for i in range(5)], max_queue=3, max_batch=8)
    assert [answer["y"][0, 0] for answer in given[:3]] == [0, 2, 4]
    assert [(error.status, error.retry_after_s) for error in given[3:]] == [(429, 1)] * 2
    assert all(isinstance(error, Refusal) for error in given[3:])


def test_a_batch_waits_until_it_is_full():
    model = Model()

    async def scene():
        batcher = Batcher(model, Options(max_batch=4, max_delay_s=LONG_S), joins=True)
        async with asyncio.timeout(LONG_S / 2):
            return await asyncio.gather(*map(batcher.submit, [rows(1), rows(2, 3), rows(4)]))

    assert [answer["y"][:, 1].tolist() for answer in asyncio.run(scene())] == [[2], [4, 6], [8]]
    assert model.runs == [[1, 2, 3, 4]]


def test_a_batch_that_never_fills_runs_when_its_time_is_up():
    async def scene():
        batcher = Batcher(Model(), Options(max_batch=4, max_delay_s=0.01), joins=True)
        return await batcher.submit(rows(1))

    assert asyncio.run(scene())["y"].tolist() == [[2, 2]]


def test_who_gives_up_does_not_run_and_frees_the_place():
    model, may_run = Model(), threading.Event()

    def run(feeds):
        assert may_run.wait(LONG_S)
        return model(feeds)

    async def scene():
        batcher = Batcher(run, Options(max_delay_s=0, max_batch=8, max_queue=2), joins=True)
        running = asyncio.ensure_future(batcher.submit(rows(1)))
        await asyncio.sleep(0)
        gone, stays = (asyncio.ensure_future(batcher.submit(rows(value))) for value in (2, 3))
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        gone.cancel()
        await asyncio.sleep(0)
        may_run.set()
        await asyncio.gather(running, stays)
        assert batcher.waiting == 0

    asyncio.run(scene())
    assert model.runs == [[1], [3]]


def test_without_delay_those_join_who_came_while_the_worker_was_busy():
    model = Model()

    async def scene():
        batcher = Batcher(model, Options(max_batch=8, max_delay_s=0), joins=True)
        await asyncio.gather(*map(batcher.submit, [rows(1), rows(2), rows(3)]))

    asyncio.run(scene())
    assert model.runs == [[1], [2, 3]]


def test_as_many_batches_at_once_as_workers():
    together = threading.Barrier(2, timeout=120)  # breaks, and so fails, where runs do not overlap

    def run(feeds):
        together.wait()
        return {"y": feeds["x"]}

    async def scene():
        batcher = Batcher(run, Options(workers=2), joins=True)
        return await asyncio.gather(*map(batcher.submit, [rows(1, width=1), rows(2, width=2)]))

    assert [answer["y"][0, 0] for answer in asyncio.run(scene())] == [1, 2]


def test_what_ran_is_told():
    told = []
    outcomes(Model(), [rows(1), rows(2, 3)], observe=told.append, max_batch=8)
    _, ran = told
    assert (ran.rows, len(ran.waited_s)) == (3, 2)
    assert all(waited_s >= 0 for waited_s in ran.waited_s)


def test_joined_answers_of_soft_pool_are_equal_bit_for_bit(tmp_path):
    from serving import soft

    import onnxpool

    session = onnxpool.load(soft(tmp_path / "soft.onnx"), threads=1)
    rng = np.random.default_rng(0)
    requests = [{"x": 10 * rng.normal(size=(n, 3, 5, 7)).astype(np.float32)} for n in (1, 2, 1, 3, 1)]
    ran = []
    given = outcomes(lambda feeds: ran.append(len(feeds["x"])) or session.run(feeds), requests)
    assert ran == [8]
    for request, answer in zip(requests, given, strict=True):
        assert answer["y"].tobytes() == session.run(request)["y"].tobytes()


# --- brief runs


def where(run, count, shapes=((1, 2),), **options):
    """For each of so many requests, one after the other, whether it ran on the event loop."""
    threads = []

    def watched(feeds):
        threads.append(threading.current_thread() is threading.main_thread())
        return run(feeds)

    async def scene():
        batcher = Batcher(watched, Options(**options), joins=True, straight=True)
        for i in range(count):
            feeds = {"x": np.full(shapes[i % len(shapes)], i, np.float32)}
            answer = await batcher.submit(feeds)
            np.testing.assert_array_equal(answer["y"], 2 * feeds["x"])

    asyncio.run(scene())
    return threads


def doubled(feeds):
    return {"y": 2 * feeds["x"]}


def test_brief_runs_take_place_on_the_loop_once_they_are_known(monkeypatch):
    monkeypatch.setattr(batching, "BRIEF_S", LONG_S)
    assert where(doubled, 12) == [False] * 8 + [True] * 4
    shapes = ((1, 2), (1, 3))  # each has to be known
    assert where(doubled, 18, shapes) == [False] * 16 + [True] * 2
    assert where(doubled, 10, max_batch=1) == [False] * 10


def test_runs_that_are_not_brief_and_models_that_may_loop_stay_in_threads(monkeypatch):
    monkeypatch.setattr(batching, "BRIEF_S", 1e-9)
    assert where(doubled, 12) == [False] * 12


def test_a_run_of_one_row_is_not_thought_an_eighth_of_a_run_of_eight(monkeypatch):
    """Much of it takes as long whatever the number of rows."""
    monkeypatch.setattr(batching, "BRIEF_S", 1.0)
    batcher = Batcher(doubled, Options(), joins=True, straight=True)
    request = batching._Request(rows(*range(8)), 8, ("key",), None)
    for _ in range(8):
        batcher._pace(("key",), [request], 4.0)
    assert not batcher._is_brief(("key",), [batching._Request(rows(1), 1, ("key",), None)])


def test_failures_are_not_brief_runs(monkeypatch):
    monkeypatch.setattr(batching, "BRIEF_S", LONG_S)
    threads = []

    def fails(feeds):
        threads.append(threading.current_thread() is threading.main_thread())
        raise SessionError("no")

    async def scene():
        batcher = Batcher(fails, Options(), joins=True, straight=True)
        for _ in range(12):
            with pytest.raises(SessionError):
                await batcher.submit(rows(1))

    asyncio.run(scene())
    assert threads == [False] * 12


def test_a_shape_that_becomes_slow_goes_back_to_threads(monkeypatch):
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(batching, "BRIEF_S", 500)
    pace = batching._Pace(8, 1.0, run_s=1.0)
    batcher = Batcher(doubled, Options(), joins=True, straight=True)
    batcher._paces["key"] = pace
    monkeypatch.setattr(batching.time, "monotonic", lambda: 3 * next(times))
    for _ in range(3):
        assert batcher._is_brief("key", [])
        batcher._run_here("key", [])
    assert not batcher._is_brief("key", [])


def test_shapes_that_clients_choose_are_forgotten(monkeypatch):
    monkeypatch.setattr(batching, "BRIEF_S", LONG_S)
    monkeypatch.setattr(batching, "_SHAPES", 3)
    assert where(doubled, 40, [(1, n) for n in range(2, 6)]) == [False] * 40


def test_requests_that_come_together_are_joined_on_the_loop_and_a_bad_one_harms_no_neighbour(monkeypatch):
    monkeypatch.setattr(batching, "BRIEF_S", LONG_S)
    model = Model()

    async def scene():
        batcher = Batcher(model, Options(max_batch=4), joins=True, straight=True)
        for _ in range(8):
            await batcher.submit(rows(1))
        model.runs.clear()
        several = [asyncio.ensure_future(batcher.submit(rows(value))) for value in (1, 2, 3, 4, 13, 6)]
        return await asyncio.gather(*several, return_exceptions=True)

    found = asyncio.run(scene())
    assert model.runs == [[1, 2, 3, 4], [13, 6], [13], [6]]
    assert [type(one) for one in found] == [dict] * 4 + [SessionError, dict]
    assert [one["y"][0, 0] for one in found if isinstance(one, dict)] == [2, 4, 6, 8, 12]
