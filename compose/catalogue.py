"""Write what the gateway of the compose stack reads at its start: `python -m compose.catalogue`.

The stack's own services behind it, by their names in the network. Models are not here: it asks the service `engines`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from services.stack import start_order

TARGET = Path(__file__).parent / "gateway" / "catalogue.json"


def catalogue() -> dict[str, Any]:
    """Return the document."""
    backends = [
        {
            "name": service.name,
            "url": f"http://{service.name}:{service.port}",
            "engine": "sparkstack",
            "paths": list(service.paths),
            "models": [],
        }
        for service in start_order()
        if service.behind_gateway
    ]
    return {"backends": backends}


def text() -> str:
    """Return the file's text."""
    return json.dumps(catalogue(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    sys.exit(0)
