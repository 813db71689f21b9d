import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from services.engines.loading.receipts import Receipt, Receipts

RECEIPT = Receipt("m", "llamacpp", 1000.0, 300, 400, 310, 2.5, "ready")


def test_receipts_outlive_the_service(tmp_path):
    path = tmp_path / "new" / "receipts.jsonl"
    assert Receipts(path).newest(10) == []
    failed = replace(RECEIPT, outcome="failed", reason='a "b"\nc → d')
    receipts = Receipts(path)
    receipts.add(RECEIPT)
    receipts.add(failed)
    assert Receipts(path).newest(10) == receipts.newest(10) == [failed, RECEIPT]
    assert Receipts(path).newest(1) == [failed]
    assert Receipts(path).newest(0) == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_last_one_of_a_model_on_an_engine(tmp_path):
    receipts = Receipts(tmp_path / "r")
    for engine, load_s in (("llamacpp", 1.0), ("vllm", 2.0), ("llamacpp", 3.0)):
        receipts.add(replace(RECEIPT, engine=engine, load_s=load_s))
    assert receipts.last("m", "llamacpp").load_s == 3.0
    assert receipts.last("m", "vllm").load_s == 2.0
    assert receipts.last("other", "vllm") is None


def test_a_load_takes_what_the_last_good_ones_took(tmp_path):
    receipts = Receipts(tmp_path / "r")
    assert receipts.load_s("m", "llamacpp") is None
    for load_s in (100.0, 100.0, 100.0, 8.0, 9.0, 7.0, 60.0, 8.5):
        receipts.add(replace(RECEIPT, load_s=load_s))
    receipts.add(replace(RECEIPT, load_s=0.1, outcome="failed"))
    assert receipts.load_s("m", "llamacpp") == 8.5


def test_lines_that_are_no_receipts_are_passed_over(tmp_path):
    path = tmp_path / "r"
    good = json.dumps(vars(RECEIPT))
    lines = ["{}", "[]", "nonsense", "\x00\xff", good.replace('"m"', "7"), good.replace("2.5", "NaN"), good + "x"]
    later = json.dumps({**vars(RECEIPT), "of_a_later_version": 1})
    path.write_text("\n".join([good, *lines, later, ""]))
    assert Receipts(path).newest(10) == [RECEIPT, RECEIPT]


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    path = tmp_path / "r"
    Receipts(path).add(RECEIPT)
    with path.open("a") as file:
        file.write('{"model": "m", "eng')
    Receipts(path).add(replace(RECEIPT, model="n"))
    assert [receipt.model for receipt in Receipts(path).newest(10)] == ["n", "m"]


def test_the_file_does_not_grow_for_ever(tmp_path):
    path = tmp_path / "r"
    receipts = Receipts(path, keep=10)
    for number in range(95):
        receipts.add(replace(RECEIPT, load_s=float(number)))
    lines = path.read_text().splitlines()
    assert 10 <= len(lines) <= 20
    assert [receipt.load_s for receipt in Receipts(path, keep=10).newest(3)] == [94.0, 93.0, 92.0]


def test_a_disk_that_takes_nothing_costs_no_load(tmp_path):
    (tmp_path / "file").write_text("")
    receipts = Receipts(tmp_path / "file" / "r")
    receipts.add(RECEIPT)
    assert receipts.last("m", "llamacpp") == RECEIPT


def test_threads_lose_nothing(tmp_path):
    path = tmp_path / "r"
    receipts = Receipts(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: receipts.add(replace(RECEIPT, load_s=float(n))), range(200)))
    assert sorted(receipt.load_s for receipt in Receipts(path).newest(1000)) == [float(n) for n in range(200)]
