"""What holds for all test files: every test that compiles a module does so afresh, and collecting garbage is quick."""

import gc

import pytest


def pytest_collection_finish():
    """What was imported is no garbage: a server collects it after each model, which took most of its tests' time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def compiler(request):
    """Modules share one forward, and PyTorch gives up on code that was compiled in too many ways."""
    if "compiled" in request.node.name:
        import torch

        torch.compiler.reset()
