import pytest

from services.engines.lineup import aliases_of, default_first, preloaded
from services.engines.offers import OfferError, find_offer, offers_here
from services.engines.own_file import recipe_of_file
from services.engines.planning.machines import machine
from services.engines.recipes import EngineArguments, RecipeError, find_recipe, load_recipes
from services.engines.settings import EnginesSettings
from services.engines.tests.gguf_files import write


@pytest.fixture
def smollm2():
    return find_recipe("smollm2", load_recipes())


@pytest.fixture
def on_two_engines(smollm2):
    """The default model with a second engine, and the variables of a machine that has it."""
    engines = {**smollm2.engines, "vllm": EngineArguments(device="cpu", context_tokens=2048, kv_cache_bytes=2**30)}
    return smollm2.model_copy(update={"engines": engines}), {"ENGINES_VLLM_PYTHON": "/opt/vllm/bin/python"}


def test_the_default_model_is_offered_with_its_facts(smollm2):
    (offer,) = offers_here([smollm2], {})
    assert (offer.id, offer.engine) == ("smollm2-135m-instruct-q4_1", "llamacpp")
    facts = offer.facts(["smollm2"])
    assert facts["context_tokens"] == 4096, "what a request may have, not what the model was trained for"
    assert facts["digest"] == f"sha256:{smollm2.source.sha256}"
    assert facts["size_bytes"] == 98_362_432


def test_a_second_engine_has_a_name_of_its_own(on_two_engines):
    recipe, variables = on_two_engines
    first, second = offers_here([recipe], variables)
    assert (first.id, second.id) == (recipe.id, f"{recipe.id}@vllm")
    for name in (recipe.id, "smollm2", f"{recipe.id}@llamacpp", "smollm2@llamacpp"):
        assert find_offer(name, [first, second]) is first
    for name in (f"{recipe.id}@vllm", "smollm2@vllm"):
        assert find_offer(name, [first, second]) is second


def test_models_for_a_gpu_are_not_offered_as_processes(smollm2):
    gpu = EngineArguments(device="gpu", context_tokens=4096)
    assert offers_here([smollm2.model_copy(update={"engines": {"llamacpp": gpu}})], {}) == []


def test_an_engine_that_is_not_installed_offers_nothing(on_two_engines):
    recipe, _ = on_two_engines
    without = recipe.model_copy(update={"engines": {"sglang": recipe.engines["vllm"]}})
    assert offers_here([without], {"ENGINES_SGLANG_PYTHON": ""}) == []


def test_what_is_not_offered_is_told_what_is(smollm2):
    with pytest.raises(RecipeError, match="'gpt-oss-120b' can't be served here; what can: smollm2-135m"):
        find_offer("gpt-oss-120b", offers_here([smollm2], {}))


def test_variables_win_over_the_recipe(smollm2):
    (offer,) = offers_here([smollm2], {"LLAMACPP_SLOTS": "2", "LLAMACPP_CONTEXT": "8192"})
    assert (offer.arguments.sequences, offer.arguments.context_tokens) == (2, 8192)
    longer, _ = offers_here([smollm2], {"LLAMACPP_SLOTS": "4", "LLAMACPP_CONTEXT": "8192"}) * 2
    assert longer.need(machine("this")).held > offer.need(machine("this")).held


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"LLAMACPP_SLOTS": "many"}, "LLAMACPP_SLOTS=many: it must be a whole number of 1 or more"),
        ({"LLAMACPP_SLOTS": "0"}, "LLAMACPP_SLOTS=0"),
        ({"LLAMACPP_CONTEXT": "100"}, "256 or more"),
        ({"LLAMACPP_CONTEXT": "9000"}, "trained for 8192"),
    ],
)
def test_a_wrong_variable_is_named(smollm2, variables, told):
    with pytest.raises(OfferError, match=told):
        offers_here([smollm2], variables)


def test_nothing_named_loads_the_default(smollm2):
    offers = offers_here([smollm2], {})
    assert [offer.id for offer in preloaded(EnginesSettings(), offers)] == [smollm2.id]


def test_models_named_are_loaded_in_their_order_and_once(on_two_engines):
    recipe, variables = on_two_engines
    offers = offers_here([recipe], variables)
    settings = EnginesSettings(models="smollm2@vllm, smollm2,smollm2@vllm")
    chosen = preloaded(settings, offers)
    assert [offer.id for offer in chosen] == [f"{recipe.id}@vllm", recipe.id]
    assert default_first(offers, chosen[:1])[0].id == f"{recipe.id}@vllm"


def test_a_file_of_the_users_own_is_the_default_and_takes_the_names_that_clients_have_built_in(smollm2, tmp_path):
    path = write(tmp_path / "mine.gguf")
    offers = offers_here([recipe_of_file(path), smollm2], {})
    default = preloaded(EnginesSettings(gguf=str(path)), offers)[0]
    assert default.id == "mine"
    aliases = aliases_of(offers, default)
    assert "gpt-4o" in aliases["mine"]
    assert aliases[smollm2.id] == ["smollm2", f"{smollm2.id}@llamacpp"]
