"""What holds for all test files: every test that compiles a module does so afresh."""

import pytest


@pytest.fixture(autouse=True)
def compiler(request):
    """Modules share one forward, and PyTorch gives up on code that was compiled in too many ways."""
    if "compiled" in request.node.name:
        import torch

        torch.compiler.reset()
