"""Whatever is stored, deleted or expires: the sums of cost are those of all that was ever told of."""

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tracking.connecting import Identities, transaction
from services.tracking.erasing import erase_key, erase_old, erase_user
from services.tracking.schema import migrate
from services.tracking.tests.samples import AT, record
from services.tracking.writing import Writing

KEYS, USERS = st.sampled_from(["ada", "grace"]), st.sampled_from(["", "u1", "u2"])
RECORDS = st.builds(
    record,
    at=st.integers(0, 50).map(lambda seconds: AT + seconds),
    id=st.sampled_from(["a", "b", "c"]),
    key=KEYS,
    user=USERS,
    billed=st.booleans(),
    hops=st.integers(0, 1),
    prompt_tokens=st.integers(0, 1000),
    status=st.sampled_from([200, 404, 503]),
    backend=st.sampled_from(["", "engines"]),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.lists(RECORDS, max_size=5)),
    st.tuples(st.just("key"), KEYS, st.integers(0, 50), st.booleans()),
    st.tuples(st.just("user"), st.sampled_from(["u1", "u2"]), st.integers(0, 50)),
    st.tuples(st.just("age"), st.integers(0, 50)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
def test_the_sums_are_those_of_all_records(tmp_path_factory, steps):
    identities = Identities(tmp_path_factory.getbasetemp() / "identities")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    migrate(connection, "memory")
    expected = [0, 0, 0]
    for step in steps:
        with transaction(connection):
            if step[0] == "add":
                _add(connection, identities, step[1], expected)
            elif step[0] == "key":
                erase_key(connection, step[1], AT + step[2], keeps_sums=step[3])
            elif step[0] == "user":
                erase_user(connection, identities.user(step[1]), AT + step[2])
            else:
                erase_old(connection, AT + step[1], AT + step[1])
    found = connection.execute(
        "SELECT total(requests), total(inner_requests), total(prompt_tokens) FROM costs"
    ).fetchone()
    connection.close()

    assert [int(number) for number in found] == expected


def _add(connection, identities, records, expected):
    known = {(row["id"], row["at"]) for row in connection.execute("SELECT id, at FROM requests")}
    writing = Writing(connection, identities, lambda _record: {}, store_text=False)
    for each in records:
        before = (len(writing.stored), writing.forgotten)
        writing.add(each)
        new = (len(writing.stored), writing.forgotten) != before
        # What is kept is not counted again; what is gone is not known any more.
        assert new or (each.id, each.at) in known
        known.add((each.id, each.at))
        if new:
            expected[each.hops] += 1
            expected[2] += each.prompt_tokens if each.billed else 0
    writing.add_costs()
