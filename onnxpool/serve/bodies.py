"""Reads the body of a request: no longer, no larger and no slower than allowed, and decompressed no larger either."""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from onnxpool.serve.limits import GRACE_S, LEAST_BYTES_PER_S, MOST_RATIO, Options, Refusal
from onnxpool.serve.service import Held

_FORMATS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}

_PATIENCE = 4
"""How many times the largest body is read and dropped, so that a client that sent too much still reads the answer."""


async def read(request: Request, options: Options, held: Held) -> bytes:
    """The body, decompressed; refuses one too large (413), too slow (408), cut off (499), encoded otherwise (415)."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", *_FORMATS):
        raise Refusal(415, f"Content-Encoding: {encoding:.40} is unknown; use {', '.join(_FORMATS)} or none")
    try:
        body = await _received(request, options, held)
    except ClientDisconnect as error:
        raise Refusal(499, "the client went away") from error
    if encoding == "identity":
        return body
    text = await asyncio.to_thread(_decompressed, body, _FORMATS[encoding], options.max_body_bytes)
    held.add(len(text))
    return text


async def _received(request: Request, options: Options, held: Held) -> bytes:
    chunks: list[bytes] = []
    size, most = 0, options.max_body_bytes
    allowed_s = min(GRACE_S, options.timeout_s)
    begin_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(allowed_s) as limit:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    held.add(len(chunk))
                    chunks.append(chunk)
                elif size > _PATIENCE * most:
                    break
                allowed_s = min(GRACE_S + size / LEAST_BYTES_PER_S, options.timeout_s)
                limit.reschedule(begin_s + allowed_s)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within {allowed_s:g} s") from error
    if size > most:
        raise Refusal(413, f"the body is larger than {most} bytes, the most that is taken")
    return b"".join(chunks)


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
