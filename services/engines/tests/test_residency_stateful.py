"""The residency under every order of events that Hypothesis finds.

Never over-committed, never one with a lease evicted, one start at a time, no lost wake-up, no deadlock: whoever waits
is served, refused or told of a failure, without anybody else doing anything.
"""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.engines.admission import GIB, Need, Room
from services.engines.residency import LeaseLapsedError, Load, NotServedError, Refuse, Residency, Rest, Unload
from services.engines.residents import Limits

BUDGET = 10 * GIB
LIMITS = Limits(min_residency_s=20, idle_ttl_s=100, lease_s=15)
NEEDS = {
    "a": Need(6 * GIB),
    "b": Need(6 * GIB, transient=2 * GIB),
    "c": Need(3 * GIB),
    "d": Need(2 * GIB),
    "huge": Need(11 * GIB),
}
models = st.sampled_from(sorted(NEEDS))
people = st.sampled_from(["ann", "bob", "cy"])


class Machine(RuleBasedStateMachine):
    """A controller that does what it is told, users in any order, and a clock that jumps."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.residency = Residency(LIMITS)
        for name, need in NEEDS.items():
            self.residency.define(name, need, load_s=5)
        self.leases = {}
        self.loads = []
        self.evictions = []

    @property
    def room(self):
        taken = sum(m.taken for m in self.residency.models.values() if m.resident)
        return Room(BUDGET, BUDGET - taken)

    # Users

    @rule(model=models, person=people, for_s=st.none() | st.floats(0, 60))
    def want(self, model, person, for_s):
        until = None if for_s is None else self.now + for_s
        try:
            self.residency.want(model, person, self.now, self.room, until=until)
        except NotServedError:
            return
        assert model != "huge"

    @rule(model=models, person=people)
    def leave(self, model, person):
        self.residency.leave(model, person, self.now)

    @rule(model=models, person=people)
    def lease(self, model, person):
        lease = self.residency.lease(model, person, self.now)
        if lease is not None:
            assert self.residency.models[model].state == "ready"
            self.leases[lease.id] = lease

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew_or_release(self, data):
        lease_id = data.draw(st.sampled_from(sorted(self.leases)))
        try:
            if data.draw(st.booleans()):
                self.residency.renew(lease_id, 1, self.now)
            else:
                del self.leases[lease_id]
                keep_alive_s = data.draw(st.sampled_from([None, 0.0, 5.0, -1.0]))
                self.residency.release(lease_id, self.now, keep_alive_s)
        except LeaseLapsedError:
            self.leases.pop(lease_id, None)

    @rule(model=models)
    def ask_unload(self, model):
        self.residency.ask_unload(model, self.now)

    @rule(model=models, pinned=st.booleans())
    def keep(self, model, pinned):
        self.residency.keep_loaded(model, pinned=pinned)

    # The world

    @rule(seconds=st.floats(0.1, 40))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(model=models, again=st.booleans(), given_up=st.booleans())
    def crash(self, model, again, given_up):
        if self.residency.models[model].state != "ready":
            return
        if given_up:
            self.residency.failed(model, self.now, "it crashed")
        else:
            self.residency.unload_began(model, self.now)
            self.residency.crashed(model, self.now, "it crashed", 3.0, waiter="operator" if again else "")

    @rule(data=st.data())
    def step(self, data):
        self._do(self.residency.next_step(self.now, self.room), lambda: data.draw(st.integers(0, 9)))

    def _do(self, step, luck):
        residency = self.residency
        if isinstance(step, Load):
            assert residency.loading() is None
            model = residency.models[step.model]
            held = sum(m.need.held for m in residency.models.values() if m.resident)
            assert held + model.need.held + model.need.transient <= BUDGET
            residency.load_began(step.model, self.now)
            self.loads.append(self.now)
            if luck():
                residency.load_ended(step.model, self.now, taken=model.need.held * luck() // 9)
            else:
                residency.failed(step.model, self.now, "it did not start")
        elif isinstance(step, Unload):
            model = residency.models[step.model]
            assert not model.leases, "a model that is held was evicted"
            assert model.state == "ready"
            if step.reason.endswith("waiting for its memory"):
                assert not model.pinned
                assert self.now >= model.ready_at + LIMITS.min_residency_s
            residency.unload_began(step.model, self.now)
            residency.unloaded(step.model, self.now)
        elif isinstance(step, Refuse):
            residency.refused(step.model, self.now)

    # What always holds

    @invariant()
    def never_over_committed(self):
        assert sum(m.need.held for m in self.residency.models.values() if m.resident) <= BUDGET

    @invariant()
    def who_is_queued_is_waited_for(self):
        for name, model in self.residency.models.items():
            assert (model.state == "queued") == (self.residency.position(name) is not None and not model.resident)
            if model.state == "queued":
                assert model.waiters

    def teardown(self):
        """Users stop renewing and only wait: with time alone, everybody is served, and nobody is forgotten."""
        for model in self.residency.models.values():
            model.pinned = False
        for _ in range(200):
            for name, model in self.residency.models.items():
                for waiter in [w for w, until in model.waiters.items() if until is None]:
                    self.residency.lease(name, waiter, self.now)
            step = self.residency.next_step(self.now, self.room)
            self._do(step, lambda: 1)
            if isinstance(step, Rest):
                if not any(m.waiters and m.state != "ready" for m in self.residency.models.values()):
                    return
                assert step.until is not None, f"a lost wake-up: {self.residency.models}"
                assert step.until > self.now
                self.now = step.until
        raise AssertionError(f"a deadlock: {self.residency.models}")


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestResidency = Machine.TestCase
