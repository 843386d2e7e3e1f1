"""A web server on this machine that answers range requests, counts them, and misbehaves when told."""

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Fault:
    """What happens to the next ``times`` GET requests for a file whose name contains ``name``."""

    times: int
    name: str = ".tar"
    status: int | None = None
    """answer with this"""
    reset: bool = False
    """tear the connection"""
    cut: int | None = None
    """send so many of the bytes promised"""
    short: int = 0
    """promise and send so many fewer"""
    wrong: bool = False
    """flip a bit"""
    stall: float = 0.0
    """seconds of silence first"""
    whole: bool = False
    """know no ranges"""


class Server(ThreadingHTTPServer):
    """Serves a folder."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.faults: list[Fault] = []
        self.gets: list[str] = []  # `NAME RANGE` of each GET, in order
        self.queries: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str]:
        """The GETs of a part of a file."""
        return [get for get in self.gets if "bytes=" in get]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client went away, or was sent away: not for the terminal."""

    def fault_for(self, name: str) -> Fault:
        """The fault that is due."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.name in name:
                    fault.times -= 1
                    return fault
        return Fault(0)


class Handler(SimpleHTTPRequestHandler):
    """Answers one request."""

    server: Server
    protocol_version = "HTTP/1.1"  # connections are kept, as by real servers

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""

    def send_head(self) -> None:
        path = Path(self.translate_path(self.path))
        fault = self.server.fault_for(path.name) if self.command == "GET" else Fault(0)
        self._note(path.name)
        time.sleep(fault.stall)
        if fault.reset:
            linger = struct.pack("ii", 1, 0)  # closed so, TCP sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
        elif fault.status or not path.is_file():
            self.send_error(fault.status or 404)
        else:
            self._send(path.read_bytes(), fault)

    def _note(self, name: str) -> None:
        if self.command == "GET":
            with self.server.lock:
                self.server.queries.add(self.path.partition("?")[2])
                self.server.gets.append(f"{name} {self.headers.get('Range', '')}".strip())

    def _send(self, data: bytes, fault: Fault) -> None:
        if (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))) and not fault.whole:
            first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            if first >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        data = data[: len(data) - fault.short]
        if fault.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: fault.cut])
            self.close_connection = fault.cut is not None


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of ``folder`` while the block runs."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
