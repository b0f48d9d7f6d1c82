"""Rows that come in batches: one array, whatever was expected; and no copy of what is in order."""

import pytest
import torch
from accelerate import Accelerator

from common.rows import Rows, expected_rows, gather_in_order


@pytest.mark.parametrize("expected", [0, 3, 10, 25])
@pytest.mark.parametrize("kind", [None, torch.float16])
def test_rows_are_the_joined_batches(expected, kind):
    batches = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).split([3, 1, 4, 2])
    rows = Rows(expected, kind)
    for part in batches:
        rows.add(part)
    whole = torch.cat(batches)
    assert torch.equal(rows.whole(), whole if kind is None else whole.to(kind))
    assert rows.whole().dtype == (kind or torch.float32)


def test_one_array_where_the_number_is_known():
    rows = Rows(8)
    rows.add(torch.zeros(3, 2))
    first = rows.whole().data_ptr()
    rows.add(torch.ones(5, 2))
    assert rows.whole().data_ptr() == first
    assert len(rows.whole()) == 8


def test_no_batch_at_all():
    assert Rows(5, torch.int8).whole().tolist() == []
    assert Rows(5, torch.int8).whole().dtype == torch.int8


def test_expected_rows_of_a_loader():
    class Listed:
        batch_sampler = [[(0, 1), (0, 2)], [(0, 3)]]  # noqa: RUF012

    assert expected_rows(Listed()) == 3
    assert expected_rows([(torch.zeros(1), torch.zeros(1))]) == 0


def test_what_is_in_order_is_not_copied():
    index = torch.arange(4) * 2
    values = torch.randn(4, 3)
    found = gather_in_order(index, values, accelerator=Accelerator(cpu=True))
    assert found[1].data_ptr() == values.data_ptr()
