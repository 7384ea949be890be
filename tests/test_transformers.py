"""transformers' networks, made from small configurations without any download: exported for sizes that may change.

Export checks each in ONNX Runtime on the example and on two other sizes.
"""

import contextlib
import io
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import onnxpool
from onnxpool.errors import ExportError
from onnxpool.validation.as_text import sentences

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

IMAGE = ({0: "batch", 2: "height", 3: "width"},)
BATCH = ({0: "batch"},)
WINDOWS = ({0: "batch", 2: 32 * torch.export.Dim("rows"), 3: 32 * torch.export.Dim("columns")},)
TEXT = ({0: "batch", 1: "sequence"}, {0: "batch", 1: "sequence"})


def resnet():
    return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))


def convnext_config(**more):
    return transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], **more)


def convnext():
    return transformers.ConvNextModel(convnext_config())


def regnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}
    return transformers.RegNetModel(transformers.RegNetConfig(**sizes))


def segformer():
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def mobilenet():
    return transformers.MobileNetV2Model(transformers.MobileNetV2Config(depth_multiplier=0.25))


def upernet():
    backbone = convnext_config(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.UperNetConfig(backbone_config=backbone, hidden_size=16, use_auxiliary_head=False)
    return transformers.UperNetForSemanticSegmentation(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    return transformers.BertModel(config)


def vit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes))


def swin():
    config = transformers.SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[2], num_heads=[1], window_size=4)
    return transformers.SwinModel(config)


def image(height, width):
    return (torch.randn(2, 3, height, width, generator=torch.manual_seed(1)),)


def words():
    return torch.randint(0, 50, (2, 12), generator=torch.manual_seed(1)), torch.ones(2, 12, dtype=torch.int64)


def exported(make, args, shapes, **more):
    torch.manual_seed(0)
    return onnxpool.export(make().eval(), args, dynamic_shapes=shapes, **more)


@pytest.mark.parametrize(
    ("make", "args", "shapes"),
    [
        (resnet, image(64, 96), IMAGE),
        (convnext, image(64, 96), IMAGE),
        (regnet, image(64, 96), IMAGE),
        (segformer, image(64, 96), IMAGE),
        (mobilenet, image(64, 96), WINDOWS),
        (bert, words(), TEXT),
        (vit, image(32, 32), BATCH),
        (swin, image(64, 96), WINDOWS),
    ],
    ids=["ResNet", "ConvNeXt", "RegNet", "SegFormer", "MobileNetV2", "BERT", "ViT", "Swin"],
)
def test_sizes_that_may_change(make, args, shapes):
    proof = exported(make, args, shapes).meta["onnxpool.proof"]
    assert len(proof.cases) == 3
    assert proof.notes == ()


@pytest.mark.parametrize("make", [mobilenet, swin])
def test_a_padding_that_depends_on_the_rest_of_a_division_is_refused(make):
    """Both pad where a size is no multiple of a stride: the trace has the example's branch alone."""
    with pytest.raises(ExportError, match=r"(is wrong: on|cannot run, on) sizes "):
        exported(make, image(64, 96), IMAGE)


@pytest.mark.parametrize("form", ["function", "standard", "custom"])
def test_every_form_of_a_resnet_with_soft_pooling(form):
    torch.manual_seed(0)
    swapped = onnxpool.swap(resnet().eval(), {"max": "SoftPool"})
    model = onnxpool.export(swapped.network, image(64, 96), dynamic_shapes=IMAGE, form=form)
    assert onnxpool.form_of(model) == form
    assert [node.op_type for node in onnxpool.pool_nodes(model)] == ["SoftPool"]
    assert len(model.meta["onnxpool.proof"].cases) == 3


def test_a_pyramid_is_right_at_other_sizes():
    """UperNet pools to 1x1, 2x2, 3x3 and 6x6 of what is there: sizes of the example stand in PyTorch's own export."""
    assert len(exported(upernet, image(64, 96), IMAGE).meta["onnxpool.proof"].cases) == 3


# --- tokens in, vector out


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(Path(__file__).parent.parent / "examples" / "embedding" / "embed.py"))


@pytest.fixture(scope="module")
def embedding(example, tmp_path_factory):
    """The file that the example writes, of a BERT with its pooling, what it says, and the network."""
    path = tmp_path_factory.mktemp("embedding") / "embedding.onnx"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("sys.argv", ["embed.py", str(path), "a small cat", "a dog", "the price of oil in the spring"])
        example["main"]()
    return path, said.getvalue(), example["network"]()


def test_tokens_in_vector_out(embedding):
    path, said, _ = embedding
    assert "cosines" in said
    assert float(said.split()[-1]) < 1e-6
    report = onnxpool.validate(path, on=["onnxruntime"])
    assert report.passed, sentences(report)
    session = onnxpool.load(path)
    assert [info.name for info in session.inputs] == ["input_ids", "attention_mask"]
    assert [info.name for info in session.outputs] == ["vector"]


def test_padding_and_batching_change_a_vector_by_rounding_alone(embedding):
    """Some ULP of the largest component of a vector: here the transformer rounds too."""
    path, _, encoder = embedding
    rng = np.random.default_rng(3)
    rows = [rng.integers(1, 50, size) for size in (1, 5, 23, 60)]
    ids, mask = np.zeros((4, 60), np.int64), np.zeros((4, 60), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    session = onnxpool.load(path)

    def vectors(ids, mask):
        (y,) = session.run({"input_ids": ids, "attention_mask": mask}).values()
        return y

    together = vectors(ids, mask)
    apart = np.concatenate([vectors(row[None], np.ones((1, len(row)), np.int64)) for row in rows])
    ulp = np.spacing(np.abs(apart).max(1, keepdims=True))
    assert (np.abs(together - apart) / ulp).max() <= 16
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    with torch.no_grad():
        answer = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(together, answer, rtol=0, atol=2e-6)
