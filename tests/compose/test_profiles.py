"""Every combination of profiles is a stack: whoever is started finds what it needs."""

import itertools

from tests.compose.files import ENGINE_PROFILES, OTHER_PROFILES, engines, everything


def test_every_combination_of_profiles_has_all_that_its_services_need():
    """As compose judges it: who is started, and whether all that it needs is."""
    services = everything()
    kinds = {name: frozenset(service.get("profiles", ())) for name, service in services.items()}
    needs = {
        name: [needed for needed, how in service.get("depends_on", {}).items() if how.get("required", True)]
        for name, service in services.items()
    }
    every = (*ENGINE_PROFILES, *OTHER_PROFILES)
    for size in range(len(every) + 1):
        for chosen in itertools.combinations(every, size):
            started = {name for name, profiles in kinds.items() if not profiles or profiles & set(chosen)}
            for name in started:
                assert all(needed in started for needed in needs[name]), f"{chosen}: {name}"


def test_every_profile_is_known_here():
    named = {profile for service in everything().values() for profile in service.get("profiles", ())}
    assert named - engines().keys() == {*ENGINE_PROFILES, *OTHER_PROFILES}
