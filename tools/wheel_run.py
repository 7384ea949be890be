"""What tools/wheel runs a wheel with: `make FILE` exports a small network, `run FILE` runs it by the installed wheel,
`train FOLDER` trains one, by the installed wheel and the PyTorch of the folder.

`run` fails unless the pooling node runs natively, the numbers are those of float64, and nothing but the wheel with its
extra `cpu` is installed: neither PyTorch nor what the command line needs.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path

import numpy as np

import onnxpool

ABSENT = ("torch", "onnxscript", "typer", "rich", "starlette")
RELATIVE, ABSOLUTE = 1e-5, 1e-6  # float32, three layers of small numbers


def make(path: Path) -> None:
    """Export the network; its answers are written beside it."""
    import torch

    from onnxpool import nn

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), nn.SoftPool2d(3, stride=2, padding=1))
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    onnxpool.export(network, (torch.randn(1, 3, 16, 16),), path, dynamic_shapes=dynamic)


def see_that_it_is_installed() -> None:
    """Ends the program where onnxpool is that of a source tree."""
    home = Path(onnxpool.__file__)
    if not any(home.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib")):
        sys.exit(f"this runs {home}, and not an installed wheel")


def run(path: Path) -> None:
    """Run every case of it."""
    from onnxpool.golden.file import load

    see_that_it_is_installed()
    if present := [name for name in ABSENT if importlib.util.find_spec(name)]:
        sys.exit(f"this environment is not empty: it has {', '.join(present)}")
    session = onnxpool.load(path, kernels="require")
    print(*session.placements, sep="\n")
    if [(placed.op_type, placed.native) for placed in session.placements] != [("SoftPool", True)]:
        sys.exit("SoftPool does not run natively")
    cases = load(path.with_suffix(".golden.npz")).cases
    for case in cases:
        for name, answer in session.run(case.inputs).items():
            np.testing.assert_allclose(answer, case.answers[name], RELATIVE, ABSOLUTE, err_msg=f"{case.name}: {name}")
    print(f"{len(cases)} cases are right: onnxpool {onnxpool.__version__}, Python {sys.version.split()[0]}")


def train(packages: Path) -> None:
    """Some steps with SoftPool, natively."""
    see_that_it_is_installed()
    sys.path.append(str(packages))  # last, and without its editable installations
    import torch

    from onnxpool import nn
    from onnxpool.pools import _native

    if why := _native.why_not():
        sys.exit(f"PyTorch's tensors are not pooled natively: {why}")
    torch.manual_seed(0)
    x, wanted = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    x[torch.arange(64), 0, wanted, wanted] += 4
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), nn.SoftPool2d(2), torch.nn.Flatten(), torch.nn.Linear(128, 4)
    )
    steps = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(40):
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), wanted)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0] / 4:
        sys.exit(f"the network did not learn: loss {losses[0]:.3g}, then {losses[-1]:.3g}")
    print(f"trained natively, loss {losses[0]:.3g} to {losses[-1]:.3g}, torch {torch.__version__}")


if __name__ == "__main__":
    {"make": make, "run": run, "train": train}[sys.argv[1]](Path(sys.argv[-1]))
