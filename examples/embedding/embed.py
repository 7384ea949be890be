"""Sentences in, vectors out: a transformer and its pooling in one ONNX file, run by ONNX Runtime.

    python examples/embedding/embed.py embedding.onnx "a small cat" "a small dog" "the price of oil in the spring"

It needs `pip install 'onnxpool[export,cpu]' transformers`. The network is small and its weights are random, so that
nothing is downloaded; put your own in its place where `network` is made, such as
`transformers.AutoModel.from_pretrained("your-folder")` with its tokenizer, and its pooling.
"""

import argparse
import zlib

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

import onnxpool
from onnxpool import nn

WORDS = 1000
FREE = {"input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "tokens"}}


class SentenceEncoder(torch.nn.Module):
    """``input_ids (N, T), attention_mask (N, T)`` to vectors ``(N, C)`` of length 1."""

    def __init__(self, transformer: torch.nn.Module, pool: nn.TokenPool) -> None:
        super().__init__()
        self.transformer = transformer
        self.pool = pool

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Vectors of sentences."""
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.pool(tokens, attention_mask)


def network() -> SentenceEncoder:
    """A small one, untrained."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return SentenceEncoder(transformers.BertModel(config), nn.TokenPool("mean", normalize=True)).eval()


def tokenized(sentences: list[str]) -> dict[str, NDArray[np.int64]]:
    """A number for each word, and 1 where there is one; your model's own tokenizer gives the same two arrays."""
    numbers = [[1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in sentence.split()] for sentence in sentences]
    longest = max(map(len, numbers))
    rows = [row + [0] * (longest - len(row)) for row in numbers]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in numbers]
    return {"input_ids": np.array(rows), "attention_mask": np.array(mask)}


def main() -> None:
    """Export, and embed each sentence alone and all together."""
    parser = argparse.ArgumentParser(description="Exports a sentence encoder, and compares sentences with it.")
    parser.add_argument("output", help="the ONNX file to write")
    parser.add_argument("sentences", nargs="+")
    arguments = parser.parse_args()

    example = tokenized(arguments.sentences)
    kwargs = {name: torch.from_numpy(array) for name, array in example.items()}
    onnxpool.export(network(), (), arguments.output, kwargs=kwargs, dynamic_shapes=FREE, output_names=["vector"])

    session = onnxpool.load(arguments.output)
    together = session.run(example)["vector"]
    apart = np.concatenate([session.run(tokenized([sentence]))["vector"] for sentence in arguments.sentences])
    print("cosines\n", np.round(together @ together.T, 3))
    print(f"a sentence alone and in this batch: vectors of length 1 differ by {np.abs(together - apart).max():.1e}")


if __name__ == "__main__":
    main()
