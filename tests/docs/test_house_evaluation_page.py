"""docs/evaluation.md says what the code does: the table of what the gate lets through, the rules, the verbs."""

import re

from docs.generate_evaluation import TARGET, document, passing
from services.tracking.evaluation.rules import QualityRules, Rules


def test_the_table_of_what_the_gate_lets_through_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run: python -m docs.generate_evaluation"


def test_a_candidate_that_is_worse_by_the_margin_passes_about_as_often_as_the_confidence_leaves() -> None:
    for items in (60, 150):
        for worse, better in ((0.05, 0.0), (0.10, 0.05), (0.20, 0.15)):
            share = passing(items, worse, better, QualityRules(margin=0.05, confidence=0.95))
            assert 0.0 < share < 0.08, (items, worse, better)


def test_every_section_of_the_rules_is_told() -> None:
    text = TARGET.read_text(encoding="utf-8")
    sections = set(Rules.__dataclass_fields__) - {"source"}
    assert sections == set(re.findall(r"^\| `(\w+)` \|", text.partition("### The rules")[2], re.MULTILINE))
