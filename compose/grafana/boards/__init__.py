"""The dashboards. `python -m compose.grafana.boards` writes dashboards/*.json from them."""

import json
from pathlib import Path

from compose.grafana.boards import cost, drift, engines, gateway, rag
from compose.grafana.panels import Dashboard

FOLDER = Path(__file__).parents[1] / "dashboards"
BOARDS = (gateway.BOARD, engines.BOARD, rag.BOARD, drift.BOARD, cost.BOARD)


def text_of(board: Dashboard) -> str:
    """Return the text of a dashboard's file."""
    return json.dumps(board.document(), indent=1, ensure_ascii=False) + "\n"


def path_of(board: Dashboard) -> Path:
    """Return where a dashboard's file is."""
    return FOLDER / f"{board.name}.json"
