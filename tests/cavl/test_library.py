"""`CAVL(num_classes)` in somebody else's program: alone, checked, and under torch's transforms."""

import shutil
import subprocess
import sys

import pytest
import torch

from cavl import method
from cavl.method import CAVL

SETS = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
STATES = {"averaging": None, "selected": torch.tensor([0, 2, 0, 1])}


def logits(dtype=torch.float32):
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return (3 * values).to(dtype).requires_grad_()


@pytest.mark.slow
def test_the_file_works_alone(tmp_path):
    shutil.copy(method.__file__, tmp_path / "method.py")
    program = (
        "import sys; sys.modules['common'] = None; sys.modules['cavl'] = None\n"
        "from method import CAVL; import torch\n"
        "print(CAVL(3).loss(torch.zeros(2, 3), torch.ones(2, 3), None).item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.0986, abs=1e-4)


def test_a_plain_loop_learns_the_label_that_is_common_to_the_sets():
    """Class 0 is in every set of the samples of one side, class 1 in those of the other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator)
    labels = (x[:, 0] > 0).long()
    sets = torch.nn.functional.one_hot(labels, 3)
    sets[torch.arange(60), (labels + 1 + torch.randint(0, 2, (60,), generator=generator)) % 3] = 1
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    cavl = CAVL(num_classes=3)
    state = cavl.init(sets)
    for epoch in range(20):
        for i in torch.arange(60).split(20):
            loss = cavl.loss(network(x[i]), sets[i], state[i] if epoch else None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                state[i] = cavl.update(network(x[i]), sets[i])
    assert (state == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: CAVL(1), "num_classes is 1"),
        (lambda: CAVL(3, select="x"), "select 'x' is unknown"),
        (lambda: CAVL(3, smoothing=1.0), "smoothing is 1.0"),
        (lambda: CAVL(3, temperature=0.0), "temperature is 0.0"),
        (lambda: CAVL(4).init(SETS), "expected"),
        (lambda: CAVL(3).init(SETS * 2), "0 and 1"),
        (lambda: CAVL(4).loss(logits(), SETS, None), "expected"),
        (lambda: CAVL(3).loss(logits(), SETS[:2], None), "expected"),
        (lambda: CAVL(3).loss(logits(), SETS, CAVL(3).init(SETS)), "expected selected labels"),
        (lambda: CAVL(3).loss(logits(), 0 * SETS, None), "no candidate"),
        (lambda: CAVL(3).update(logits()[0], SETS[0]), "expected"),
        (lambda: CAVL(3, cav="x").update(logits(), SETS), "cav 'x' is unknown"),
        (lambda: CAVL(3, mask="x").update(logits(), SETS), "mask 'x' is unknown"),
        (lambda: CAVL(3, select="cam").update(logits(), SETS), "needs the class activation maps"),
    ],
)
def test_what_does_not_fit_is_a_value_error(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("state", STATES)
def test_half_precision_is_computed_in_float32(dtype, state):
    z = logits(dtype)
    loss = CAVL(3).loss(z, SETS, STATES[state])
    expected = CAVL(3).loss(z.detach().float(), SETS, STATES[state])
    assert loss.dtype == torch.float32 and torch.equal(loss.detach(), expected)
    loss.backward()
    assert z.grad.isfinite().all()
    huge = torch.full((4, 3), -30000.0, dtype=dtype)
    assert CAVL(3).update(huge, SETS).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("state", STATES)
def test_double_backward(state):
    z = logits(torch.float64)
    assert torch.autograd.gradgradcheck(lambda z: CAVL(3).loss(z, SETS, STATES[state]), (z,))


@pytest.mark.parametrize("state", STATES)
def test_func_grad_equals_autograd(state):
    z = logits()
    CAVL(3).loss(z, SETS, STATES[state]).backward()
    by_func = torch.func.grad(lambda z: CAVL(3).loss(z, SETS, STATES[state]))(z.detach())
    assert torch.allclose(by_func, z.grad)


@pytest.mark.parametrize("cavl", [CAVL(3), CAVL(3, temperature=0.5, smoothing=0.1)], ids=str)
def test_compiled_equals_eager(cavl):
    def step(z, sets, state):
        return cavl.loss(z, sets, state), cavl.update(z, sets)

    first = cavl.update(logits().detach(), SETS)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for one, two in zip(
        compiled(logits().detach(), SETS, first), step(logits().detach(), SETS, first), strict=True
    ):
        assert torch.allclose(one, two)
