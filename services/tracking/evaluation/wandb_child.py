"""Log a run by wandb's library, in the environment that has it. The request comes on standard input."""

import json
import sys
from pathlib import Path

import wandb

_ITEMS = 2000
_COLUMNS = ("id", "kind", "prompt", "answer", "reference", "score", "format_failed", "error")


def main() -> None:
    """Write one run: configuration, figures, and a table of its items."""
    request = json.load(sys.stdin)
    run = wandb.init(
        project=request["project"],
        name=request["name"],
        config=request["config"],
        dir=request["dir"],
        job_type="evaluation",
    )
    run.summary.update(request["metrics"])
    table = wandb.Table(columns=list(_COLUMNS))
    lines = Path(request["items"]).read_text(encoding="utf-8").splitlines()[:_ITEMS]
    for line in lines:
        item = json.loads(line)
        item["reference"] = json.dumps(item.get("reference"), ensure_ascii=False)
        table.add_data(*(item.get(column) for column in _COLUMNS))
    run.log({"items": table})
    place = run.url or run.dir
    run.finish()
    print(place)  # noqa: T201 - the answer to whoever has started this


if __name__ == "__main__":
    main()
