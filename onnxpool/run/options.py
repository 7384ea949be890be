"""What ONNX Runtime is asked for: providers that can start here, and options for a session, or why they are refused."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from onnxpool.errors import ArgumentError, MissingExtra, nearest
from onnxpool.run.native_library import CPU, CUDA
from onnxpool.runtimes._devices import why_no_device

Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""A provider of ONNX Runtime by name, or with its options."""


def onnxruntime_itself() -> Any:
    """The module; :class:`MissingExtra` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu", "load") from error
    return onnxruntime


def with_options(
    providers: Sequence[Provider] | None, options: Sequence[Mapping[str, Any]] | None
) -> Sequence[Provider] | None:
    """Each provider with its options; :class:`ArgumentError` where they do not belong together."""
    if isinstance(providers, str):
        raise ArgumentError(f"providers={providers!r} must be a list, such as [{providers!r}]")
    if not options:
        return providers
    if providers is None or len(providers) != len(options):
        raise ArgumentError(
            f"provider_options={options!r:.80} must be one mapping for each of providers={providers!r:.80}"
        )
    if paired := [provider for provider in providers if not isinstance(provider, str)]:
        raise ArgumentError(f"provider_options is given, and providers={paired!r:.80} have options: give them once")
    return [(name_of(provider), dict(one)) for provider, one in zip(providers, options, strict=True)]


def session_options(given: Any, config: Mapping[str, str] | None, threads: int | None) -> Any:
    """Options for a session: those that are given, or new ones; :class:`ArgumentError` for what are none."""
    made = onnxruntime_itself().SessionOptions
    if given is not None and not isinstance(given, made):
        raise ArgumentError(f"session_options={given!r:.80} must be an onnxruntime.SessionOptions, or None")
    options = made() if given is None else given
    if given is None:
        options.log_severity_level = 4  # errors reach the caller as exceptions
    for key, value in {**(config or {}), "session.record_ep_graph_assignment_info": "1"}.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ArgumentError(f"session_config={{{key!r}: {value!r}}} must be text: names and values of entries")
        if _entry(options, key) != value:  # it would warn of what is there already
            options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _entry(options: Any, key: str) -> str | None:
    """An entry of the configuration, if it is there."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def available_providers(asked: Sequence[Provider] | None) -> list[Provider]:
    """Those that can be asked for here."""
    available = onnxruntime_itself().get_available_providers()
    chosen: list[Provider] = list(asked or [p for p in (CUDA, CPU) if p in available])
    if missing := [name_of(provider) for provider in chosen if name_of(provider) not in available]:
        close = nearest(str(missing[0]), available)
        raise ArgumentError(f"providers={missing!r} are not available here{close}; this onnxruntime has {available}")
    reasons = {name_of(provider): why_no_device(name_of(provider)) for provider in chosen}
    if all(reasons.values()):
        raise ArgumentError(f"providers={list(reasons)!r} cannot start here: {next(iter(reasons.values()))}")
    return [provider for provider in chosen if not reasons[name_of(provider)]]


def name_of(provider: Provider) -> str:
    """The provider's name, without its options."""
    return provider if isinstance(provider, str) else provider[0]
