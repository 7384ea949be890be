"""Reads the body of a request: no longer, no larger and no slower than allowed, and decompressed no larger either."""

import asyncio
import zlib

from starlette.requests import Request

from onnxpool.serve.limits import GRACE_S, LEAST_BYTES_PER_S, MOST_RATIO, Options, Refusal
from onnxpool.serve.patience import NO_ANSWER, Patience, Receive
from onnxpool.serve.service import Held

_FORMATS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}

_PATIENCE = 4
"""How many times the largest body is read and dropped, so that a client that sent too much still reads the answer."""

_LATE = "the body did not come within {:g} s"


async def read(request: Request, options: Options, held: Held) -> bytes:
    """The body, decompressed; refuses as :func:`received` does."""
    with Patience() as patience:
        return await received(request.receive, request.headers.get("content-encoding"), options, held, patience)


async def received(receive: Receive, encoding: str | None, options: Options, held: Held, patience: Patience) -> bytes:
    """The body of an ASGI conversation, decompressed as ``encoding`` says.

    Refuses one too large (413), too slow (408), cut off (499), encoded otherwise (415).
    """
    encoding = (encoding or "identity").lower()
    if encoding not in ("identity", *_FORMATS):
        raise Refusal(415, f"Content-Encoding: {encoding:.40} is unknown; use {', '.join(_FORMATS)} or none")
    body = await _received(receive, options, held, patience)
    if encoding == "identity":
        return body
    text = await asyncio.to_thread(_decompressed, body, _FORMATS[encoding], options.max_body_bytes)
    held.add(len(text))
    return text


async def _received(receive: Receive, options: Options, held: Held, patience: Patience) -> bytes:
    chunks: list[bytes] = []
    size, most = 0, options.max_body_bytes
    patience.allow(min(GRACE_S, options.timeout_s), 408, _LATE)
    more = True
    while more and size <= _PATIENCE * most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(499, "the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= most:
            held.add(len(chunk))
            chunks.append(chunk)
        more = message.get("more_body", False)
        if more:
            patience.allow(min(GRACE_S + size / LEAST_BYTES_PER_S, options.timeout_s), 408, _LATE)
    if size > most:
        raise Refusal(413, f"the body is larger than {most} bytes, the most that is taken")
    patience.allow(options.timeout_s, 504, NO_ANSWER, again=True)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _decompressed(body: bytes, wbits: int, most: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    most = min(most, (1 << 20) + MOST_RATIO * len(body))
    try:
        text = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body cannot be decompressed: {error}") from error
    if len(text) > most:
        raise Refusal(
            413, f"the body is larger than {most} bytes when decompressed, the most that is taken of its size"
        )
    if not stream.eof or stream.unused_data:
        raise Refusal(400, "the compressed body is cut off, or something follows it")
    return text
