"""For the tests of fetching: a server on loopback that misbehaves as told, and processes that fetch from it."""

import dataclasses
import random
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY, OTHER = (random.Random(seed).randbytes(1_000_003) for seed in (0, 1))


@dataclasses.dataclass
class Answer:
    """How the server answers one request. `cut`: bytes to send, then close; `hold`: bytes to send, then wait."""

    body: bytes = BODY
    tag: str | None = '"1"'
    date: str | None = None
    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    heeds_if_range: bool = True
    length: bool = True
    shift: int = 0  # how far a range starts off
    surplus: int = 0  # how far Content-Length is off
    cut: int | None = None
    hold: int | None = None


class Server(ThreadingHTTPServer):
    """Gives `answers[path]` one after another, the last one for ever, and notes each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.sent: list[int] = []  # bytes of the body, by request
        self.release = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_close(self) -> None:
        self.release.set()
        self.shutdown()
        super().server_close()

    def address(self, *answers: Answer, path: str = "/file.zip") -> str:
        self.answers[path] = list(answers) or [Answer()]
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def encrypt(self, folder: Path) -> None:
        """Speak TLS from now on, with a certificate that nobody signed."""
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def ranges(self) -> list[str | None]:
        return [ranged for _, ranged, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        answers = self.server.answers[self.path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        ranged, condition = self.headers["Range"], self.headers["If-Range"]
        self.server.requests.append((self.path, ranged, condition))
        self.server.sent.append(0)
        number = len(self.server.sent) - 1
        body, status, headers = answer.body, answer.status or 200, dict(answer.headers)
        current = not answer.heeds_if_range or condition in (None, answer.tag, answer.date)
        if answer.status is None and answer.ranges and ranged and current:
            start = int(re.fullmatch(r"bytes=(\d+)-", ranged)[1]) + answer.shift
            fits = start < len(body)
            status = 206 if fits else 416
            headers["Content-Range"] = f"bytes {f'{start}-{len(body) - 1}' if fits else '*'}/{len(body)}"
            body = body[start:]
        self.send_response(status)
        if answer.length:
            self.send_header("Content-Length", str(len(body) + answer.surplus))
        if "gzip" in self.headers["Accept-Encoding"]:
            headers["Content-Encoding"] = "gzip"
        date = answer.date if status == 200 else None  # as RFC 9110 allows
        for key, value in {"ETag": answer.tag, "Last-Modified": date, **headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        with suppress(ConnectionError):  # killed clients
            body = body[: answer.cut]
            self.server.sent[number] = len(body)
            if answer.hold is not None:
                self.wfile.write(body[: answer.hold])
                self.server.release.wait(60)
                body = body[answer.hold :]
            self.wfile.write(body)


class Fetcher:
    """A process of its own that fetches, its messages in a file."""

    CODE = """
import sys
from pathlib import Path
from rvlr import log
from rvlr.config.sources import Origin
from rvlr.fetch import download
log.setup(Path(sys.argv[3]))
download.fetch("coco-val2014", Origin(addresses=[sys.argv[1]]), Path(sys.argv[2]))
"""

    def __init__(self, address: str, target: Path, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE, address, str(target), str(log)])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, "the process has ended"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.01)
