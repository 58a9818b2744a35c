"""The BigQuery emulator's process: REST and the Storage Write API on two ports."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.emulators.process import HOST, EmulatorProcess, free_port, get

_ROOT = Path(__file__).resolve().parents[2]


class BigQueryEmulator(EmulatorProcess):
    """`bqemulator` on 127.0.0.1. All tables are in memory."""

    name = "bigquery"

    def __init__(self, log_path: Path | None = None) -> None:
        super().__init__(log_path)
        self._grpc_port = 0

    @property
    def url(self) -> str:
        """Where REST is served: `http://127.0.0.1:PORT`."""
        return f"http://{HOST}:{self.port}"

    @property
    def grpc_host(self) -> str:
        """Where the Storage Write API is served, without TLS: `127.0.0.1:PORT`."""
        return f"{HOST}:{self._grpc_port}"

    def command(self, port: int) -> list[str]:
        """Return the command that serves REST on `port`, and gRPC on another free one."""
        self._grpc_port = free_port()
        ports = ["--rest-port", str(port), "--grpc-port", str(self._grpc_port)]
        server = _ROOT / "tests" / "emulators" / "bigquery_server.py"
        return [str(_ROOT / ".venv-services" / "bin" / "python"), str(server), "start", "--log-format=json", *ports]

    def announcement(self, port: int) -> str:
        """Return the line that it writes after it has bound the port of REST."""
        return f"Uvicorn running on http://{HOST}:{port} (Press CTRL+C to quit)"

    def answers(self, port: int) -> bool:
        """Return whether it answers requests of both kinds."""
        with socket.socket() as probe:
            return get(port, "/readyz")[0] == 200 and probe.connect_ex((HOST, self._grpc_port)) == 0
