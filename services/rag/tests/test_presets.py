import pytest

from services.kit.errors import InvalidRequest
from services.rag.errors import PresetNotFound
from services.rag.retrieving.presets import SHIPPED, PresetError, Presets, parse_preset
from services.rag.retrieving.steps import STEPS


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_preset_is_read_and_says_what_it_is_for(path):
    preset = parse_preset(path.stem, path.read_text(), path.name)
    assert preset.description
    assert preset.document()["steps"]


def test_the_quick_presets_ask_no_model():
    presets = Presets()
    assert presets.names() == ["accurate", "balanced", "fast"]
    assert not presets.get("fast").asks_a_model
    assert not presets.get("balanced").asks_a_model
    assert presets.get("accurate").asks_a_model


def test_every_step_says_what_it_does_and_what_its_options_do():
    for name, step in STEPS.items():
        assert step.__doc__, name
        for option, field in step.model_fields.items():
            assert option == "step" or field.description, f"{name}.{option}"


def test_options_are_read_into_their_step():
    preset = parse_preset("mine", "steps: [embed, {hybrid: {limit: 7}}, {top: {limit: 3}}]", "mine.yaml")
    assert [step.step for step in preset.steps] == ["embed", "hybrid", "top"]
    assert preset.document()["steps"][1] == {
        "hybrid": {
            "limit": 7,
            "exact": False,
            "candidates": 60,
            "terms_weight": 0.3,
            "keywords_weight": 2.0,
            "constant": 10,
        }
    }


def test_other_options_are_another_preset():
    one = parse_preset("a", "steps: [sparse]", "a.yaml")
    two = parse_preset("a", "steps: [{sparse: {limit: 3}}]", "a.yaml")
    assert one.digest != two.digest
    assert one.digest == parse_preset("b", "steps: [{sparse: {}}]", "b.yaml").digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [", "mine.yaml is not YAML"),
        ("just words", "needs `steps:`"),
        ("steps: []", "needs `steps:`"),
        ("steps: [sparse]\nspeed: high", "speed is not known"),
        ("steps: [sparse, magic]", "step 2: there is no step 'magic'; there are embed, dense"),
        ("steps: [sparse, {top: {limit: 0}}]", "step 2 (top): limit=0"),
        ("steps: [sparse, {top: {size: 3}}]", "step 2 (top): size is not an option; there are limit"),
        ("steps: [sparse, {top: 3}]", "its options must be a mapping"),
        ("steps: [sparse, {top: {limit: 3}, mmr: {}}]", "write `name` or"),
        ("steps: [embed]", "needs one search, dense, sparse or hybrid, and has 0"),
        ("steps: [embed, dense, sparse]", "and has 2"),
        ("steps: [hybrid]", "hybrid needs `embed` before the search"),
        ("steps: [sparse, mmr]", "mmr needs `embed` before the search"),
        ("steps: [embed, hyde, dense]", "hyde comes before `embed`"),
        ("steps: [sparse, embed]", "embed comes before the search"),
        ("steps: [top, sparse]", "top comes after the search"),
    ],
)
def test_what_is_wrong_with_a_preset_is_said_with_file_and_step(text, said):
    with pytest.raises(PresetError) as caught:
        parse_preset("mine", text, "mine.yaml")
    assert said in str(caught.value)


def test_a_users_own_preset_stands_beside_the_shipped_ones_and_may_take_their_place(tmp_path):
    (tmp_path / "words.yaml").write_text("steps: [sparse]")
    (tmp_path / "fast.yaml").write_text("description: mine\nsteps: [sparse]")
    presets = Presets(tmp_path)
    assert presets.names() == ["accurate", "balanced", "fast", "words"]
    assert presets.get("fast").description == "mine"
    (tmp_path / "words.yaml").write_text("steps: [sparse, {top: {limit: 2}}]")
    assert [step.step for step in presets.get("words").steps] == ["sparse", "top"]


def test_an_unknown_preset_is_told_with_those_that_there_are():
    with pytest.raises(PresetNotFound, match="'quick'; there are accurate, balanced, fast"):
        Presets().get("quick")


def test_a_preset_that_can_not_be_read_is_the_requests_error_with_the_reason(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: [nothing]")
    with pytest.raises(InvalidRequest, match="there is no step 'nothing'"):
        Presets(tmp_path).get("mine")
