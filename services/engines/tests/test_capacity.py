"""The course's table from first principles: each figure is the largest that fits, and differs where it should."""

import pytest

from services.engines.planning.capacity import CLAIMS, COURSE_ROOM_GB, COURSE_TOKEN_BYTES, course_remarks, shape
from services.engines.planning.machines import machine
from services.engines.planning.memory import plan_model
from services.engines.tests.planned_recipes import llama_70b, qwen36_35b

CASES = [case for claim in CLAIMS for case in claim.cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.what}")
def test_the_largest_model_fits_and_a_larger_one_does_not(case):
    largest = case.largest()
    assert case.total(largest) <= case.machine.total_bytes < case.total(largest + 10**8)
    assert sum(case.parts(largest).values()) == pytest.approx(case.total(largest))
    assert min(case.parts(largest).values()) >= 0


def figure(scenario):
    claim = next(claim for claim in CLAIMS if claim.scenario == scenario)
    return claim.verdict, claim.cases[0].largest() / 1e9


def test_where_the_course_is_right():
    assert figure("Full fine-tuning (FP16)") == ("the same", pytest.approx(14, abs=2))
    assert figure("FP16 inference") == ("the same", pytest.approx(52, abs=3))
    assert figure("FP8 inference") == ("the same", pytest.approx(95, abs=6))


def test_where_it_leaves_room():
    verdict, billions = figure("QLoRA fine-tuning")
    assert verdict == "more"
    assert billions > 120


def test_where_it_forgets_the_scales_the_engine_and_the_reserve():
    assert figure("NVFP4 inference") == ("less", pytest.approx(170, rel=0.05))
    verdict, billions = figure("Two Sparks, FP4")
    assert verdict == "less"
    assert billions < 405


def test_mixed_precision_with_float32_moments_halves_the_model():
    narrow, wide = next(claim for claim in CLAIMS if claim.scenario.startswith("Full")).cases
    assert wide.largest() == pytest.approx(narrow.largest() / 2, rel=0.05)


@pytest.mark.parametrize(("billions", "layers", "hidden"), [(7, 32, 4096), (68.5, 80, 8192), (401, 126, 16384)])
def test_the_shape_is_near_that_of_llama(billions, layers, hidden):
    found = shape(billions * 1e9)
    assert found == (pytest.approx(layers, rel=0.16), pytest.approx(hidden, rel=0.16))


def test_a_plan_for_70b_says_what_the_course_says_and_why():
    spark = machine("spark-128")
    for context in (65_536, 131_072):
        found = plan_model(llama_70b(), "vllm", spark, context_tokens=context, sequences=1)
        text = " ".join(found.remarks)
        assert found.holds
        for part in ("64K to 128K", "hold 143K tokens of 0.65 MB", "0.65 MB is float32", "163,840 bytes", "42.7 GB"):
            assert part in text
    assert pytest.approx(4 * 163_840, rel=0.01) == COURSE_TOKEN_BYTES
    assert COURSE_ROOM_GB * 10**9 // COURSE_TOKEN_BYTES == 143_076


def test_other_models_and_caches_are_not_the_courses():
    assert course_remarks(qwen36_35b().memory, 14192) == []
    assert course_remarks(llama_70b().memory, 327_680) == []
