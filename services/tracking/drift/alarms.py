"""When drift is an alarm: one budget of false alarms for all signals together.

Holm's procedure: with m signals tested, the smallest p must be at most budget / m, the next one budget / (m - 1), and
so on. However the signals hang together (and they do: a longer prompt takes longer), a window in which nothing has
changed alarms with a chance of at most the budget. That some window alarms at all is what Bonferroni's rule says, too;
Holm's names more of the signals that have changed. A threshold calibrated on the reference would use their dependence
and find a little more; it needs a reference of thousands of requests to know its own tail, and this needs none.

A second condition keeps out what is certain and unimportant: a score below the signal's floor never alarms.
"""

from collections.abc import Mapping

BUDGET = 0.01
"""Half of the two windows in a hundred that may alarm falsely: the reference is a sample, too, and windows that are
compared with the same one err together."""


def alarms(p_values: Mapping[str, float], budget: float = BUDGET) -> frozenset[str]:
    """Return the signals that have changed.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979)
    """
    found = []
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda each: each[1])):
        if p > budget / (len(p_values) - place):
            break
        found.append(name)
    return frozenset(found)
