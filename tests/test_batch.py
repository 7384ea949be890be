"""Folders and Parquet files through a model: shards, the answers of each row, runs that were stopped, wrong questions.

Workers run here, in this process; tests/test_ray.py gives the same shards to Ray.
"""

from dataclasses import asdict

import numpy as np
import onnx
import pytest
from models import pooled
from onnx import numpy_helper
from test_predict import RED, network, picture
from typer.testing import CliRunner

import onnxpool
from onnxpool._files import complete
from onnxpool.cli.commands import app
from onnxpool.deploy import batch
from onnxpool.deploy.rows import Setting, Worker
from onnxpool.deploy.shards import plan, shards
from onnxpool.errors import ArgumentError
from onnxpool.graph.forms import write
from onnxpool.run.picture import Preparation
from onnxpool.window import Window

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("PIL")
pytest.importorskip("onnxruntime")

PICTURES = {"size": None, "crop": 1.0, "mean": [0] * 3, "std": [1] * 3}


@pytest.fixture
def means(tmp_path):
    return network(tmp_path / "means.onnx", "GlobalAveragePool", "Flatten")


@pytest.fixture
def answers(tmp_path):
    """The rows that a worker writes for a source, shard by shard."""

    def answered(model, source, *, column=None, rows=2, max_batch=8):
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        worker = Worker(Setting(str(model), str(folder), column, 1, max_batch, PICTURES))
        for shard in shards(source, rows):
            worker.check(shard)
            done = worker.write(shard)
            found = pq.read_table(folder / shard.name).to_pylist()
            assert (done.rows, done.errors) == (len(found), sum(row["error"] is not None for row in found))
            yield from found

    return answered


def photos(folder, colors):
    folder.mkdir()
    for i, color in enumerate(colors):
        picture(folder / f"{i}.png", color, size=(8, 6) if i % 2 else (5, 5))
    return folder


# --- shards


def test_pictures_in_the_order_of_names_wherever_they_are(tmp_path):
    photos(tmp_path / "photos", [RED] * 3)
    (tmp_path / "photos" / "0a").mkdir()
    picture(tmp_path / "photos" / "0a" / "x.JPG", RED)
    (tmp_path / "photos" / "notes.txt").touch()
    first, second = shards(tmp_path / "photos", 3)
    names = [[source[len(str(tmp_path / "photos")) + 1 :] for source in shard.sources] for shard in (first, second)]
    assert names == [["0.png", "0a/x.JPG", "1.png"], ["2.png"]]
    assert [shard.name for shard in (first, second)] == ["part-00000.parquet", "part-00001.parquet"]


def test_rows_of_parquet_files_stay_within_one(tmp_path):
    for name, rows in (("b", 3), ("a", 5), ("empty", 0)):
        pq.write_table(pa.table({"x": pa.array(range(rows), pa.int64())}), tmp_path / f"{name}.parquet")
    found = [(shard.sources[0][-9], shard.start, shard.stop) for shard in shards(tmp_path, 2)]
    assert found == [("a", 0, 2), ("a", 2, 4), ("a", 4, 5), ("b", 0, 2), ("b", 2, 3)]


def test_sources_without_rows(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ArgumentError, match="none' has no row"):
        shards(tmp_path / "none", 2)
    with pytest.raises(ArgumentError, match="there is no such file or folder"):
        shards(tmp_path / "absent", 2)
    photos(tmp_path / "both", [RED])
    (tmp_path / "both" / "x.parquet").write_text("no table")
    with pytest.raises(ArgumentError, match="holds pictures and Parquet files"):
        shards(tmp_path / "both", 2)
    with pytest.raises(ArgumentError, match=r"x\.parquet cannot be read as Parquet"):
        shards(tmp_path / "both" / "x.parquet", 2)


def test_a_plan_is_kept_and_no_other_follows_it(tmp_path, means):
    planned = shards(photos(tmp_path / "photos", [RED] * 4), 2)
    assert plan(tmp_path / "out", means, planned, {"crop": 1}) == [*planned]
    (tmp_path / "out" / planned[0].name).touch()
    assert plan(tmp_path / "out", means, planned, {"crop": 1}) == [planned[1]]
    other = network(tmp_path / "other.onnx", "GlobalMaxPool", "Flatten")
    for change in ((other, planned, {"crop": 1}), (means, planned[:1], {"crop": 1}), (means, planned, {"crop": 2})):
        with pytest.raises(ArgumentError, match="holds the answers of another model, input or options"):
            plan(tmp_path / "out", *change)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_plan.json", planned[0].name]


def test_changed_pictures_and_weights_are_noticed(tmp_path, means):
    planned = shards(photos(tmp_path / "photos", [RED] * 4), 2)
    out = tmp_path / "out"
    plan(out, means, planned, {})
    for shard in planned:
        (out / shard.name).touch()
    assert plan(out, means, planned, {}) == []
    picture(tmp_path / "photos" / "3.png", (0, 0, 255))
    assert plan(out, means, planned, {}) == [planned[1]]
    assert plan(out, means, planned, {}) == [planned[1]]  # until it is done
    apart = onnx.load(means)
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "weights")
    apart.graph.initializer.append(weights)
    onnx.save(apart, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
    plan(tmp_path / "other", tmp_path / "apart.onnx", planned, {})
    data = bytearray((tmp_path / "apart.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "apart.data").write_bytes(data)
    with pytest.raises(ArgumentError, match="another model"):
        plan(tmp_path / "other", tmp_path / "apart.onnx", planned, {})


def test_the_folder_is_a_data_set_of_parquet(tmp_path, means):
    source = photos(tmp_path / "photos", [RED] * 3)
    for shard in plan(tmp_path / "out", means, shards(source, 2), {}):
        Worker(Setting(str(means), str(tmp_path / "out"), None, 1, 8, PICTURES)).write(shard)
    assert pq.read_table(tmp_path / "out").num_rows == 3


def test_a_file_that_is_not_complete_is_not_there(tmp_path):
    def stopped(file):
        file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path / "part.parquet", stopped)
    assert list(tmp_path.iterdir()) == []


# --- answers


@pytest.mark.parametrize("max_batch", [1, 8])
def test_each_picture_is_answered_and_a_bad_one_says_why(tmp_path, means, answers, max_batch):
    source = photos(tmp_path / "photos", [RED, RED, (0, 255, 0), RED, (0, 0, 51)])
    (source / "3.png").write_text("no picture")
    rows = list(answers(means, source, rows=4, max_batch=max_batch))
    assert [row["picture"] for row in rows] == [str(source / f"{i}.png") for i in range(5)]
    wanted = [[1, 0, 0], [1, 0, 0], [0, 1, 0], None, [0, 0, 0.2]]
    for row, y in zip(rows, wanted, strict=True):
        assert row["y"] == (y if y is None else pytest.approx(y))
        assert row["y.shape"] == (y if y is None else [1, 3])
    assert "3.png cannot be read as a picture" in rows[3]["error"]


def test_rows_of_one_shape_run_together_and_only_these(tmp_path, means, monkeypatch):
    source = tmp_path / "photos"
    source.mkdir()
    for i, side in enumerate([4, 4, 4, 5, 4, 4, 4]):
        picture(source / f"{i}.png", RED, size=(side, side))
    (source / "5.png").write_text("no picture")
    worker = Worker(Setting(str(means), str(tmp_path), None, 1, 2, PICTURES))
    run, read, done = worker.session.run, Preparation.array, []
    worker.session.run = lambda feeds: done.append(feeds["x"].shape[0]) or run(feeds)
    monkeypatch.setattr(Preparation, "array", lambda *picture: done.append("read") or read(*picture))
    worker.write(shards(source, 100)[0])
    assert [one for one in done if one != "read"] == [2, 1, 1, 1, 1]
    assert done[:4] == ["read", "read", "read", 2]  # no more in memory than a batch, and who is not in it


def test_pictures_in_a_column(tmp_path, means, answers):
    data = [picture(tmp_path / "p.png", color).read_bytes() for color in (RED, (0, 0, 255))]
    table = pa.table({"image": [data[0], None, b"no picture", data[1]], "label": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
    rows = list(answers(means, tmp_path / "rows.parquet", column="image"))
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert {row["file"] for row in rows} == {str(tmp_path / "rows.parquet")}
    assert [row["y"] for row in rows] == [[1, 0, 0], None, None, [0, 0, 1]]
    assert rows[1]["error"] == "there is no value in this row"
    assert rows[2]["error"].startswith("the picture cannot be read")


def test_pictures_as_hugging_face_has_them(tmp_path, means, answers):
    data = picture(tmp_path / "p.png", RED).read_bytes()
    values = [{"bytes": data, "path": None}, {"bytes": None, "path": "p.png"}, {"bytes": None, "path": None}, None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(values, kind)}), tmp_path / "rows.parquet")
    rows = list(answers(means, tmp_path / "rows.parquet", column="image"))
    assert [row["y"] for row in rows] == [[1, 0, 0], [1, 0, 0], None, None]
    assert rows[2]["error"] == "there are neither bytes nor a path in this row"


def test_a_group_of_rows_is_read_once_for_many_shards(tmp_path, answers, monkeypatch):
    fixed = network(tmp_path / "fixed.onnx", "Flatten", shape=("N", 2, 2))
    values = [[float(i)] * 4 for i in range(12)]
    pq.write_table(pa.table({"x": values}), tmp_path / "x.parquet", row_group_size=8)
    read, groups = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, i, **how: groups.append(i) or read(file, i, **how)
    )
    assert [row["y"] for row in answers(fixed, tmp_path / "x.parquet", rows=2)] == values
    assert groups == [0, 1]


@pytest.mark.parametrize("group", [1, 2, 100])
def test_numbers_in_a_column_nested_or_flat(tmp_path, answers, group):
    write(onnxpool.to_form(pooled(Window.of(1, 2)), "function"), tmp_path / "pool.onnx")
    x = np.arange(20, dtype=np.float32).reshape(5, 1, 4)
    pq.write_table(pa.table({"x": x.tolist()}), tmp_path / "x.parquet", row_group_size=group)
    rows = list(answers(tmp_path / "pool.onnx", tmp_path / "x.parquet", rows=3))
    e = np.exp([0, 1])
    step = (e * [0, 1]).sum() / e.sum()
    for i, row in enumerate(rows):
        assert row["y"] == pytest.approx([4 * i + step, 4 * i + 2 + step], rel=1e-6)
        assert row["y.shape"] == [1, 1, 2]
    fixed = network(tmp_path / "fixed.onnx", "Flatten", shape=("N", 2, 2))
    values = [[1.0, 2, 3, 4], [1.0], None, [5.0, 6, 7, 8]]
    pq.write_table(pa.table({"x": values}), tmp_path / "flat.parquet", row_group_size=group)
    rows = list(answers(fixed, tmp_path / "flat.parquet"))
    assert [row["y"] for row in rows] == [values[0], None, None, values[3]]
    assert "column='x' does not fit input 'x' of shape ('N', 2, 2)" in rows[1]["error"]


def test_types_are_the_same_in_a_shard_without_answers(tmp_path, means, answers):
    source = photos(tmp_path / "photos", [RED, RED])
    (source / "1.png").write_text("no picture")
    list(answers(means, source, rows=1))
    first, second = (pq.read_schema(tmp_path / "out" / f"part-0000{i}.parquet") for i in range(2))
    assert first == second
    assert str(first.field("y").type) == "list<element: float>"


def test_a_column_that_is_not_there(tmp_path, answers):
    model = network(tmp_path / "m.onnx", "Flatten", shape=("N", 3))
    pq.write_table(pa.table({"a": [[1.0]], "b": [[1.0]]}), tmp_path / "x.parquet")
    for column in ("absent", None):
        with pytest.raises(ArgumentError, match=f"column='{column or 'x'}' is not in .*; it has a, b"):
            list(answers(model, tmp_path / "x.parquet", column=column))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"shard": 0}, "shard=0 must be at least 1"),
        ({"size": (0, 1)}, "must be two positive numbers"),
        ({"mean": [1]}, "must be 3 numbers"),
    ],
)
def test_wrong_arguments_are_found_before_anything_starts(tmp_path, means, arguments, told):
    with pytest.raises(ArgumentError, match=told):
        batch.run_batch(means, photos(tmp_path / "photos", [RED]), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_finished_batch_starts_nothing(tmp_path, means):
    source = photos(tmp_path / "photos", [RED] * 3)
    arguments = ["batch", str(means), str(source), str(tmp_path / "out"), "--shard", "2"]
    pictures = {"size": None, "crop": 0.875, "mean": None, "std": None}
    for shard in plan(tmp_path / "out", means, shards(source, 2), {"column": None, **pictures}):
        Worker(Setting(str(means), str(tmp_path / "out"), None, 1, 8, pictures)).write(shard)
    told = []
    done = batch.run_batch(means, source, tmp_path / "out", shard=2, progress=lambda *what: told.append(what))
    assert asdict(done) | {"time_s": 0} == {
        "folder": str(tmp_path / "out"), "shards": 2, "skipped": 2, "rows": 0, "errors": 0, "time_s": 0
    }  # fmt: skip
    assert told == [(2, 2, None)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "0 of 2 shards written" in result.stdout


@pytest.mark.parametrize(
    ("skipped", "rows", "time_s", "lines"),
    [
        (0, 3, 13.3, ["3 of 3 shards written to out", "3 rows in 13.3 s, 0.23 a second; 0 could not be run"]),
        (1, 90, 20.0, ["2 of 3 shards written to out; 1 was there already", "90 rows in 20.0 s, 4.5 a second; 0 c"]),
        (2, 999, 0.9, ["1 of 3 shards written to out; 2 were there already", "999 rows in 0.9 s, 1110 a second; 0 c"]),
        (3, 0, 0.0, ["0 of 3 shards written to out; 3 were there already", "0 rows in 0.0 s; 0 could not be run"]),
    ],
)
def test_what_a_batch_says_of_itself(skipped, rows, time_s, lines):
    told = batch.Batch("out", 3, skipped, rows, 0, time_s).summary.split("\n")
    assert [one[: len(line)] for one, line in zip(told, lines, strict=True)] == lines
