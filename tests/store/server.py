"""An S3-compatible server on loopback, a process of its own, that can be made to fail: ``python server.py MOOD``.

It prints its address. MOOD is a file: while it says ``down``, every request is refused with 503; while it says
``deaf``, every write is done and its answer lost.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class Moody:
    def __init__(self, mood: Path):
        self.mood, self.app = mood, DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ, start_response):
        mood = self.mood.read_text() if self.mood.exists() else ""
        if mood == "down":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if mood == "deaf" and environ["REQUEST_METHOD"] == "PUT":
            for _ in self.app(environ, lambda *_: None):
                pass
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, Moody(Path(sys.argv[1])), threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()
