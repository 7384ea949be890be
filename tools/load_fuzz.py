"""Fuzzing for tools/load: schemathesis on the OpenAPI page, and damaged bodies of the binary extension, in turns.

Each round has its own seed, which is printed where something was found, with the body. An answer of 500 or above, a
connection that breaks without an answer, or a sound request that is not answered afterwards is a finding.
"""

import http.client
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from load_server import Served, serve

from onnxpool.serve.codec import HEADER

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ROUND_S = 15.0


def fuzz(path: Path, seconds: float, out: Path) -> int:
    """Both for as long as asked; 1 where something was found."""
    end_s, seed, found = time.monotonic() + seconds, 0, []
    statuses: Counter[int] = Counter()
    cases = 0
    with serve(path, "--no-control") as served:
        while time.monotonic() < end_s and not found:
            seed += 1
            cases += _schemathesis(served, seed, out, found)
            statuses += _bodies(served, seed, min(end_s, time.monotonic() + ROUND_S), found)
    values = {"rounds": seed, "schemathesis_cases": cases, "bodies": dict(sorted(statuses.items())), "found": found}
    (out / "fuzz.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    print(json.dumps(values, indent=2))
    return int(bool(found))


def _schemathesis(served: Served, seed: int, out: Path, found: list[str]) -> int:
    """How many cases passed."""
    command = ["schemathesis.cli", "run", f"{served.url}/openapi.json", "--seed", str(seed), "--max-examples", "50"]
    command += [
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
        "--generation-database",
        "none",
        "--no-color",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=300, check=False, cwd=out
    )
    if done.returncode:
        found.append(f"schemathesis, seed {seed}: {done.stdout[-2000:]}")
    passed = re.search(r"generated, (\d+) passed", done.stdout)
    return int(passed[1]) if passed else 0


def _bodies(served: Served, seed: int, end_s: float, found: list[str]) -> Counter[int]:
    """Statuses of damaged requests."""
    rng, statuses = np.random.default_rng(seed), Counter[int]()
    sound, length = _sound(served)
    connection = http.client.HTTPConnection(served.rest, timeout=30)
    while time.monotonic() < end_s and not found:
        body, header = _damaged(rng, sound, length)
        try:
            status = _status(connection, served, body, header)
        except (http.client.HTTPException, OSError) as error:
            found.append(f"seed {seed}: no answer ({error!r}) to {header!r}, {body.hex()}")
            break
        statuses[status] += 1
        if status >= 500:
            found.append(f"seed {seed}: {status} to {header!r}, {body.hex()}")
    if not found and _status(connection, served, sound, str(length)) != 200:
        found.append(f"seed {seed}: a sound request is not answered any more")
    connection.close()
    return statuses


def _sound(served: Served) -> tuple[bytes, int]:
    """A sound request, and the length of its JSON, from the model's own metadata."""
    connection = http.client.HTTPConnection(served.rest, timeout=30)
    connection.request("GET", f"/v2/models/{served.model}")
    (entry,) = json.load(connection.getresponse())["inputs"]
    connection.close()
    shape = [1, *(32 if size < 0 else size for size in entry["shape"][1:])]
    tensor = np.zeros(shape, np.float32).tobytes()
    head = json.dumps({"inputs": [entry | {"shape": shape, "parameters": {"binary_data_size": len(tensor)}}]}).encode()
    return head + tensor, len(head)


def _damaged(rng: np.random.Generator, sound: bytes, length: int) -> tuple[bytes, str]:
    """A few bytes changed, inserted, cut out or random, most of them in the JSON; the length right or not."""
    body = bytearray(sound if rng.random() < 0.9 else rng.bytes(int(rng.integers(400))))
    for _ in range(int(rng.integers(5))):
        place = int(rng.integers(min(len(body), length if rng.random() < 0.9 else len(body)) + 1))
        piece = (
            rng.bytes(int(rng.integers(1, 4)))
            if rng.random() < 0.5
            else bytes(rng.choice(list(b'0129-.eE"{}[],:n')) for _ in "ab")
        )
        body[place : place + int(rng.integers(4))] = piece
    if rng.random() < 0.2:
        del body[int(rng.integers(len(body) + 1)) :]
    return bytes(body), str(length + int(rng.choice([0, 0, 0, 1, -1, len(body)])))


def _status(connection: http.client.HTTPConnection, served: Served, body: bytes, header: str) -> int:
    connection.request("POST", f"/v2/models/{served.model}/infer", body, {HEADER: header})
    answer = connection.getresponse()
    answer.read()
    return answer.status
