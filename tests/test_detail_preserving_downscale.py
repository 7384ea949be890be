"""Detail-preserving downscaling: numbers by hand, patches that are not whole, laws, gradients, export, pictures."""

import json
import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, ran
from PIL import Image
from typer.testing import CliRunner

from onnxpool import nn
from onnxpool.cli.commands import app
from onnxpool.errors import ArgumentError
from onnxpool.run.downscale import downscale

SIZES = [(4, 3), (9, 8), (1, 1), (5, 7), (3, 2)]
"""Of 9 x 8 pixels: patches of whole pixels and of others."""


def test_numbers_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]], dtype=torch.float64)  # its mean is 3.75
    for power in (0.5, 1, 2):
        weights = [abs(value - 3.75) ** power for value in (1, 2, 3, 9)]
        answer = sum(w * value for w, value in zip(weights, (1, 2, 3, 9), strict=True)) / sum(weights)
        layer = nn.DetailPreservingDownscale(1, lambda_=power)
        assert layer(x).item() == pytest.approx(answer, rel=1e-14)
        assert layer.reference(x.numpy()).item() == pytest.approx(answer, rel=1e-14)
    assert nn.DetailPreservingDownscale(1, lambda_=0)(x).item() == 3.75


def test_patches_that_are_not_whole_and_the_guide_at_edges_by_hand():
    """Three pixels into two: each gets half of the middle one; the guide of both is (2 own + other) / 3."""
    x = torch.tensor([[[[0.0, 6.0, 3.0]]]], dtype=torch.float64)
    left, right = (0 + 3) / 1.5, (3 + 3) / 1.5
    guides = (2 * left + right) / 3, (2 * right + left) / 3
    patches = [((0, 1), (6, 0.5)), ((6, 0.5), (3, 1))]
    answers = []
    for guide, patch in zip(guides, patches, strict=True):
        weights = [share * abs(value - guide) for value, share in patch]
        answers.append(sum(w * value for w, (value, _) in zip(weights, patch, strict=True)) / sum(weights))
    layer = nn.DetailPreservingDownscale((1, 2))
    assert layer(x).flatten().tolist() == pytest.approx(answers, rel=1e-14)
    assert layer.reference(x.numpy()).ravel().tolist() == pytest.approx(answers, rel=1e-14)


def test_channels_have_one_distance():
    """The second channel's guide is met everywhere, so that the first one's distances weigh it."""
    x = torch.tensor([[[[1.0, 2.0, 3.0, 10.0]], [[4.0, 4.0, 4.0, 4.0]], [[0.0, 3.0, 0.0, 0.0]]]], dtype=torch.float64)
    distances = [math.hypot(a - 4, b - 0.75) for a, b in zip(x[0, 0, 0], x[0, 2, 0], strict=True)]
    answers = [
        sum(d * v for d, v in zip(distances, channel[0].tolist(), strict=True)) / sum(distances) for channel in x[0]
    ]
    assert nn.DetailPreservingDownscale(1)(x).flatten().tolist() == pytest.approx(answers, rel=1e-14)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_torch_agrees_with_the_reference_everywhere(size):
    for power in (0.0, 0.5, 1.0, 3.0):
        layer = nn.DetailPreservingDownscale(size, lambda_=power)
        for name, x in inputs(WINDOWS[4], 1.79e308).items():
            scale = np.abs(x[np.isfinite(x)]).max(initial=0)
            y, answer = layer(torch.from_numpy(x)).numpy(), layer.reference(x)
            np.testing.assert_allclose(y, answer, rtol=0, atol=1e-12 * scale, err_msg=f"{name}, {power}")


def test_laws():
    x = torch.randn(2, 3, 11, 13, dtype=torch.float64, generator=torch.manual_seed(1))
    layer = nn.DetailPreservingDownscale((4, 5))
    y = layer(x)
    torch.testing.assert_close(layer(x + 5), y + 5)
    torch.testing.assert_close(layer(-3 * x), -3 * y)
    torch.testing.assert_close(layer(x[:, [2, 0, 1]]), y[:, [2, 0, 1]])
    torch.testing.assert_close(layer(x.flip(2, 3)), y.flip(2, 3))
    torch.testing.assert_close(nn.DetailPreservingDownscale((11, 13))(x), x, rtol=0, atol=0)
    box = nn.DetailPreservingDownscale((4, 5), lambda_=0)
    rows = x.repeat_interleave(4, 2).repeat_interleave(5, 3)
    torch.testing.assert_close(box(x), torch.nn.functional.avg_pool2d(rows, (11, 13)))
    for value in (0.1, -7.3, 1e30, 3.4028235e38, 1e-45, 0.0):
        x = torch.tensor(value).expand(1, 3, 11, 13)
        assert torch.equal(layer(x), x[..., :4, :5])


def test_strips_of_a_large_picture_change_nothing(monkeypatch):
    x = torch.randn(1, 3, 40, 33, generator=torch.manual_seed(2))
    layer = nn.DetailPreservingDownscale((7, 5))
    whole = layer(x)
    monkeypatch.setattr("onnxpool.pools.detail_preserving_downscale._LARGEST", 1)
    torch.testing.assert_close(layer(x), whole, rtol=0, atol=0)


def test_gradients_are_true():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True, generator=torch.manual_seed(3))
    for power in (0.0, 0.5, 1.0, 2.0):
        assert torch.autograd.gradcheck(nn.DetailPreservingDownscale((2, 4), lambda_=power), (x,), fast_mode=True)
    for flat in (
        torch.zeros(1, 2, 4, 4),
        torch.full((1, 2, 4, 4), 3e38),
        torch.tensor([1e-40, 1.0]).expand(1, 2, 4, 2),
    ):
        leaf = flat.clone().requires_grad_()
        nn.DetailPreservingDownscale(2, lambda_=0.5)(leaf).sum().backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (nn.DetailPreservingDownscale((4, 3)), torch.float32),
        (nn.DetailPreservingDownscale(scale_factor=(1 / 3, 0.4), lambda_=0.5), torch.float16),
    ],
    ids=str,
)
def test_exported_with_sizes_that_change(layer, dtype):
    model = exported(layer, torch.zeros(2, 3, 9, 8, dtype=dtype))
    assert str(model.graph.outputs[0].shape) == (
        "[batch,3,4,3]" if layer.size else "[batch,3,(height//3),((2*width)//5)]"
    )
    largest = torch.finfo(dtype).max
    feeds = {name: x for name, x in inputs(WINDOWS[4], largest).items() if x.shape[1] == 3}
    rng = np.random.default_rng(4)
    feeds |= {str(shape): rng.standard_normal(shape) for shape in ((1, 3, 4, 5), (1, 3, 37, 50), (2, 3, 12, 9))}
    for name, wide in feeds.items():
        x = torch.from_numpy(wide).to(dtype)
        y, answer = ran(model, x), layer.reference(x.double().numpy())
        scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
        rounding = (2**-10 if dtype == torch.float16 else 2**-20) * scale + 2**-145
        lost = scale * 2**-11.5 * (layer.lambda_ < 1)  # what a distance of 0 weighs where rounding makes it 1e-7
        np.testing.assert_allclose(y.double(), answer, rtol=0, atol=rounding + lost, err_msg=name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, "size=None and scale_factor=None: give one of them"),
        ({"size": 3, "scale_factor": 0.5}, "give one of them"),
        ({"size": 0}, "size=0: each number must be at least 1"),
        ({"size": (2, 2.0)}, "size=(2, 2.0) must be an int or 2 ints"),
        ({"scale_factor": 1.5}, "scale_factor=1.5 must be a number from 0.0001 to 1"),
        ({"scale_factor": "2"}, "scale_factor='2' must be a number"),
        ({"size": 3, "lambda_": -1}, "lambda_=-1 must be a number of at least 0"),
        ({"size": 3, "lambda_": math.nan}, "lambda_=nan must be a number of at least 0"),
    ],
)
def test_refused_arguments(words, told):
    with pytest.raises(ArgumentError) as caught:
        nn.DetailPreservingDownscale(**words)
    assert told in str(caught.value)


def test_refused_inputs():
    with pytest.raises(ArgumentError, match=r"x has shape \(1, 3, 4, 9\), which cannot be downscaled to \(5, 5\)"):
        nn.DetailPreservingDownscale(5)(torch.ones(1, 3, 4, 9))
    with pytest.raises(ArgumentError, match=r"cannot be downscaled to \(0, 2\)"):
        nn.DetailPreservingDownscale(scale_factor=0.25)(torch.ones(1, 3, 3, 9))


# --- picture files


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(path):
    with Image.open(path) as image:
        return np.asarray(image), image.mode


def test_a_picture_file(tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    result = run("downscale", tmp_path / "photo.png", "--size", "8", "--json")
    assert result.exit_code == 0, result.output
    written = tmp_path / "photo.12x8.png"
    assert json.loads(result.stdout) == {"output": str(written), "before": [30, 20], "after": [12, 8]}
    answer = nn.DetailPreservingDownscale((12, 8)).reference(pixels.transpose(2, 0, 1)[None].astype(float))
    assert np.abs(read(written)[0].transpose(2, 0, 1) - answer[0]).max() <= 0.51
    grey = run(
        "downscale", tmp_path / "photo.png", "--size", "5x7", "-o", tmp_path / "new" / "small.jpg", "--lambda", 0
    )
    assert grey.exit_code == 0, grey.output
    assert read(tmp_path / "new" / "small.jpg")[0].shape == (5, 7, 3)


def test_a_grey_picture_stays_grey(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    made = downscale(tmp_path / "grey.png", height=4)
    assert (made.after, read(made.output)[1]) == ((4, 4), "L")


def test_transparency_is_kept(tmp_path):
    rng = np.random.default_rng(6)
    seen = rng.integers(0, 256, (8, 6, 4), np.uint8)
    seen[:4, :, 3], seen[4:, :, 3] = 255, rng.integers(1, 255, (4, 6))
    seen[:, 4:, 3] = 0
    hidden = seen.copy()
    hidden[:, 4:, :3] = 255 - hidden[:, 4:, :3]
    for name, pixels in (("seen", seen), ("hidden", hidden)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        downscale(tmp_path / f"{name}.png", tmp_path / f"{name}.small.png", width=3)
    small, mode = read(tmp_path / "seen.small.png")
    assert mode == "RGBA"
    np.testing.assert_array_equal(small, read(tmp_path / "hidden.small.png")[0])  # what is not seen has no weight
    opacity = seen[..., 3:].transpose(2, 0, 1)[None] / 255
    weighed = np.concatenate([seen[..., :3].transpose(2, 0, 1)[None] * opacity, 255 * opacity], 1)
    answer = nn.DetailPreservingDownscale((4, 3)).reference(weighed)[0]
    assert np.abs(small[..., 3] - answer[3]).max() <= 0.51
    colours = answer[:3, :, :2] / answer[3, :, :2] * 255
    assert np.abs(small[:, :2, :3] - colours.transpose(1, 2, 0)).max() <= 0.51
    assert (small[:, 2] == 0).all()


def test_an_opaque_picture_is_the_same_with_and_without_opacity(tmp_path):
    pixels = np.random.default_rng(7).integers(0, 256, (9, 7, 3), np.uint8)
    opaque = np.concatenate([pixels, np.full((9, 7, 1), 255, np.uint8)], 2)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(opaque).save(tmp_path / "rgba.png")
    rgb, rgba = (read(downscale(tmp_path / name, height=4).output)[0] for name in ("rgb.png", "rgba.png"))
    np.testing.assert_array_equal(rgb, rgba[..., :3])
    assert (rgba[..., 3] == 255).all()


def test_transparency_of_grey_and_of_palettes(tmp_path):
    grey = Image.fromarray(np.stack([np.arange(64, dtype=np.uint8)] * 2, -1).reshape(8, 8, 2), "LA")
    grey.save(tmp_path / "grey.png")
    assert read(downscale(tmp_path / "grey.png", height=4).output)[1] == "LA"
    palette = Image.new("P", (8, 8))
    palette.save(tmp_path / "palette.png", transparency=0)
    small, mode = read(downscale(tmp_path / "palette.png", height=4).output)
    assert mode == "RGBA"
    assert (small == 0).all()


def test_refused_pictures(tmp_path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (6, 4)).save(photo)
    Image.new("RGBA", (6, 4)).save(tmp_path / "clear.png")
    with pytest.raises(ArgumentError, match=r"JPEG cannot hold the picture's transparency; use .png"):
        downscale(tmp_path / "clear.png", tmp_path / "small.jpg", width=2)
    for size, output, told in (
        ("7", None, "width=7 must be from 1 to the picture's, 6"),
        ("4x7", None, "width=7 must be from 1 to the picture's, 6"),
        ("0", None, "must be from 1"),
        ("big", None, "size='big' must be HEIGHTxWIDTH"),
        ("2", tmp_path / "small.txt", "no ending of a picture"),
        ("2", photo, "is the picture itself"),
    ):
        result = run("downscale", photo, "--size", size, *(() if output is None else ("-o", output)))
        assert result.exit_code == 2
        assert told in " ".join(result.output.split())
    assert run("downscale", tmp_path / "none.png", "--size", "2").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clear.png", "photo.png"]
