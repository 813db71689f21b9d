"""Energy to whom it belongs, and money by the user's own prices."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.settings import SettingsError
from services.tracking.energy import SETTLE_S, EnergyMeter, EnergyShares
from services.tracking.power import RaplPackage, find_counters
from services.tracking.tariff import Use, read_tariff
from services.tracking.tests.samples import AT, record, until

DAY = "2026-11-18"


def shares_of(*records, intervals):
    shares = EnergyShares()
    for each in records:
        shares.note(each)
    for start, end, joules in intervals:
        shares.measured(AT + start, AT + end, joules)
    return shares.settle(AT + 10_000)


def test_energy_goes_to_the_request_that_ran_and_the_rest_is_idle():
    shared = shares_of(record(key="ada", at=AT + 1, seconds=2.0), intervals=[(0, 5, 100.0), (5, 10, 50.0)])

    assert shared == {(DAY, "ada", "smollm2"): pytest.approx(40.0), (DAY, "", "(idle)"): pytest.approx(110.0)}


def test_requests_at_the_same_time_share_by_the_seconds_that_they_ran():
    shared = shares_of(
        record(key="ada", at=AT, seconds=10.0), record(key="grace", at=AT, seconds=5.0), intervals=[(0, 10, 300.0)]
    )

    assert shared[DAY, "ada", "smollm2"] == pytest.approx(200.0)
    assert shared[DAY, "grace", "smollm2"] == pytest.approx(100.0)


def test_waiting_for_a_model_to_load_uses_nothing_and_inner_requests_count_once():
    outer = record(key="ada", model="rag/x", at=AT, seconds=10.0, billed=False)
    inner = record(key="ada", at=AT, seconds=10.0, held_s=8.0, hops=1)

    shared = shares_of(outer, inner, intervals=[(0, 10, 100.0)])

    assert shared == {(DAY, "ada", "smollm2"): pytest.approx(20.0), (DAY, "", "(idle)"): pytest.approx(80.0)}


@given(
    spans=st.lists(st.tuples(st.floats(-20, 60), st.floats(0, 50), st.sampled_from("abc")), max_size=20),
    joules=st.lists(st.floats(0, 1000), min_size=1, max_size=8),
)
def test_what_is_shared_adds_up_to_what_was_used(spans, joules):
    intervals = [(5 * place, 5 * place + 5, each) for place, each in enumerate(joules)]
    records = [record(at=AT + start, seconds=seconds, key=key) for start, seconds, key in spans]

    assert sum(shares_of(*records, intervals=intervals).values()) == pytest.approx(sum(joules))


def test_an_interval_waits_until_its_requests_have_ended():
    shares = EnergyShares()
    shares.measured(AT, AT + 5, 100.0)

    assert shares.settle(AT + 4) == {}
    shares.note(record(key="ada", at=AT, seconds=5.0))
    assert shares.settle(AT + 5) == {(DAY, "ada", "smollm2"): 100.0, (DAY, "", "(idle)"): 0.0}
    assert SETTLE_S > 60


def test_what_a_deleted_key_has_used_and_is_not_shared_out_yet_is_nobodys():
    shares = EnergyShares()
    shares.note(record(key="ada", at=AT, seconds=5.0))
    shares.rename("ada", "(deleted)")
    shares.measured(AT, AT + 5, 100.0)

    assert shares.settle(AT + 5) == {(DAY, "(deleted)", "smollm2"): 100.0, (DAY, "", "(idle)"): 0.0}


class Falling:
    """A counter that fails now and then."""

    name = "gpu0"

    def __init__(self):
        self.reads = 0

    def joules(self):
        self.reads += 1
        if self.reads == 3:
            raise OSError("gone")
        return 10.0 * self.reads


def test_what_is_not_safe_on_disk_is_handed_over_again():
    kept, refused = [], []
    counter = Falling()

    def keep(shared):
        if len(refused) < 1:
            refused.append(dict(shared))
            return False
        kept.append(dict(shared))
        return True

    shares = EnergyShares()
    meter = EnergyMeter(shares, lambda: [counter], keep, 0.01)
    meter._hand_over(0)
    shares.measured(AT, AT + 5, 30.0)
    meter._hand_over(AT + 10)
    shares.measured(AT + 5, AT + 10, 12.0)
    meter._hand_over(AT + 10)
    assert refused == [{(DAY, "", "(idle)"): 30.0}]
    assert kept == [{(DAY, "", "(idle)"): 42.0}]


def test_a_counter_that_fails_for_a_moment_loses_nothing():
    counter = Falling()
    meter = EnergyMeter(EnergyShares(), lambda: [counter], lambda _shared: True, 0.005)
    meter.start()
    until(lambda: counter.reads >= 6)
    meter.stop()

    assert meter.sources == ("gpu0",)
    assert meter.total_joules == pytest.approx(10.0 * (counter.reads - 1))


def test_a_machine_that_shows_no_power_has_no_counters(tmp_path):
    def no_library():
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert find_counters(tmp_path / "none", no_library) == []


def rapl_package(folder, microjoules, largest=1_000_000):
    package = folder / "intel-rapl:0"
    package.mkdir(parents=True, exist_ok=True)
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text(f"{microjoules}\n")
    (package / "max_energy_range_uj").write_text(f"{largest}\n")
    return package


def test_a_cpu_package_counts_on_when_its_counter_begins_anew(tmp_path):
    package = RaplPackage(rapl_package(tmp_path, 900_000))
    rapl_package(tmp_path, 950_000)
    assert package.joules() == pytest.approx(0.05)
    rapl_package(tmp_path, 50_000)
    assert package.joules() == pytest.approx(0.15)


def test_a_package_within_a_package_is_not_counted_twice(tmp_path):
    rapl_package(tmp_path, 1)
    (tmp_path / "intel-rapl:0:0").mkdir()

    assert [each.name for each in find_counters(tmp_path, lambda: (_ for _ in ()).throw(OSError()))] == ["package-0"]


class FakeNvml:
    """NVML's functions as ctypes calls them: two GPUs, of which one has no energy counter."""

    watts, millijoules = 30.0, 5_000

    def nvmlInit_v2(self):  # noqa: N802 - NVML's names
        return 0

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))[0] = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, found):  # noqa: N802
        if handle.value == 2:
            return 3  # not supported
        found._obj.value = self.millijoules
        return 0

    def nvmlDeviceGetPowerUsage(self, handle, found):  # noqa: N802
        found._obj.value = int(self.watts * 1000)
        return 0


def test_gpus_are_read_by_their_counter_or_by_power_over_time(tmp_path):
    library = FakeNvml()
    first, second = find_counters(tmp_path / "none", lambda: library)
    now = second._last
    second._clock = lambda: now + 2.0
    library.millijoules += 7_000

    assert (first.name, first.joules()) == ("gpu0", pytest.approx(7.0))
    assert (second.name, second.joules()) == ("gpu1", pytest.approx(60.0))


# --- prices


def tariff(folder, text):
    path = folder / "prices.yaml"
    path.write_text(text)
    return read_tariff(path)


def test_money_is_tokens_hours_requests_and_energy(tmp_path):
    prices = tariff(
        tmp_path,
        "currency: EUR\nkilowatt_hour: 0.30\n"
        'models: {"rag/*": {request: 0.01}, "*": {prompt: 1, completion: 2, hour: 3.6}}\n',
    )

    use = Use(requests=2, prompt_tokens=1_000_000, completion_tokens=500_000, seconds=10.0, joules=3.6e6)
    assert prices.money(DAY, "smollm2", use) == pytest.approx(1 + 1 + 0.01 + 0.30)
    assert prices.money(DAY, "rag/handbook", use) == pytest.approx(0.02 + 0.30)
    assert prices.currency == "EUR"


def test_a_price_holds_until_the_next_one_begins(tmp_path):
    prices = tariff(
        tmp_path,
        'currency: USD\nperiods:\n  - {from: 2026-12-01, models: {"*": {prompt: 2}}}\n'
        '  - {from: 2026-11-01, models: {"*": {prompt: 1}}}\n',
    )
    use = Use(prompt_tokens=1_000_000)

    days = ["2026-10-31", "2026-11-01", "2026-11-30", "2026-12-01"]
    assert [prices.money(day, "m", use) for day in days] == [None, 1.0, 1.0, 2.0]


def test_energy_of_idle_machines_has_a_price_and_models_without_one_have_none(tmp_path):
    prices = tariff(tmp_path, "currency: EUR\nkilowatt_hour: 0.30\nmodels: {smollm2: {prompt: 1}}\n")

    assert prices.money(DAY, "(idle)", Use(joules=3.6e6)) == pytest.approx(0.30)
    assert prices.money(DAY, "other", Use(prompt_tokens=5)) is None
    assert read_tariff(None).money(DAY, "smollm2", Use(prompt_tokens=5)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with `currency:`"),
        ("currency: [", "is not YAML"),
        ("currency: EUR\nmodels: {a: {promt: 1}}", "'promt' is not one of prompt, completion"),
        ("currency: EUR\nmodels: {a: {prompt: -1}}", "-1 is not a price"),
        ("currency: EUR\nmodels: {a: 1}", "maps a model to its prices"),
        ("currency: EUR\nkilowatt: 1", "'kilowatt' is not one of"),
        ("currency: EUR\nperiods: [{from: tomorrow}]", "is not a day"),
        ("currency: EUR\nperiods: []\nmodels: {}", "there is nothing else"),
    ],
)
def test_a_file_that_has_no_prices_is_explained(tmp_path, text, said):
    with pytest.raises(SettingsError, match="TRACKING_TARIFF") as refused:
        tariff(tmp_path, text)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        read_tariff(tmp_path / "none.yaml")
