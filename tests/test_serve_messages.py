"""The gRPC messages, field by field against those that Triton's client was generated with, and what they carry."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("google.protobuf")

from onnxpool.serve.messages import CLASSES, Message, parsed


def theirs():
    """Triton's message types by name, nested ones, too."""
    found = {}

    def add(types):
        for descriptor in types:
            found[descriptor.name] = descriptor
            add(descriptor.nested_types)

    for module in ("service_pb2", "model_config_pb2"):
        generated = getattr(pytest.importorskip("tritonclient.grpc"), module)
        add(generated.DESCRIPTOR.message_types_by_name.values())
    return found


def kind(field):
    """All that decides how a field looks on the wire."""
    map_entry = bool(field.message_type and field.message_type.GetOptions().map_entry)
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return field.number, field.type, repeated, map_entry  # protobuf below 6.31 has the label only


def test_numbers_and_types_are_those_of_the_protocol():
    known = theirs()
    for name, message in CLASSES.items():
        for field in message.DESCRIPTOR.fields:
            assert kind(field) == kind(known[name].fields_by_name[field.name]), (name, field.name)
    assert len(CLASSES["ModelInferRequest"].DESCRIPTOR.fields) == len(known["ModelInferRequest"].fields)


def test_names_of_types_have_their_numbers():
    from tritonclient.grpc import model_config_pb2

    ours = CLASSES["ModelInput"].DESCRIPTOR.fields_by_name["data_type"].enum_type
    generated = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert {v.name: v.number for v in ours.values} == {v.name: v.number for v in generated.values}


def test_what_is_written_is_read_by_the_other_side():
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abc"])
    request.parameters["timeout"].int64_param = 0
    request.inputs.add(name="x", datatype="FP32", shape=[1, -2]).contents.fp32_contents.extend([1.5, 2])
    read = CLASSES["ModelInferRequest"].FromString(request.SerializeToString())
    assert read.parameters["timeout"].WhichOneof("parameter_choice") == "int64_param"  # although it is 0
    assert [*read.inputs[0].contents.fp32_contents] == [1.5, 2]
    assert service_pb2.ModelInferRequest.FromString(read.SerializeToString()) == request


def test_values_of_json():
    made = parsed("ModelInput", {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]})
    assert made.SerializeToString() == b"\x0a\x01x\x10\x0b\x22\x0b" + b"\xff" * 9 + b"\x01\x03"
    assert Message("ServerLiveResponse", live=True).SerializeToString() == b"\x08\x01"
