"""The same answers judged by RAGAS: `python -m loadtests.rag_quality.with_ragas report/report.json --model MODEL`.

RAGAS has an environment of its own (`pip install ragas "langchain-community<0.4"`): it drags in a hundred packages. It
asks the judge through the gateway, as `sparkstack rag eval --judge` does, whose report it reads.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Print RAGAS's faithfulness beside ours, by preset; return 1 where no answer could be judged."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.rag_quality.with_ragas", description=__doc__)
    parser.add_argument("report", type=Path, help="report.json of an evaluation with --judge")
    parser.add_argument("--model", required=True, help="that judges, by a name that the gateway knows")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the gateway")
    options = parser.parse_args(arguments)
    try:
        from openai import AsyncOpenAI
        from ragas.llms import llm_factory
        from ragas.metrics.collections import Faithfulness
    except ImportError as error:
        print(f'RAGAS is not here ({error}): pip install ragas "langchain-community<0.4"', file=sys.stderr)
        return 2
    key = os.environ.get("SPARKSTACK_API_KEY", "none").split(",")[0].rpartition("=")[2]
    client = AsyncOpenAI(base_url=options.url, api_key=key)
    metric = Faithfulness(llm=llm_factory(options.model, client=client, temperature=0))
    report = json.loads(options.report.read_text(encoding="utf-8"))
    judged = 0
    for preset, rows in report["rows"].items():
        ours, theirs, failed = asyncio.run(_judge(metric, rows))
        judged += len(theirs)
        print(
            f"{preset}: RAGAS {_shown(theirs)} of {len(theirs)} answers ({failed} not judged); ours {_shown(ours)} "
            f"of {len(ours)}"
        )
    return 0 if judged else 1


async def _judge(metric: Any, rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], int]:
    """Return our figures and RAGAS's of the answers that we judged, and how many RAGAS could not judge."""
    ours: list[float] = []
    theirs: list[float] = []
    failed = 0
    for row in rows:
        verdict = row["verdict"]
        if not verdict or verdict["faithfulness"] is None:
            continue
        ours.append(verdict["faithfulness"])
        try:
            found = await metric.ascore(
                user_input=row["question"], response=row["answer"], retrieved_contexts=row["passages"]
            )
            theirs.append(float(found.value))
        except Exception as error:  # whatever its layers raise: one answer is not judged, the others are
            failed += 1
            print(f"{row['id']}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    return ours, theirs, failed


def _shown(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" if values else "–"


if __name__ == "__main__":
    sys.exit(main())
