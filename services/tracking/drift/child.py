"""Make a report: `python -m services.tracking.drift.child IN.json OUT.html`. A process of its own, see `reports`."""

import html
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from services.tracking.drift.signals import SAYS

_HEAD = """\
<style>
.sparkstack{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
.sparkstack table{border-collapse:collapse;width:100%}
.sparkstack td,.sparkstack th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
.sparkstack .changed{background:#fde8e8;font-weight:600}
</style>
"""


def main(given: list[str]) -> int:
    """Read the rows, write the report; the last line on standard error says why it could not be made."""
    source, target = Path(given[0]), Path(given[1])
    os.nice(10)
    # What is deprecated within Evidently's own dependencies is not for whoever waits for a report.
    warnings.simplefilter("ignore")
    document = json.loads(source.read_text("utf-8"))
    try:
        made = evidently_page(document)
    except ImportError as error:
        sys.stderr.write(
            f"Evidently is not in this environment ({error.name}): `python3 scripts/bootstrap.py tracking`, then "
            "restart the tracking service\n"
        )
        return 1
    partial = target.with_suffix(".part")
    partial.write_text(with_findings(made, document["window"]), "utf-8")
    partial.chmod(0o600)
    partial.replace(target)
    return 0


def evidently_page(document: dict[str, Any]) -> str:
    """Return Evidently's page on the columns of both sets.

    Raises:
        ImportError: it is not installed.
    """
    import pandas
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    frames = [pandas.DataFrame(document[name]) for name in ("current", "reference")]
    numbers, names = _kinds(document["reference"])
    for frame in frames:
        frame[numbers] = frame[numbers].astype(float)
        # Flags and names alike are categories; what is missing is one of its own.
        frame[names] = frame[names].map(lambda value: "none" if value is None else str(value)).astype(object)
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=names)
    current, reference = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)
    report = Report([DataDriftPreset(), DataSummaryPreset()])
    return str(report.run(current, reference).get_html_str(as_iframe=False))


def with_findings(page: str, window: dict[str, Any]) -> str:
    """Return the page with the monitor's own findings above: those that Evidently has no quick way to."""
    rows = []
    for finding in window["findings"]:
        name = finding["signal"]
        detail = ", ".join(f"{key} {value:g}" for key, value in finding["detail"].items())
        cells = (name, SAYS.get(name, ""), f"{finding['score']:.3f}", f"{finding['p']:.2g}", detail)
        mark = ' class="changed"' if finding["alarm"] else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    said = "has changed" if window["alarm"] else "has not changed"
    ours = (
        f'{_HEAD}<div class="sparkstack"><h1>Window {window["id"]} against {html.escape(window["reference"])}: '
        f"{said}</h1><p>{window['size']} sampled requests. The alarm is decided by these tests, all within one budget "
        "of false alarms. Evidently's verdicts below are made column by column, and its “Dataset Drift” means that "
        "half of the columns have drifted.</p><table><tr><th>signal</th>"
        f"<th>changed means</th><th>score</th><th>p</th><th></th></tr>{''.join(rows)}</table></div>"
    )
    begin = page.find("<body")
    place = page.find(">", begin) + 1 if begin >= 0 else 0
    return page[:place] + ours + page[place:]


def _kinds(rows: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    numbers: list[str] = []
    names: list[str] = []
    for column in rows[0]:
        values = [row[column] for row in rows if row[column] is not None]
        is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        (numbers if is_number else names).append(column)
    return numbers, names


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
