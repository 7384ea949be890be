"""The protocol as KServe's own client sees it, over REST and gRPC.

That package needs versions of others that are not those of here, so it may be another Python's: the one that
ONNXPOOL_KSERVE_PYTHON names.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from serving import HANGS_S, running, soft

pytest.importorskip("starlette")
pytest.importorskip("grpc")

PYTHON = os.environ.get("ONNXPOOL_KSERVE_PYTHON") or (sys.executable if importlib.util.find_spec("kserve") else None)

PROGRAM = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

rest, grpc = sys.argv[1:]
X = np.array([[[[1, 2], [3, 4]]]], np.float32)

def asked(name, binary):
    given = InferInput("x", [*X.shape], "FP32")
    given.set_data_from_numpy(X, binary_data=binary)
    return InferRequest(name, [given], request_id="7")

def told(answer):
    (y,) = answer.outputs
    return [answer.id, answer.model_name, y.name, y.datatype, [*y.shape], y.as_numpy().ravel().tolist()]

async def over_rest(found):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found["ready"] = [await client.is_server_live(rest), await client.is_server_ready(rest),
                      await client.is_model_ready(rest, "soft")]
    found["rest"] = [told(await client.infer(rest, asked("soft", binary), "soft")) for binary in (False, True)]
    try:
        await client.infer(rest, asked("sofd", False), "sofd")
    except Exception as error:
        found["rest refused"] = str(error)
    await client.close()

async def over_grpc(found):
    async with InferenceGRPCClient(grpc, retries=0) as client:
        found["ready"] += [await client.is_server_live(), await client.is_server_ready(),
                           await client.is_model_ready("soft")]
        found["grpc"] = [told(await client.infer(asked("soft", binary))) for binary in (False, True)]
        try:
            await client.infer(asked("sofd", True))
        except Exception as error:
            found["grpc refused"] = error.details()

found = {}
asyncio.run(over_rest(found))
asyncio.run(over_grpc(found))
print(json.dumps(found))
"""


@pytest.mark.skipif(PYTHON is None, reason="kserve is not installed; ONNXPOOL_KSERVE_PYTHON may name a Python with it")
def test_kserves_client_is_answered(tmp_path):
    with running(soft(tmp_path / "soft.onnx")) as server:
        command = [PYTHON, "-c", PROGRAM, server.url, server.grpc]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    answer = ["7", "soft", "y", "FP32", [1, 1, 1, 1], [pytest.approx(3.4926527, rel=1e-6)]]
    assert found["ready"] == [True] * 6
    assert found["rest"] == found["grpc"] == [answer] * 2
    for refused in ("rest refused", "grpc refused"):
        assert "there is no model 'sofd' (did you mean 'soft'?)" in found[refused]
