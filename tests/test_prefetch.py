"""Items that a thread prepares: their order, how many, and the end of the thread."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sida.prefetch import prefetch


@given(st.lists(st.integers()), st.integers(1, 4))
def test_items_come_in_order(items, count):
    assert list(prefetch(iter(items), count)) == items


@pytest.mark.parametrize("count", [1, 3])
def test_at_most_so_many_items_are_prepared_before_the_caller_asks(count):
    begun = []
    for number, _ in enumerate(prefetch(map(begun.append, range(9)), count)):
        assert len(begun) <= number + 1 + count


def test_another_thread_prepares_items_while_the_caller_works():
    second, names = threading.Event(), []

    def prepare(number):
        names.append(threading.current_thread())
        if number == 1:
            second.set()
        return number

    items = prefetch(map(prepare, range(2)))
    assert next(items) == 0
    assert second.wait(timeout=60)  # the caller did not ask for it
    assert list(items) == [1]
    assert threading.current_thread() not in names


def test_a_fault_is_raised_after_the_items_before_it():
    items = prefetch((1 / number for number in (2, 1, 0)), 2)
    assert [next(items), next(items)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_the_thread_ends_with_an_interrupted_caller():
    threads = set()

    def endless():
        for number in itertools.count():
            threads.add(threading.current_thread())
            yield number

    items = prefetch(endless(), 2)
    next(items)
    items.close()
    (thread,) = threads
    thread.join(timeout=60)
    assert not thread.is_alive()
