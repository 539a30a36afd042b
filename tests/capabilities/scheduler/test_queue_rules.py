"""In which order pods are looked at, and when refused ones come back."""

from hypothesis import given
from hypothesis import strategies as st

from underway.capabilities.scheduler.rules.queue import (
    LEFTOVER_S,
    Happening,
    PodQueue,
    backoff_s,
)


def drain(queue: PodQueue) -> list[str]:
    found = []
    while (key := queue.pop()) is not None:
        found.append(key)
    return found


@given(st.lists(st.integers(-5, 5), max_size=20))
def test_the_most_important_pods_come_first_then_the_first_come(priorities):
    queue = PodQueue()
    for number, priority in enumerate(priorities):
        queue.add(str(number), priority)
    expected = sorted(range(len(priorities)), key=lambda n: (-priorities[n], n))
    assert drain(queue) == [str(number) for number in expected]


def test_a_refused_pod_comes_back_only_for_what_may_help_it():
    queue = PodQueue()
    queue.add("a", 0)
    queue.pop()
    queue.refuse("a", 0, 10.0, Happening.NODE)
    queue.happened(Happening.PLACED, 11.0)
    assert queue.pop() is None
    queue.happened(Happening.NODE, 11.0)
    assert queue.pop() == "a"


def test_each_refusal_in_a_row_makes_the_wait_longer():
    assert [backoff_s(n) for n in range(1, 8)] == [0, 1, 2, 4, 8, 10, 10]
    queue = PodQueue()
    queue.add("a", 0)
    queue.pop()
    for _ in range(2):
        queue.refuse("a", 0, 0.0, Happening.NODE)
    queue.happened(Happening.NODE, 0.2)
    assert queue.pop() is None
    assert queue.tick(0.2) == 0.8
    assert queue.tick(1.0) is None or queue.ready
    assert queue.pop() == "a"


def test_a_change_of_the_pod_itself_ends_the_wait():
    queue = PodQueue()
    for _ in range(5):
        queue.refuse("a", 0, 0.0, Happening.NODE)
    queue.add("a", 0)
    assert drain(queue) == ["a"]


def test_whatever_happens_a_refused_pod_is_looked_at_again():
    queue = PodQueue()
    queue.refuse("a", 0, 0.0, Happening.NODE)
    assert queue.tick(1.0) == LEFTOVER_S - 1.0
    queue.tick(LEFTOVER_S)
    assert drain(queue) == ["a"]


def test_a_pod_that_is_gone_never_comes():
    queue = PodQueue()
    queue.add("a", 0)
    queue.refuse("b", 0, 0.0, Happening.NODE)
    queue.discard("a")
    queue.discard("b")
    queue.happened(Happening.NODE, 1.0)
    queue.tick(LEFTOVER_S + 1)
    assert drain(queue) == []
    assert len(queue) == 0
