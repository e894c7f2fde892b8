"""Rollbacks go as deep as the clock allows."""

from hypothesis import given
from hypothesis import strategies as st

from game.budget import RollbackBudget


def test_before_anything_is_known_the_wish_is_granted() -> None:
    assert RollbackBudget(5, 0.05).choose(4) == 4


def test_without_a_clock_the_wish_is_granted() -> None:
    budget = RollbackBudget(5, 0.0)
    budget.learn(0, 10.0)
    assert budget.choose(4) == 4


def test_depths_not_played_yet_are_judged_by_their_blocks() -> None:
    """A ladder of 5: a plain tick passes 6 blocks, a rollback by 4 another 1 + 2 + 3 + 4."""
    budget = RollbackBudget(5, 0.050)
    budget.learn(0, 0.030)
    assert [round(budget.cost_s(depth), 4) for depth in range(5)] == [0.030, 0.050, 0.065, 0.075, 0.080]
    assert [budget.choose(wanted) for wanted in range(5)] == [0, 1, 1, 1, 1]


def test_a_hiccup_is_doubted_in_time_and_what_is_dear_stays_out() -> None:
    budget = RollbackBudget(2, 0.057)
    for _ in range(20):
        budget.learn(0, 0.022)
        budget.learn(1, 0.031)
    budget.learn(1, 0.4)
    assert budget.choose(1) == 0
    for _ in range(300):
        budget.learn(0, 0.022)
    assert budget.choose(1) == 1
    for _ in range(300):
        budget.learn(0, 0.045)
    assert budget.choose(1) == 0, "by its blocks alone it does not fit"


@given(st.floats(0.001, 0.2), st.lists(st.floats(0.5, 4.0), min_size=5, max_size=5), st.integers(0, 4))
def test_what_was_played_is_believed(plain_s: float, factors: list[float], wanted: int) -> None:
    """After many ticks the chosen depth is the nearest that fits, whatever the depths cost."""
    budget = RollbackBudget(5, 0.06)
    for _ in range(200):
        budget.learn(0, plain_s)
        for depth in range(1, 5):
            budget.learn(depth, plain_s * factors[depth])
    chosen = budget.choose(wanted)
    slack = 1e-4
    assert chosen == 0 or plain_s * factors[chosen] <= 0.06 + slack
    assert all(plain_s * factors[depth] > 0.06 - slack for depth in range(chosen + 1, wanted + 1))
