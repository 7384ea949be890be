"""TLS of both protocols: the server's certificate, read again when its file changes, and clients' where they need one.

A certificate that was renewed counts for new connections. One that cannot be read changes nothing, and is told.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("onnxpool.serve")


@dataclass
class Certificates:
    """The files, as they were read last."""

    cert: Path
    key: Path
    client_ca: Path | None

    def __post_init__(self) -> None:
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in (self.cert, self.key))

    def changed(self) -> bool:
        """Whether the files are others than at the last call that said so."""
        try:
            now = self._stamp()
        except OSError as error:
            log.warning("the certificate cannot be read, and stays what it was: %s", error)
            return False
        before, self._seen = self._seen, now
        return now != before

    def renew(self, context: ssl.SSLContext) -> None:
        """Have new connections of REST use the files as they are now, where they have changed."""
        if self.changed():
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)  # a half would stay
                context.load_cert_chain(self.cert, self.key)
            except (OSError, ssl.SSLError) as error:
                log.warning("the new certificate cannot be used, and the old one is: %s", error)

    def credentials(self) -> Any:
        """What gRPC takes; it asks for changes before every handshake."""
        import grpc

        files = Certificates(self.cert, self.key, self.client_ca)

        def configuration() -> Any:
            roots = self.client_ca.read_bytes() if self.client_ca else None
            pair = (self.key.read_bytes(), self.cert.read_bytes())
            return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

        def renewed() -> Any:
            return configuration() if files.changed() else None

        required = self.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=required)
