"""Bytes to tensors and back: what is understood, and one clear refusal for each thing that is not."""

import json
from contextlib import suppress
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")

from onnxpool.dtypes import TYPES
from onnxpool.run.session import TensorInfo
from onnxpool.serve import codec, numbers
from onnxpool.serve.limits import Refusal

LIMIT = 1 << 20
DATATYPES = {element.protocol: element.dtype for element in TYPES}
VALUES = {"b": [0, 1, 1], "i": [-3, 0, 100], "u": [0, 7, 200], "f": [-1.5, 0, 2.25], "V": [-1.5, 0, 2.25]}


def served(dtype=np.float32, shape=("n", None), inputs=("x",)):
    infos = [TensorInfo(name, np.dtype(dtype), shape) for name in inputs]
    outputs = [TensorInfo("y", np.dtype(dtype), shape), TensorInfo("z", np.dtype(dtype), shape)]
    return SimpleNamespace(name="m", version="2", session=SimpleNamespace(inputs=infos, outputs=outputs))


def tensor(data=(1.5, 2), shape=(1, 2), datatype="FP32", name="x", **others):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data), **others}


def decoded(*inputs, model=None, **others):
    body = orjson.dumps({"inputs": list(inputs), **others})
    return codec.decode(model or served(), body, None, LIMIT)


def refused(body, header=None, model=None):
    """Status and message of what is not understood."""
    with pytest.raises(Refusal) as refusal:
        codec.decode(model or served(), body if isinstance(body, bytes) else orjson.dumps(body), header, LIMIT)
    return refusal.value.status, str(refusal.value)


@pytest.mark.parametrize("size", [8, 800_000])
def test_tensors_that_follow_without_a_length_of_the_json(size):
    """The header of the binary extension is forgotten."""
    head = orjson.dumps({"inputs": [tensor() | {"parameters": {"binary_data_size": size}}]})
    hint = "; where tensors follow, Inference-Header-Content-Length says where they begin"
    assert refused(head + np.ones(size // 4, np.float32).tobytes())[1].endswith(hint)
    assert not refused(b"{")[1].endswith(hint)


# --- understood


@pytest.mark.parametrize("data", [[1, 2.5, 3, -4], [[1, 2.5], [3, -4]]], ids=["flat", "nested"])
def test_numbers(data):
    x = decoded(tensor(data, (2, 2))).feeds["x"]
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2.5], [3, -4]]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_type_comes_and_goes_in_both_ways(datatype):
    dtype = DATATYPES[datatype]
    values = VALUES[dtype.kind if dtype != ml_dtypes.bfloat16 else "V"]
    expected = np.array([values], dtype)
    model = served(dtype)
    data = [bool(value) for value in values] if datatype == "BOOL" else values
    asked = decoded(tensor(data, (1, 3), datatype), model=model)
    assert asked.feeds["x"].tobytes() == expected.tobytes()
    body, headers = codec.encode(model, asked, {"y": expected, "z": expected})
    assert headers == {"content-type": "application/json"}
    assert json.loads(body)["outputs"][0] == {"name": "y", "datatype": datatype, "shape": [1, 3], "data": data}

    raw = expected.tobytes()
    entry = {"name": "x", "datatype": datatype, "shape": [1, 3], "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"id": "7", "inputs": [entry], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    asked = codec.decode(model, head + raw, str(len(head)), LIMIT)
    assert asked.feeds["x"].tobytes() == raw
    assert asked.feeds["x"].flags.aligned
    body, headers = codec.encode(model, asked, {"y": expected, "z": expected})
    length = int(headers[codec.HEADER])
    entry["name"] = "y"
    assert json.loads(body[:length]) == {"model_name": "m", "model_version": "2", "id": "7", "outputs": [entry]}
    assert body[length:] == raw


def test_several_binary_inputs_follow_in_their_order():
    model = served(np.int16, (None,), ("a", "b"))
    entries = [
        {"name": name, "datatype": "INT16", "shape": [n], "parameters": {"binary_data_size": 2 * n}}
        for name, n in (("b", 1), ("a", 2))
    ]
    head = orjson.dumps({"inputs": entries})
    feeds = codec.decode(model, head + np.array([1, 2, 3], "<i2").tobytes(), str(len(head)), LIMIT).feeds
    assert {name: values.tolist() for name, values in feeds.items()} == {"b": [1], "a": [2, 3]}


def test_which_outputs_and_how():
    named = [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}]
    assert decoded(tensor()).outputs == (("y", False), ("z", False))
    assert decoded(tensor(), outputs=named).outputs == (("z", True), ("y", False))
    everything = {"binary_data_output": True}
    assert decoded(tensor(), outputs=[{"name": "y"}], parameters=everything).outputs == (("y", True),)
    assert decoded(tensor(), parameters=everything).outputs == (("y", True), ("z", True))
    assert decoded(tensor(), outputs=named, parameters=everything).outputs == (("z", True), ("y", True))


def test_a_limit_of_time_is_in_microseconds():
    assert decoded(tensor(), parameters={"timeout": 1500}).timeout_s == 0.0015


def test_an_empty_tensor():
    assert decoded(tensor([], (0, 2))).feeds["x"].shape == (0, 2)
    assert decoded(tensor([[], []], (2, 0))).feeds["x"].shape == (2, 0)


def test_what_is_not_known_is_ignored():
    asked = decoded(tensor(extra=2, parameters={"mine": [1]}), extra=1, parameters={"priority": 1}, id=None)
    assert (asked.feeds["x"].tolist(), asked.id) == ([[1.5, 2]], None)


def test_large_whole_numbers_are_exact():
    model = served(np.uint64)
    assert decoded(tensor([2**64 - 1, 1], (1, 2), "UINT64"), model=model).feeds["x"].tolist() == [[2**64 - 1, 1]]


# --- long lists of numbers


@pytest.mark.parametrize("shape", [(2, 3, 4), (24, 1, 1), (1, 1, 24)], ids=str)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("spaces", [b"", b" \n\t"], ids=["dense", "spaced"])
def test_lists_in_parts_are_what_they_are_at_once(monkeypatch, shape, nested, spaces):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    monkeypatch.setattr(numbers, "_PART_BYTES", 3)
    x = np.linspace(-1e9, 1e-30, 24).astype(np.float32).reshape(shape)
    x.flat[:4] = [3.4e38, 1e-45, -0.0, 7]
    data = x.tolist() if nested else x.reshape(-1).tolist()
    message = {"inputs": [tensor(data, shape)], "id": 'a "data" [9] b', "parameters": {"data": [8]}}
    body = orjson.dumps(message).replace(b",", b"," + spaces).replace(b":", spaces + b":" + spaces)
    asked = codec.decode(served(shape=(None, None, None)), body, None, LIMIT)
    assert asked.feeds["x"].tobytes() == x.tobytes()


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_type_in_parts(monkeypatch, datatype):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    monkeypatch.setattr(numbers, "_PART_NUMBERS", 2)
    dtype = DATATYPES[datatype]
    values = [bool(value) for value in VALUES["b"]] if dtype.kind == "b" else VALUES[dtype.kind]
    model = served(dtype)
    asked = decoded(tensor(values, (1, 3), datatype), model=model)
    assert asked.feeds["x"].tolist() == np.array([values], dtype).tolist()
    asked = codec.Asked(asked.feeds, (("y", False),), None, None)
    body, _ = codec.encode(model, asked, {"y": asked.feeds["x"]})
    assert orjson.loads(body)["outputs"][0]["data"] == values


LONG_WRONG = {
    "ragged": (b"[[1],[2,3]]", "data of another shape"),
    "other nesting": (b"[[1,2],[3]]", "data of another shape"),
    "too few": (b"[1,2,3]", "data of another shape"),
    "too many": (b"[1,2,3,4,5]", "data of another shape"),
    "nothing": (b"[]", "data of another shape"),
    "a number before a bracket": (b"[1[,2],[3,4]]", "not JSON"),
    "a number after a bracket": (b"[[1,2],[3]4,5]", "not JSON"),
    "two numbers": (b"[1 2,3,4]", "not JSON"),
    "no number": (b"[1,,3,4]", "not JSON"),
    "NaN": (b"[NaN,2,3,4]", "not JSON"),
    "infinity": (b"[1e999,2,3,4]", "not JSON"),
    "null": (b"[null,2,3,4]", "data of type null"),
    "truth": (b"[true,2,3,4]", "data of type bool"),
    "text": (b'["1",2,3,4]', "data of type str"),
    "beyond the type": (b"[1e300,2,3,4]", "that FP32 cannot hold"),
    "without end": (b"[1,2,3,4", "not JSON"),
    "too deep": (b"[" * 3000 + b"]" * 3000, "data of another shape"),
}


@pytest.mark.parametrize("name", LONG_WRONG)
def test_refusals_of_lists_in_parts(monkeypatch, name):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    data, message = LONG_WRONG[name]
    body = orjson.dumps({"inputs": [tensor([0], (2, 2))]}).replace(b"[0]", data)
    status, said = refused(body)
    assert (status, message in said) == (400, True), said


def test_sizes_that_a_client_only_names_cost_nothing(monkeypatch):
    """Once brackets were made of them, gigabytes of three numbers."""
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    monkeypatch.setattr(numbers, "_brackets", lambda shape: pytest.fail(f"brackets of {shape}"))
    body = orjson.dumps({"inputs": [tensor([1, 2, 3], (1 << 18, 1))]})
    assert "data of another shape" in refused(body)[1]


def test_a_tensor_without_elements_in_parts(monkeypatch):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    assert decoded(tensor([], (0, 2))).feeds["x"].shape == (0, 2)
    assert decoded(tensor([[], []], (2, 0))).feeds["x"].shape == (2, 0)
    assert refused({"inputs": [tensor([[]], (2, 0))]})[0] == 400
    assert refused({"inputs": [tensor([[]], (1 << 40, 0))]})[0] == 413


@pytest.mark.parametrize("sizes", [(2**62, 0), (0, 2**40, 2**40), (0, LIMIT)], ids=str)
def test_sizes_that_no_array_has_are_refused_even_of_no_element(sizes):
    model = served(shape=(None,) * len(sizes))
    given = {"name": "x", "datatype": "FP32", "shape": sizes}
    for more in ({"data": []}, {"parameters": {"binary_data_size": 0}}):
        assert refused({"inputs": [given | more]}, model=model)[0] == 413


def test_lists_that_are_no_inputs_data_are_json_and_few(monkeypatch):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    body = orjson.dumps({"inputs": [tensor()], "parameters": {"data": [8]}})
    assert "a list under a key data is not JSON" in refused(body.replace(b"[8]", b"[8 9, ]"))[1]
    assert refused(body.replace(b"[8]", b"[" + b"8," * (300 << 10) + b"8]"))[0] == 413


def test_what_stands_for_a_list_is_another_thing_each_time(monkeypatch):
    """A refusal may repeat what came, and with it the mark."""
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    body = orjson.dumps({"inputs": [tensor(shape=({"data": [1]},))]})
    marks = [refused(body)[1].split("'data': ['")[1][:32] for _ in range(2)]
    assert marks[0] != marks[1]
    assert refused({"inputs": [tensor([marks[0], 5])]})[0] == 400
    monkeypatch.setattr(codec, "_LONG_BYTES", 1 << 20)
    assert refused({"inputs": [tensor([marks[1], 5])]})[0] == 400


def test_a_key_that_only_looks_like_data_and_one_that_is_spelled_otherwise(monkeypatch):
    monkeypatch.setattr(codec, "_LONG_BYTES", 0)
    text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"\\u0064ata":[0],"a\\"data":[1]}],"b":{"data":[2]}}'
    assert codec.decode(served(), text, None, LIMIT).feeds["x"].tolist() == [[0]]


def test_json_besides_lists_of_numbers_is_limited():
    status, message = refused(orjson.dumps({"inputs": [tensor()], "id": "i" * (600 << 10)}))
    assert (status, "besides lists of numbers" in message) == (413, True)


# --- refused

WRONG = {
    "no JSON": (b"{", 400, "not JSON"),
    "a list": (b"[]", 400, "not a JSON object"),
    "nothing": (b"", 400, "not JSON"),
    "NaN": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[NaN]}]}', 400, "not JSON"),
    "Infinity": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1e999]}]}', 400, "not JSON"),
    "too deep": (b'{"inputs":' + b"[" * 3000 + b"]" * 3000 + b"}", 400, "not JSON"),
    "a sequence": ({"inputs": [tensor()], "parameters": {"sequence_id": 1}}, 400, "'sequence_id'"),
    "inputs no list": ({"inputs": {}}, 400, "'inputs' of request must be a list"),
    "id no string": ({"id": 7, "inputs": [tensor()]}, 400, "'id' of request must be a string"),
    "time is up": ({"inputs": [tensor()], "parameters": {"timeout": 0}}, 400, "timeout=0"),
    "input no object": ({"inputs": [7]}, 400, "an input must be an object"),
    "unknown input": (
        {"inputs": [tensor(name="w")]},
        400,
        "input 'w' is unknown or named twice; this model takes ['x']",
    ),
    "twice": ({"inputs": [tensor(), tensor()]}, 400, "input 'x' is unknown or named twice"),
    "without name": ({"inputs": [{"shape": [1]}]}, 400, "input None is unknown"),
    "other type": ({"inputs": [tensor(datatype="FP64")]}, 400, "declared 'FP64'; this model takes FP32"),
    "strings": ({"inputs": [tensor(["a"], (1, 1), "BYTES")]}, 400, "declared 'BYTES'"),
    "no type": ({"inputs": [{"name": "x", "shape": [1, 1], "data": [1]}]}, 400, "declared None"),
    "other rank": ({"inputs": [tensor(shape=(2,))]}, 400, "shape [2]; this model takes ['n', -1]"),
    "negative size": ({"inputs": [tensor(shape=(-1, 2))]}, 400, "shape [-1, 2]"),
    "true as size": ({"inputs": [tensor(shape=(True, 2))]}, 400, "shape [True, 2]"),
    "huge": ({"inputs": [tensor([], (2**40, 2**40))]}, 413, "the limit is 1048576"),
    "too few": ({"inputs": [tensor([1])]}, 400, "data of shape [1]; its shape says [1, 2]"),
    "too many": ({"inputs": [tensor([1, 2, 3])]}, 400, "data of shape [3]"),
    "other nesting": ({"inputs": [tensor([[1], [2]])]}, 400, "data of shape [2, 1]"),
    "ragged": ({"inputs": [tensor([[1], [2, 3]])]}, 400, "different lengths"),
    "mixed nesting": ({"inputs": [tensor([[1], 2])]}, 400, "different lengths"),
    "text in data": ({"inputs": [tensor(["1", 2])]}, 400, "data of type str"),
    "null in data": ({"inputs": [tensor([None, 2])]}, 400, "data of type null"),
    "truth in data": ({"inputs": [tensor([True, 2])]}, 400, "data of type bool"),
    "beyond the type": ({"inputs": [tensor([1e300, 2])]}, 400, "that FP32 cannot hold"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}, 400, "has no data"),
    "shared memory": (
        {"inputs": [tensor(parameters={"shared_memory_region": "r"})]},
        400,
        "'shared_memory_region'",
    ),
    "unknown output": ({"inputs": [tensor()], "outputs": [{"name": "w"}]}, 400, "outputs ['w'] are unknown"),
    "output twice": ({"inputs": [tensor()], "outputs": [{"name": "y"}] * 2}, 400, "named twice"),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        400,
        "'classification'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name):
    body, status, message = WRONG[name]
    found = refused(body)
    assert found[0] == status
    assert message in found[1]


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("INT8", [128], "INT8 cannot hold"),
        ("UINT8", [-1], "UINT8 cannot hold"),
        ("INT32", [1.0], "data of type float"),
        ("INT32", [True], "data of type bool"),
        ("BOOL", [1], "data of type int"),
        ("FP16", [70000], "FP16 cannot hold"),
    ],
)
def test_numbers_of_another_type(datatype, data, message):
    model = served(DATATYPES[datatype])
    assert message in refused({"inputs": [tensor(data, (1, 1), datatype)]}, model=model)[1]


def binary(size, raw, shape=(1, 2), header=None, **others):
    entry = {"name": "x", "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": size}, **others}
    head = orjson.dumps({"inputs": [entry]})
    return refused(head + raw, str(len(head)) if header is None else header)


@pytest.mark.parametrize(
    ("size", "raw", "others", "status", "message"),
    [
        (8, b"1234567", {}, 400, "binary_data_size=8, but 7 bytes follow"),
        (8, b"123456789", {}, 400, "1 bytes are left"),
        (7, b"1234567", {}, 400, "came as 7 bytes; [1, 2] of this type is 8"),
        (-1, b"", {}, 400, "binary_data_size=-1"),
        (8, b"12345678", {"data": [1, 2]}, 400, "has data too"),
        (8, b"12345678", {"shape": [2**20, 2]}, 413, "the limit"),
        (8, b"12345678", {"header": "-1"}, 400, "-1 is not a length"),
        (8, b"12345678", {"header": "9999"}, 400, "9999 is not a length"),
        (8, b"12345678", {"header": "1e3"}, 400, "1e3 is not a length"),
        (8, b"12345678", {"header": "0"}, 400, "not JSON"),
    ],
)
def test_binary_refusals(size, raw, others, status, message):
    found = binary(size, raw, **others)
    assert found[0] == status
    assert message in found[1]


def test_bytes_that_are_no_truth():
    head = b'{"inputs":[{"name":"x","datatype":"BOOL","shape":[1,2],"parameters":{"binary_data_size":2}}]}'
    assert "other than 0 and 1" in refused(head + b"\x01\x02", str(len(head)), served(np.bool_))[1]


def test_a_string_that_would_become_a_huge_array_is_refused_by_its_type():
    """NumPy would give every element the longest one's size."""
    assert "data of type str" in refused({"inputs": [tensor(["a" * 100_000] * 4, (1, 4))]})[1]


def test_json_is_limited_and_binary_data_is_not():
    padding = b" " * (4 << 20)
    status, message = refused(MESSAGE + padding)
    assert (status, "send tensors as binary data" in message) == (413, True)
    size = 1 << 20
    model = served(np.uint8, (None,))
    entry = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    head = orjson.dumps({"inputs": [entry]})
    sound = codec.decode(model, head + bytes(size), str(len(head)), LIMIT)
    assert sound.feeds["x"].size == size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_json_cannot_say(value):
    asked = decoded(tensor(), outputs=[{"name": "y"}])
    with pytest.raises(Refusal, match="ask for binary data") as refusal:
        codec.encode(served(), asked, {"y": np.array([[value, 1]], np.float32)})
    assert refusal.value.status == 422


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=6), st.integers(0, 200).map(str)))
def test_random_bytes_are_refused_not_crashed_on(body, header):
    assert 400 <= refused(body, header)[0] < 500


MESSAGE = orjson.dumps({"inputs": [tensor([1.5, 2, 3, 4], (2, 2))], "outputs": [{"name": "y"}], "id": "1"})


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_message_is_understood_or_refused(changes):
    body = bytearray(MESSAGE)
    for place, byte in changes:
        body[place] = byte
    with suppress(Refusal):  # anything else is a fault
        assert codec.decode(served(), bytes(body), None, LIMIT).feeds.keys() <= {"x"}


SCRAPS = (
    *(b"[", b"]", b",", b":", b"{", b"}", b'"', b'\\"', b"\\", b" ", b"\n", b"\x0b", b"\xff", b"\xef\xbb\xbf"),
    *(b"1", b"-0", b"1e400", b"1e-400", b"0.1", b"18446744073709551616", b"01", b"+1", b"1.", b"NaN", b"Infinity"),
    *(b"null", b"true", b'"data"', b'"data":[1,2,3,4]', b',"data":[[1,2],[3,4]]', b"[[1,2],[3,4]]", b'"a[b]"', b"{}"),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(MESSAGE)), st.integers(0, 9), st.sampled_from(SCRAPS)), max_size=3))
def test_in_parts_and_at_once_one_body_is_one_request(changes):
    body = MESSAGE
    for place, cut, scrap in changes:
        body = body[:place] + scrap + body[place + cut :]
    found = []
    for long, part in ((1 << 30, 1 << 16), (0, 3)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(codec, "_LONG_BYTES", long)
            patched.setattr(numbers, "_PART_BYTES", part)
            try:
                asked = codec.decode(served(), body, None, LIMIT)
                found.append((sorted((x, y.tobytes()) for x, y in asked.feeds.items()), asked.outputs, asked.id))
            except Refusal as refusal:
                found.append(refusal.status)
    assert found[0] == found[1], body
