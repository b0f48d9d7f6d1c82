"""The start of selection in runs of 1 to 12 epochs."""

import pytest

from cavl.data_labels import Warmup

EPOCHS = range(1, 13)


@pytest.mark.parametrize("epochs", EPOCHS)
def test_a_warm_up_ends_once_and_stays_over(epochs):
    for length in (0, 1, epochs - 1):
        over = [Warmup(length).is_over(epoch) for epoch in range(epochs)]
        assert over == [epoch >= length for epoch in range(epochs)]

    warmup = Warmup("auto")
    over = []
    for rate in [0.2, 0.5, 0.5, 0.4, *[0.9] * 8][:epochs]:
        over.append(warmup.is_over(len(over)))
        warmup.observe(rate)
    assert over == [epoch >= 3 for epoch in range(epochs)]  # the third rate has not risen
