"""Pictures to arrays and answers to classes: by hand on pictures made here, then on real photographs."""

import io
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from onnxpool.cli.commands import app
from onnxpool.domain import IR_VERSION
from onnxpool.errors import ArgumentError
from onnxpool.run.picture import LARGEST, MEAN, STD, Preparation
from onnxpool.run.predict import predict, softmax
from onnxpool.run.session import TensorInfo

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("onnxruntime")

RED = (255, 0, 0)


def network(path: Path, *operators: str, shape=("N", 3, "H", "W"), dtype=TensorProto.FLOAT) -> Path:
    """These operators one after the other, each with one input and one output, from x to y."""
    names = ["x", *(f"v{i}" for i in range(1, len(operators))), "y"]
    nodes = [helper.make_node(name, names[i : i + 1], names[i + 1 : i + 2]) for i, name in enumerate(operators)]
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph(nodes, "graph", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=IR_VERSION)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def picture(path: Path, color, size=(8, 6), mode="RGB", **options) -> Path:
    Image.new(mode, size, color).save(path, **options)
    return path


def info(shape, dtype="float32"):
    return [TensorInfo("x", np.dtype(dtype), shape)]


@pytest.fixture
def means(tmp_path):
    """The mean of each channel: three classes."""
    return network(tmp_path / "means.onnx", "GlobalAveragePool", "Flatten")


# --- pictures to arrays


def test_pixels_are_scaled_per_channel(tmp_path):
    array = Preparation.of(info(("N", 3, "H", "W"))).array(picture(tmp_path / "p.png", (255, 51, 0)))
    assert array.shape == (1, 3, 6, 8)
    assert array.dtype == np.float32
    wanted = (np.array([1, 0.2, 0]) - MEAN) / STD
    np.testing.assert_allclose(array[0, :, 3, 4], wanted, rtol=1e-6)
    assert (array == array[:, :, :1, :1]).all()


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_types_round_the_same_numbers(tmp_path, dtype):
    from ml_dtypes import bfloat16

    dtype = np.dtype(bfloat16 if dtype == "bfloat16" else dtype)
    array = Preparation.of([TensorInfo("x", dtype, (1, 3, None, None))]).array(picture(tmp_path / "p.png", RED))
    assert array.dtype == dtype
    assert array[0, 0, 0, 0] == dtype.type((1 - MEAN[0]) / STD[0])


def test_uint8_takes_pixels_as_they_are_channels_last(tmp_path):
    preparation = Preparation.of(info((1, 6, 8, 3), "uint8"), crop=1)
    assert preparation.array(picture(tmp_path / "p.png", (1, 2, 255)))[0, 0, 0].tolist() == [1, 2, 255]


def test_one_channel_takes_the_grey_of_a_picture(tmp_path):
    preparation = Preparation.of(info((1, 1, None, None)), mean=[0], std=[1])
    array = preparation.array(picture(tmp_path / "p.png", RED))
    assert array.shape == (1, 1, 6, 8)
    assert array[0, 0, 0, 0] == np.float32(76 / 255)  # 0.299 of 255, as Pillow rounds it
    array = Preparation.of(info((1, 1, None, None))).array(tmp_path / "p.png")
    assert array[0, 0, 0, 0] == pytest.approx((76 / 255 - np.mean(MEAN)) / np.mean(STD), rel=1e-6)


def test_fixed_sizes_take_the_middle_in_proportion(tmp_path):
    stripes = np.zeros((4, 12, 3), np.uint8)
    stripes[:, 4:8] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    array = Preparation.of(info((1, 3, 4, 4)), crop=1, mean=[0] * 3, std=[1] * 3).array(tmp_path / "stripes.png")
    assert (array == 1).all()
    wide = Preparation.of(info((1, 3, "H", "W")), size=(2, 6), crop=1, mean=[0] * 3, std=[1] * 3)
    assert wide.array(tmp_path / "stripes.png")[0, 0, 0].round().tolist() == [0, 0, 1, 1, 0, 0]
    close = Preparation.of(info((1, 3, "H", "W")), size=(2, 6), crop=1 / 3, mean=[0] * 3, std=[1] * 3)
    assert close.array(tmp_path / "stripes.png").min() > 0.5


def test_pictures_are_turned_as_their_data_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    path = picture(tmp_path / "p.jpg", RED, exif=exif)
    assert Preparation.of(info(("N", 3, "H", "W"))).array(path).shape == (1, 3, 8, 6)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "LA"])
def test_every_ordinary_mode_is_read(tmp_path, mode):
    path = tmp_path / ("p.tiff" if mode == "CMYK" else "p.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    array = Preparation.of(info((1, 3, None, None)), mean=[0] * 3, std=[1] * 3).array(path.read_bytes())
    assert array.shape == (1, 3, 4, 5)
    assert (array == 1).all()


@pytest.mark.parametrize(
    ("inputs", "arguments", "told"),
    [
        (info((1, 3, 4, 4)) * 2, {}, "takes 2 inputs, x, x; a picture is one"),
        (info((1, 10)), {}, r"has shape \(1, 10\); a picture needs 4 axes"),
        (info((1, 4, 8, 8)), {}, "with 4 channels; a picture has 1 or 3"),
        (info((2, 3, 8, 8)), {}, "2 pictures at a time, always; export the model again with --dynamic batch"),
        (info((1, 3, 8, "W")), {}, r"give size=\(height, width\)"),
        (info((1, 3, 8, 8)), {"size": (8, 9)}, r"size=\(8, 9\) does not fit input 'x' of shape"),
        (info((1, 3, None, None)), {"size": (0, 9)}, r"size=\(0, 9\) must be two positive numbers"),
        (info((1, 3, 8, 8), "int64"), {}, "'x' is int64; pictures become float32"),
        (info((1, 3, 8, 8), "uint8"), {"mean": [0] * 3}, "leave mean and std out"),
        (info((1, 3, 8, 8)), {"mean": [0.5]}, "must be 3 numbers, one per channel"),
        (info((1, 3, 8, 8)), {"mean": [math.nan] * 3}, "must be 3 numbers"),
        (info((1, 3, 8, 8)), {"std": [1, 1, 0]}, r"std=\[1, 1, 0\] must be 3 positive numbers"),
        (info((1, 3, 8, 8)), {"crop": 0}, "crop=0 must be above 0 and at most 1"),
    ],
)
def test_models_that_take_no_such_picture(inputs, arguments, told):
    with pytest.raises(ArgumentError, match=told):
        Preparation.of(inputs, **arguments)


def test_files_that_are_no_picture(tmp_path):
    preparation = Preparation.of(info((1, 3, None, None)))
    whole = picture(tmp_path / "whole.png", RED, (64, 64)).read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 40])
    for name, told in (
        ("absent.png", "there is no picture file .*absent.png"),
        ("text.png", "text.png cannot be read as a picture"),
        ("cut.png", "cut.png is damaged"),
    ):
        with pytest.raises(ArgumentError, match=told):
            preparation.array(tmp_path / name)
    postscript = io.BytesIO()  # Pillow would start Ghostscript for it
    Image.new("RGB", (4, 4)).save(postscript, "EPS")
    for data in (b"", whole[:20], b"\x00" * 100, postscript.getvalue()):
        with pytest.raises(ArgumentError, match="the picture cannot be read"):
            preparation.array(data)
    with pytest.raises(ArgumentError, match="more than 8 bits per channel"):
        preparation.array(picture(tmp_path / "deep.png", 70, mode="I;16"))


@pytest.mark.parametrize("side", [math.isqrt(LARGEST) + 1, 10_000, 50_000])
def test_a_small_file_that_claims_many_pixels_is_refused_unread(tmp_path, side):
    data = bytearray(picture(tmp_path / "p.bmp", RED).read_bytes())
    data[18:26] = side.to_bytes(4, "little") * 2
    with pytest.raises(ArgumentError, match=f"pixels; at most {LARGEST} are read"):
        Preparation.of(info((1, 3, None, None))).array(bytes(data))


# --- answers to classes


def test_the_red_class_of_a_red_picture(tmp_path, means):
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    (found,) = predict(means, [picture(tmp_path / "red.png", RED)], labels=tmp_path / "labels.txt", top=2).pictures
    powers = np.exp((np.array([1, 0, 0]) - MEAN) / STD)
    (output,) = found.outputs
    assert [(one.index, one.label) for one in output.classes] == [(0, "red"), (2, "blue")]
    np.testing.assert_allclose([one.score for one in output.classes], (powers / powers.sum())[[0, 2]], rtol=1e-5)
    assert output.shape == (1, 3)
    assert found.time_s > 0


def test_labels_beside_the_model_need_not_be_named(tmp_path, means):
    (tmp_path / "means.labels.txt").write_text("red\ngreen\nblue\n")
    red = picture(tmp_path / "red.png", RED)
    assert predict(means, [red]).pictures[0].outputs[0].classes[0].label == "red"
    (tmp_path / "other.txt").write_text("a\nb\nc\n")
    assert predict(means, [red], labels=tmp_path / "other.txt").pictures[0].outputs[0].classes[0].label == "a"


def test_scores_that_a_model_settled_stay(tmp_path):
    red = picture(tmp_path / "red.png", RED)
    tail = ("GlobalAveragePool", "Flatten")
    for settled in ("Softmax", "Sigmoid"):
        model = network(tmp_path / "m.onnx", *tail, settled, "Identity")
        auto, plain = (predict(model, [red], scores=scores).pictures[0] for scores in ("auto", "as-is"))
        twice = predict(model, [red], scores="softmax").pictures[0]
        assert auto.outputs == plain.outputs != twice.outputs
    logits = predict(network(tmp_path / "m.onnx", *tail), [red], scores="as-is").pictures[0].outputs[0]
    assert logits.classes[0].score == pytest.approx((1 - MEAN[0]) / STD[0], rel=1e-6)
    assert logits.largest == logits.classes[0].score


def test_other_outputs_are_figures(tmp_path):
    model = network(tmp_path / "root.onnx", "Sqrt")
    (found,) = predict(model, [picture(tmp_path / "p.png", (255, 0, 255))], mean=[0.5] * 3, std=[0.5] * 3).pictures
    (output,) = found.outputs
    assert output.classes == ()
    assert (output.shape, output.least, output.largest, output.mean, output.nan) == ((1, 3, 6, 8), 1, 1, 1, 48)


def test_softmax_of_huge_and_infinite_numbers():
    np.testing.assert_allclose(softmax(np.array([1e300, 1e300, -1e300])), [0.5, 0.5, 0])
    np.testing.assert_allclose(softmax(np.array([-np.inf, 0.0])), [0, 1])
    assert np.isnan(softmax(np.array([np.inf, 0.0]))).any()


def test_scores_that_are_not_finite_are_null_in_json(tmp_path):
    model = network(tmp_path / "m.onnx", "GlobalAveragePool", "Flatten", "Log")
    found = predict(model, [picture(tmp_path / "p.png", RED)], mean=[0] * 3, std=[1] * 3, scores="as-is")
    classes = found.pictures[0].outputs[0].classes
    assert [(one.index, one.score) for one in classes] == [(0, 0.0), (1, None), (2, None)]
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"top": 0}, "top=0 must be at least 1"),
        ({"scores": "percent"}, "scores='percent' is unknown; use one of auto, softmax, as-is"),
        ({"labels": "two.txt"}, "labels has 2 lines, but output 'y' has 3 classes"),
        ({"labels": "absent.txt"}, "labels='absent.txt' cannot be read"),
        ({"labels": "empty.txt"}, "labels='empty.txt' is empty"),
        ({"pictures": []}, r"pictures=\[\] is empty"),
    ],
)
def test_wrong_arguments(tmp_path, means, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("a\nb\n")
    Path("empty.txt").touch()
    with pytest.raises(ArgumentError, match=told):
        predict(means, **{"pictures": [picture(tmp_path / "p.png", RED)], **arguments})


# --- the command, on photographs


def test_photographs_on_the_command_line(tmp_path, means):
    datasets = pytest.importorskip("sklearn.datasets")
    photographs = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    files = [str(tmp_path / f"{i}.png") for i in range(2)]
    for photograph, file in zip(photographs, files, strict=True):
        Image.fromarray(photograph).save(file)
    arguments = ["predict", str(means), *files, "--scores", "as-is", "--mean", "0,0,0", "--std", "1,1,1"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    for photograph, told in zip(photographs, json.loads(result.stdout)["pictures"], strict=True):
        scores = {one["index"]: one["score"] for one in told["outputs"][0]["classes"]}
        np.testing.assert_allclose([scores[i] for i in range(3)], photograph.mean((0, 1)) / 255, rtol=1e-3)
    table = CliRunner().invoke(app, [*arguments, "--size", "32x32"]).stdout
    assert "class 0" in table
    assert "1.png" in table


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "32"], "size='32' must be HEIGHTxWIDTH, such as 224x224"),
        (["--size", "axb"], "size='axb' must be HEIGHTxWIDTH"),
        (["--mean", "0;0;0"], "mean='0;0;0' must be numbers with commas, such as 0.5,0.5,0.5"),
    ],
)
def test_wrong_options_of_the_command(tmp_path, means, arguments, told):
    result = CliRunner().invoke(app, ["predict", str(means), str(picture(tmp_path / "p.png", RED)), *arguments])
    assert result.exit_code == 2
    assert told in result.stderr
