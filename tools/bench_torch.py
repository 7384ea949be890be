"""Training in PyTorch, for tools/bench: forward and backward of our kernels, of the same by PyTorch's own operators, of
the naive formula, and of torch.nn's max pooling. Whether gradients are right is for the tests; here none is compared.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bench_report import COMPOSITION, MODULE, PYTORCH, TORCH_MAX
from bench_ways import BENCHED, OURS, Case, Way, naive_formula
from numpy.typing import NDArray

from onnxpool.pools import local_importance, soft, stochastic
from onnxpool.pools._composite import differentiable
from onnxpool.window import Window

_METHODS = {"SoftPool": soft, "LocalImportancePool": local_importance, "StochasticPool": stochastic}


def composition(operator: str, window: Window) -> Callable[..., torch.Tensor]:
    """What our modules are where there is no native library."""
    method = _METHODS[operator]
    exact = differentiable(method._forward, method._backward)

    def pool(*tensors: torch.Tensor) -> torch.Tensor:
        y = method._ordinary(window, *tensors)
        return exact(window, *tensors) if y is None else y

    return pool


def trained(operator: str, name: str, function: Callable[..., torch.Tensor], case: Case) -> Way:
    """``function`` and its gradients, for one gradient of its output."""
    leaves = [torch.from_numpy(x).clone().requires_grad_() for x in case.inputs(operator).values()]
    grad = torch.ones(case.output_shape, dtype=leaves[0].dtype)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward(grad)

    return Way(operator, name, run, lambda: _array(leaves[0].grad))


def _array(grad: torch.Tensor | None) -> NDArray[Any]:
    assert grad is not None
    found: NDArray[Any] = grad.numpy()
    return found


def share(_: Way) -> None:
    """There is nothing to compare with."""


def ways(case: Case) -> Iterator[tuple[str, str, Callable[[], Way]]]:
    """As ``bench_ways.ways``."""
    window = case.window
    pool = getattr(torch.nn.functional, f"max_pool{window.rank}d")
    largest = partial(pool, kernel_size=window.kernel, stride=window.stride, padding=window.pad)
    yield "", TORCH_MAX, lambda: trained("", TORCH_MAX, largest, case)
    for operator in BENCHED:
        functions = {
            MODULE: partial(OURS[operator], window),
            COMPOSITION: composition(operator, window),
            PYTORCH: naive_formula(operator, window),
        }
        for name, function in functions.items():
            yield operator, name, partial(trained, operator, name, function, case)
