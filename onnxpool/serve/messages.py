r"""The messages of the server's gRPC side, made from tables: no generated code, so no version to match.

Field numbers and types are those of the Open Inference Protocol's ``GRPCInferenceService`` (package ``inference``) and
of Triton's extensions to it, as far as they are offered. ``oneof`` marks the alternatives of a value, ``map`` goes
from strings. The types live in a pool of their own, beside those that a client in the same process may have.

>>> Message("ServerLiveResponse", live=True).SerializeToString()
b'\x08\x01'
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"

METHODS = [
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
]
"""Each takes a message ``<name>Request`` and gives a ``<name>Response``, but for the stream, which takes requests."""

_TABLE = """
ServerLiveRequest
ServerLiveResponse: 1 live bool
ServerReadyRequest
ServerReadyResponse: 1 ready bool
ModelReadyRequest: 1 name string, 2 version string
ModelReadyResponse: 1 ready bool
ServerMetadataRequest
ServerMetadataResponse: 1 name string, 2 version string, 3 extensions repeated string
ModelMetadataRequest: 1 name string, 2 version string
ModelMetadataResponse: 1 name string, 2 versions repeated string, 3 platform string, 4 inputs repeated TensorMetadata,
    5 outputs repeated TensorMetadata
TensorMetadata: 1 name string, 2 datatype string, 3 shape repeated int64

InferParameter: 1 bool_param oneof bool, 2 int64_param oneof int64, 3 string_param oneof string,
    4 double_param oneof double, 5 uint64_param oneof uint64
InferTensorContents: 1 bool_contents repeated bool, 2 int_contents repeated int32, 3 int64_contents repeated int64,
    4 uint_contents repeated uint32, 5 uint64_contents repeated uint64, 6 fp32_contents repeated float,
    7 fp64_contents repeated double, 8 bytes_contents repeated bytes
InferInputTensor: 1 name string, 2 datatype string, 3 shape repeated int64, 4 parameters map InferParameter,
    5 contents InferTensorContents
InferRequestedOutputTensor: 1 name string, 2 parameters map InferParameter
InferOutputTensor: 1 name string, 2 datatype string, 3 shape repeated int64, 4 parameters map InferParameter,
    5 contents InferTensorContents
ModelInferRequest: 1 model_name string, 2 model_version string, 3 id string, 4 parameters map InferParameter,
    5 inputs repeated InferInputTensor, 6 outputs repeated InferRequestedOutputTensor,
    7 raw_input_contents repeated bytes
ModelInferResponse: 1 model_name string, 2 model_version string, 3 id string, 4 parameters map InferParameter,
    5 outputs repeated InferOutputTensor, 6 raw_output_contents repeated bytes
ModelStreamInferResponse: 1 error_message string, 2 infer_response ModelInferResponse

ModelRepositoryParameter: 1 bool_param oneof bool, 2 int64_param oneof int64, 3 string_param oneof string,
    4 bytes_param oneof bytes
RepositoryIndexRequest: 1 repository_name string, 2 ready bool
RepositoryIndexResponse: 1 models repeated ModelIndex
ModelIndex: 1 name string, 2 version string, 3 state string, 4 reason string
RepositoryModelLoadRequest: 1 repository_name string, 2 model_name string, 3 parameters map ModelRepositoryParameter
RepositoryModelLoadResponse
RepositoryModelUnloadRequest: 1 repository_name string, 2 model_name string, 3 parameters map ModelRepositoryParameter
RepositoryModelUnloadResponse

ModelConfigRequest: 1 name string, 2 version string
ModelConfigResponse: 1 config ModelConfig
ModelConfig: 1 name string, 2 platform string, 4 max_batch_size int32, 5 input repeated ModelInput,
    6 output repeated ModelOutput, 11 dynamic_batching ModelDynamicBatching
ModelInput: 1 name string, 2 data_type enum DataType, 4 dims repeated int64
ModelOutput: 1 name string, 2 data_type enum DataType, 3 dims repeated int64
ModelDynamicBatching: 2 max_queue_delay_microseconds uint64, 3 preserve_ordering bool
ModelStatisticsRequest: 1 name string, 2 version string
ModelStatisticsResponse: 1 model_stats repeated ModelStatistics
ModelStatistics: 1 name string, 2 version string, 3 last_inference uint64, 4 inference_count uint64,
    5 execution_count uint64, 6 inference_stats InferStatistics, 7 batch_stats repeated InferBatchStatistics
InferStatistics: 1 success StatisticDuration, 2 fail StatisticDuration, 3 queue StatisticDuration,
    4 compute_input StatisticDuration, 5 compute_infer StatisticDuration, 6 compute_output StatisticDuration,
    7 cache_hit StatisticDuration, 8 cache_miss StatisticDuration
InferBatchStatistics: 1 batch_size uint64, 2 compute_input StatisticDuration, 3 compute_infer StatisticDuration,
    4 compute_output StatisticDuration
StatisticDuration: 1 count uint64, 2 ns uint64
"""

_DATA_TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
"""Names of element types in a model's configuration; their numbers count from 0."""


def Message(name: str, /, **fields: Any) -> Any:  # noqa: N802 - it stands for a class
    """A new message of this type."""
    return CLASSES[name](**fields)


def parsed(name: str, values: dict[str, Any]) -> Any:
    """A message of this type from values as they stand in JSON."""
    return ParseDict(values, CLASSES[name]())


def describe(package: str, table: str, **enums: Sequence[str]) -> FileDescriptorProto:
    """The file of a package whose messages are in a table; the names of each enumeration count from 0."""
    file = FileDescriptorProto(name=f"onnxpool/{package}.proto", package=package, syntax="proto3")
    for enum, names in enums.items():
        values = file.enum_type.add(name=enum)
        for i, value in enumerate(names):
            values.value.add(name=value, number=i)
    for line in table.replace(",\n    ", ", ").split("\n"):
        name, _, fields = line.partition(":")
        if name:
            message = file.message_type.add(name=name)
            for field in filter(None, fields.split(", ")):
                number, label, *rest = field.split()
                _add(package, message, int(number), label, *rest)
    return file


def add_service(file: FileDescriptorProto, name: str, methods: dict[str, tuple[str, str, bool, bool]]) -> None:
    """Add a service; each method has its request, its response, and whether either of them is a stream."""
    service = file.service.add(name=name)
    for method, (takes, gives, many, much) in methods.items():
        service.method.add(
            name=method,
            input_type=f".{file.package}.{takes}",
            output_type=f".{file.package}.{gives}",
            client_streaming=many,
            server_streaming=much,
        )


def classes(file: FileDescriptorProto) -> dict[str, Any]:
    """The class of every message of a file, by name, in a pool of its own."""
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = (message.name for message in file.message_type)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in names}


def _add(package: str, message: DescriptorProto, number: int, name: str, *kind: str) -> None:
    """One field, such as ``_add("inference", message, 3, "shape", "repeated", "int64")``."""
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind[0] in ("repeated", "map"):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if kind[0] == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[0] == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add(package, entry, 1, "key", "string")
        _add(package, entry, 2, "value", kind[1])
        kind = (f"{message.name}.{entry.name}",)
    _set_type(package, field, *kind)


def _set_type(package: str, field: FieldDescriptorProto, *kind: str) -> None:
    named = kind[-1][0].isupper()
    category = "enum" if kind[0] == "enum" else "message" if named else kind[-1]
    field.type = getattr(FieldDescriptorProto, f"TYPE_{category.upper()}")
    if named:
        field.type_name = f".{package}.{kind[-1]}"


def _inference() -> FileDescriptorProto:
    file = describe(PACKAGE, _TABLE, DataType=[f"TYPE_{kind}" for kind in _DATA_TYPES.split()])
    streams = {method: method == "ModelStreamInfer" for method in METHODS}
    taken = {method: "ModelInferRequest" if streams[method] else f"{method}Request" for method in METHODS}
    methods = {method: (taken[method], f"{method}Response", streams[method], streams[method]) for method in METHODS}
    add_service(file, "GRPCInferenceService", methods)
    return file


FILE: FileDescriptorProto = _inference()
"""All of it, as reflection tells it."""

CLASSES: dict[str, Any] = classes(FILE)
"""The class of every message, by name."""
