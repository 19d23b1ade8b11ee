"""First come, first served; at most so many at once; at most so many waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.admission import Admission


def test_prepared_out_of_order_but_served_in_order() -> None:
    queue: Admission[str] = Admission(slots=1, max_waiting=0)
    first, second, third = (queue.enter() for _ in range(3))
    assert first is not None and second is not None and third is not None
    queue.line_up(third, "third")
    queue.line_up(second, "second")
    assert queue.next() == "second"  # the first is still being prepared and does not block others
    queue.line_up(first, "first")
    assert queue.next() is None
    queue.leave(second)
    assert queue.next() == "first"


@pytest.mark.parametrize(
    ("slots", "max_waiting", "accepted"),
    [pytest.param(2, 3, 5, id="bounded"), pytest.param(2, 0, 100, id="unbounded")],
)
def test_the_line_is_bounded_beside_the_slots(slots: int, max_waiting: int, accepted: int) -> None:
    queue: Admission[int] = Admission(slots, max_waiting)
    tickets = [queue.enter() for _ in range(100)]
    assert sum(ticket is not None for ticket in tickets) == accepted
    if max_waiting:
        assert tickets[0] is not None
        queue.leave(tickets[0])
        assert queue.enter() is not None


def test_one_who_left_is_never_served() -> None:
    queue: Admission[str] = Admission(slots=1, max_waiting=0)
    gone, gone_later, stays = queue.enter(), queue.enter(), queue.enter()
    assert gone is not None and gone_later is not None and stays is not None
    queue.leave(gone)
    queue.line_up(gone, "gone")
    queue.line_up(gone_later, "gone later")
    queue.line_up(stays, "stays")
    queue.leave(gone_later)
    assert queue.next() == "stays"


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 4))
def test_never_more_than_the_slots_run_and_all_come_to_an_end(steps: list[int], slots: int) -> None:
    queue: Admission[int] = Admission(slots, 0)
    entered, running, served = [], [], []
    for step in [*steps, *[1] * 200, *[2, 3] * 200]:
        if step == 0:
            entered.append(queue.enter())
        elif step == 1 and entered:
            ticket = entered.pop()
            queue.line_up(ticket, ticket)
        elif step == 2 and (ticket := queue.next()) is not None:
            running.append(ticket)
            served.append(ticket)
        elif step == 3 and running:
            queue.leave(running.pop(0))
        assert len(running) <= slots
    assert not entered and not running
    assert len(served) == len(set(served)) == steps.count(0)
