"""Fuzzing for tools/load and the tests: schemathesis on the OpenAPI page, and damaged bodies of the binary extension.

Each round has its own seed, which is printed where something was found, with the body. An answer of 500 or above, a
connection that breaks without an answer, or a sound request that is not answered afterwards is a finding.
"""

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
from load_server import HANGS_S, Served, serve

from onnxpool.serve.codec import HEADER

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ROUND = 5000
"""Damaged bodies of one round."""


def fuzz(path: Path, seconds: float, out: Path) -> int:
    """Both in turns, for as long as asked; 1 where something was found."""
    found: list[str] = []
    statuses: Counter[int] = Counter()
    seed = cases = 0
    with serve(path, "--no-control") as served:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not found:
            seed += 1
            cases += schemathesis(served, seed, 50, out, found)
            statuses += bodies(served, seed, ROUND, found)
    values = {"rounds": seed, "schemathesis_cases": cases, "bodies": dict(sorted(statuses.items())), "found": found}
    (out / "fuzz.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    print(json.dumps(values, indent=2))
    return int(bool(found))


def schemathesis(served: Served, seed: int, examples: int, folder: Path, found: list[str]) -> int:
    """How many cases passed; at most so many examples of each endpoint."""
    command = ["schemathesis.cli", "run", f"{served.url}/openapi.json", "--seed", str(seed)]
    options = {
        "--max-examples": str(examples),
        "--checks": CHECKS,
        "--phases": "examples,coverage,fuzzing",
        "--generation-database": "none",
        "--request-timeout": str(HANGS_S),
        "--suppress-health-check": "too_slow",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command, *chain.from_iterable(options.items()), "--no-color"],
        capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=folder,
    )  # fmt: skip
    if done.returncode:
        found.append(f"schemathesis, seed {seed}: {done.stdout[-3000:]}")
    passed = re.search(r"generated, (\d+) passed", done.stdout)
    return int(passed[1]) if passed else 0


def bodies(served: Served, seed: int, count: int, found: list[str]) -> Counter[int]:
    """Statuses of so many damaged requests."""
    rng, statuses = np.random.default_rng(seed), Counter[int]()
    body, length = sound(served)
    with closing(http.client.HTTPConnection(served.address, timeout=HANGS_S)) as connection:
        for _ in range(count):
            damaged, header = _damaged(rng, body, length)
            try:
                came = status(connection, served, damaged, header)
            except (http.client.HTTPException, OSError) as error:
                found.append(f"seed {seed}: no answer ({error!r}) to {header!r}, {damaged.hex()}")
                return statuses
            statuses[came] += 1
            if came >= 500:
                found.append(f"seed {seed}: {came} to {header!r}, {damaged.hex()}")
                return statuses
        if status(connection, served, body, str(length)) != 200:
            found.append(f"seed {seed}: a sound request is not answered any more")
    return statuses


def sound(served: Served) -> tuple[bytes, int]:
    """A sound request, and the length of its JSON, from the model's own metadata."""
    with urllib.request.urlopen(f"{served.url}/v2/models/{served.model}", timeout=HANGS_S) as answer:
        (entry,) = json.load(answer)["inputs"]
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


def status(connection: http.client.HTTPConnection, served: Served, body: bytes, header: str | None) -> int:
    """Of the answer to a body, whose JSON is as long as ``header`` says."""
    headers = {} if header is None else {HEADER: header}
    connection.request("POST", f"/v2/models/{served.model}/infer", body, headers)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status
