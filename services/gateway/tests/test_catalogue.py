import pytest

from services.gateway.catalogue import ENGINES, Catalogue, ModelFacts, facts_from_document, facts_from_listing
from services.kit.errors import ModelNotFound


def models(*ids: str) -> list[ModelFacts]:
    return [ModelFacts(name) for name in ids]


def test_a_model_is_found_by_id_by_backend_and_id_and_by_alias() -> None:
    catalogue = Catalogue({"gpt-4o-mini": "small"})
    catalogue.add_backend("a", [ModelFacts("small", aliases=("s",))])
    target = catalogue.resolve("small")
    assert (target.backend, target.upstream_id) == ("a", "small")
    assert catalogue.resolve("a/small") is catalogue.resolve("s") is catalogue.resolve("gpt-4o-mini") is target


def test_ids_that_clash_are_listed_with_their_backend_and_the_first_keeps_the_bare_name() -> None:
    catalogue = Catalogue()
    catalogue.add_backend("a", models("same", "only-a"))
    catalogue.add_backend("b", models("same"))
    assert [entry.target.public_id for entry in catalogue.entries()] == ["a/same", "only-a", "b/same"]
    assert catalogue.resolve("b/same").backend == "b"
    assert catalogue.resolve("same").backend == "a"


def test_default_is_the_first_model_that_can_chat_unless_told_otherwise() -> None:
    catalogue = Catalogue()
    catalogue.add_backend("a", [ModelFacts("e", capabilities=("embeddings",)), ModelFacts("c", capabilities=("chat",))])
    assert catalogue.resolve("default").upstream_id == "c"
    named = Catalogue(default_model="e")
    named.add_backend("a", models("c", "e"))
    assert named.resolve("default").upstream_id == "e"


def test_default_is_a_model_of_the_engines_service_before_any_other_and_never_one_that_asks_default_itself() -> None:
    catalogue = Catalogue()
    catalogue.add_backend("rag", [ModelFacts("rag/handbook", capabilities=("chat", "rag"))])
    with pytest.raises(ModelNotFound):
        catalogue.resolve("default")
    catalogue.add_backend("embeddings", [ModelFacts("mini", capabilities=("embeddings",))])
    catalogue.add_backend("mine", models("any"))
    assert catalogue.resolve("default").upstream_id == "any"
    catalogue.add_backend(ENGINES, [ModelFacts("absent", missing=True), ModelFacts("small", capabilities=("chat",))])
    assert catalogue.resolve("default").upstream_id == "small"


@pytest.mark.parametrize(
    ("capabilities", "operations"),
    [
        ((), None),
        (("chat", "tools"), {"chat", "text_completion"}),
        (("completion",), {"chat", "text_completion"}),
        (("chat", "rag"), {"chat"}),
        (("embeddings",), {"embeddings"}),
        (("rerank",), {"rerank"}),
        (("moderation",), set()),
    ],
)
def test_what_can_be_asked_follows_from_what_is_known(capabilities: tuple[str, ...], operations: set[str]) -> None:
    catalogue = Catalogue()
    catalogue.add_backend("a", [ModelFacts("m", capabilities=capabilities)])
    assert catalogue.resolve("m").operations == operations
    assert catalogue.offering("chat") == (["m"] if operations and "chat" in operations else [])


def test_an_alias_may_lead_to_default_and_a_circle_leads_nowhere() -> None:
    catalogue = Catalogue({"gpt-4o": "default", "x": "y", "y": "x"})
    catalogue.add_backend("a", models("m"))
    assert catalogue.resolve("gpt-4o").upstream_id == "m"
    with pytest.raises(ModelNotFound):
        catalogue.resolve("x")


def test_an_alias_of_the_settings_wins_over_a_recipes_and_over_an_id() -> None:
    catalogue = Catalogue({"s": "large"})
    catalogue.add_backend("a", [ModelFacts("small", aliases=("s",)), ModelFacts("large")])
    assert catalogue.resolve("s").upstream_id == "large"


def test_discovery_replaces_models_and_keeps_the_facts_of_the_file() -> None:
    catalogue = Catalogue()
    catalogue.add_backend("a", [ModelFacts("m", licence="Apache-2.0", context_tokens=1), ModelFacts("gone")])
    catalogue.set_models("a", [ModelFacts("m", context_tokens=4096), ModelFacts("new")])
    assert catalogue.resolve("m").facts == ModelFacts("m", licence="Apache-2.0", context_tokens=4096)
    assert catalogue.resolve("new").backend == "a"
    with pytest.raises(ModelNotFound, match="'gone'; GET /v1/models lists: m, new"):
        catalogue.resolve("gone")


def test_a_target_can_be_listed_by_every_name_that_leads_to_it() -> None:
    catalogue = Catalogue({"gpt-4o": "m"})
    catalogue.add_backend("a", [ModelFacts("m", aliases=("s",))])
    assert catalogue.entries()[0].aliases == ("a/m", "default", "gpt-4o", "s")


def test_facts_are_read_from_what_engines_list() -> None:
    llama = {"id": "m", "created": 5, "meta": {"n_ctx": 4096, "n_params": 7, "size": 9, "ftype": "Q4_1"}}
    assert facts_from_listing(llama) == ModelFacts(
        "m", context_tokens=4096, size_bytes=9, parameters=7, quantization="Q4_1", created=5
    )
    assert facts_from_listing({"id": "v", "max_model_len": 2048}) == ModelFacts("v", context_tokens=2048)
    assert facts_from_listing({"object": "model"}) is None
    assert facts_from_listing({"id": "w", "meta": "?", "created": "now"}) == ModelFacts("w")


def test_facts_are_read_from_what_our_own_services_list() -> None:
    said = {
        "capabilities": ["embeddings", 7],
        "context_tokens": 256,
        "dimensions": 384,
        "family": "bert",
        "aliases": ["e"],
        "licence": "apache-2.0",
        "default": True,
    }
    own = facts_from_listing({"id": "m", "sparkstack": said}, own=True)
    assert own == ModelFacts(
        "m", ("e",), ("embeddings",), context_tokens=256, dimensions=384, family="bert", licence="apache-2.0"
    )
    foreign = facts_from_listing({"id": "m", "sparkstack": said})
    assert foreign is not None
    assert (foreign.aliases, foreign.capabilities) == ((), ("embeddings",))
    odd = {"aliases": "e", "capabilities": None, "dimensions": "384", "family": 1, "licence": []}
    assert facts_from_listing({"id": "m", "sparkstack": odd}, own=True) == ModelFacts("m")
    assert facts_from_listing({"id": "m", "sparkstack": "?"}, own=True) == ModelFacts("m")


def test_facts_of_the_catalogue_file_ignore_what_they_do_not_know() -> None:
    facts = facts_from_document({"id": "m", "aliases": ["s"], "colour": "red", "digest": None})
    assert facts == ModelFacts("m", aliases=("s",))
