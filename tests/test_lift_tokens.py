"""Poolings over tokens that PyTorch's own exporter spells out in float16: put right; others are left."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

import onnxpool

FREE = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})


class Usual(torch.nn.Module):
    """The mean, largest and weighted mean as sentence-transformers writes them, and vectors of length 1."""

    def forward(self, x, mask):
        grown = mask.unsqueeze(-1).expand(x.size()).to(x.dtype)
        mean = torch.sum(x * grown, 1) / torch.clamp(grown.sum(1), min=1e-9)
        filled = x.clone()
        filled[grown == 0] = -1e9
        places = torch.arange(1, x.shape[1] + 1).unsqueeze(0).unsqueeze(-1).expand(x.size()).to(x.dtype)
        weights = grown * places
        weighted = torch.sum(x * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)
        root = torch.sum(x * grown, 1) / torch.sqrt(torch.clamp(grown.sum(1), min=1e-9))
        return mean, torch.max(filled, 1)[0], weighted, root, F.normalize(mean, p=2, dim=1)


class Others(torch.nn.Module):
    """A mask that stays an integer, one that fills zeros, no limit, and what is no pooling of tokens."""

    def forward(self, x, mask):
        whole = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)
        shown = mask[..., None].bool()
        zeros = x.masked_fill(~shown, 0.0).sum(1) / mask.sum(1)[..., None]
        largest = torch.where(shown, x, -torch.inf).amax(1)
        gated = (x * x.sigmoid()).sum(1) / x.sigmoid().sum(1)
        finite = x.masked_fill(~shown, -1e4).amax(1)
        endless = x.masked_fill(~shown, -torch.inf).amax(1)
        return whole, zeros, largest, gated, finite, endless


def exported(module, dtype, path):
    x, mask = torch.randn(2, 5, 4, generator=torch.manual_seed(0)).to(dtype), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (x, mask), path, dynamo=True, dynamic_shapes=FREE, verbose=False)
    finally:
        logging.disable(disabled)
    return path


def hard():
    """4096 tokens of 20, half of which are padding in another row, with NaN there; and a row without a token."""
    x, mask = np.full((3, 4096, 4), 20, np.float16), np.ones((3, 4096), np.int64)
    x[0, 7] = 60000
    mask[1, 1000:], x[1, 1000:], mask[2] = 0, np.nan, 0
    return {"x": x, "mask": mask}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return exported(Usual(), torch.float16, tmp_path_factory.mktemp("lift") / "usual.onnx")


def test_the_usual_spelling_is_put_right(path):
    lifted = onnxpool.lift(path)
    assert [fold.op_type for fold in lifted.folds].count("TokenMean") == 3
    assert [fold.op_type for fold in lifted.folds].count("TokenMax") == 1
    assert [fold.op_type for fold in lifted.folds].count("UnitLength") == 1
    assert not lifted.refused
    assert lifted.checked.startswith("equal to the model itself in float64")
    before = list(onnxpool.load(path).run(hard()).values())
    mean, largest, weighted, root, unit = onnxpool.load(lifted.model).run(hard()).values()
    assert not all(np.isfinite(y).all() for y in before), "else this test shows nothing"
    assert {y.dtype for y in (mean, largest, weighted, root, unit)} == {np.dtype(np.float16)}
    top = np.float16((4095 * 20 + 60000) / 4096)
    for y, (first, second) in ((mean, (top, 20)), (largest, (60000, 20)), (unit, (0.5, 0.5))):
        np.testing.assert_array_equal(y[:, 0], np.array([first, second, 0], np.float16))
    np.testing.assert_allclose(weighted[:, 0], [20.06, 20, 0], rtol=1e-3)
    np.testing.assert_allclose(root[:, 0], [2216.2, 20 * 1000**0.5, 0], rtol=2e-3)


def test_what_is_right_or_no_pooling_of_tokens_is_left(path, tmp_path):
    plain = exported(Usual(), torch.float32, tmp_path / "float32.onnx")
    assert onnxpool.lift(plain).folds == ()
    others = exported(Others(), torch.float16, tmp_path / "others.onnx")
    lifted = onnxpool.lift(others)
    assert [fold.op_type for fold in lifted.folds] == ["TokenMean", "TokenMean", "TokenMax"]
    assert lifted.folds[-1].spelling == "largest of filled tokens (0 where there is none)"
    whole, zeros, largest, _, finite, endless = onnxpool.load(lifted.model).run(hard()).values()
    assert whole[1:, 0].tolist() == [20.0, 0.0]
    assert zeros[:2, 0].tolist() == [np.float16((4095 * 20 + 60000) / 4096), 20.0]
    assert np.isnan(zeros[2]).all(), "without a limit the author divides by 0"
    assert (largest[:, 0].tolist(), finite[:, 0].tolist()) == ([60000.0, 20.0, 0.0], [60000.0, 20.0, -10000.0])
    assert endless[:, 0].tolist() == [60000.0, 20.0, -np.inf], "as its author wrote it"
    again = onnxpool.lift(lifted.model)
    assert again.folds == ()
