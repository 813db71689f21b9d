"""Stands in for vLLM in a container: takes its command line, loads nothing but config.json, answers as it would.

It finds the model as the hub's library does offline: by its name, in HF_HUB_CACHE, at the commit that `main` has.
"""

import http.server
import itertools
import json
import os
import sys
from pathlib import Path

_, model, *words = sys.argv
given = dict(itertools.pairwise(words))
repository = Path(os.environ["HF_HUB_CACHE"]) / f"models--{model.replace('/', '--')}"
commit = (repository / "refs" / "main").read_text().strip()
snapshot = repository / "snapshots" / commit
config = json.loads((snapshot / "config.json").read_text())
weights = sum(len(path.read_bytes()) for path in snapshot.glob("*.safetensors"))
name = given["--served-model-name"]
counted = 0
print(f"loaded {config['model_type']}, {weights} bytes, as {os.getuid()}", flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """The few paths that are asked for."""

    def do_GET(self):
        """Answer health, models and figures."""
        if self.path == "/metrics":
            self._say(f"vllm:num_requests_running 0\nvllm:generation_tokens_total {counted}\n".encode(), "text/plain")
        elif self.path in ("/health", "/v1/models"):
            self._say(json.dumps({"object": "list", "data": [{"id": name, "object": "model"}]}).encode())
        else:
            self.send_error(404)

    def do_POST(self):
        """Answer any chat with two words."""
        global counted
        counted += 2
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": "Hello there."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        document = {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"]}
        self._say(json.dumps({**document, "choices": [choice], "usage": usage}).encode())

    def _say(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


http.server.ThreadingHTTPServer((given["--host"], int(given["--port"])), Handler).serve_forever()
