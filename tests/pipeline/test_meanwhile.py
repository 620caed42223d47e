import threading

import pytest

from edgewright.pipeline.meanwhile import mapped_meanwhile


def test_items_are_worked_on_while_the_block_runs() -> None:
    ran = threading.Event()

    def double(item: int) -> int:
        ran.set()
        return 2 * item

    with mapped_meanwhile(double, [1, 2, 3]) as found:
        assert ran.wait(10), "nothing ran beside the block"
    assert found.result() == [2, 4, 6]


def test_a_block_that_raises_ends_the_work_after_the_item_at_hand() -> None:
    begun, raised = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        begun.set()
        raised.wait(10)
        done.append(item)

    def fail() -> None:
        with mapped_meanwhile(work, range(1000)):
            begun.wait(10)
            threading.Timer(0.2, raised.set).start()  # after the block has raised
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert done == [0]


def test_an_error_of_the_work_is_raised_where_its_result_is_taken() -> None:
    with mapped_meanwhile(lambda item: 1 // item, [0]) as found, pytest.raises(ZeroDivisionError):
        found.result()
