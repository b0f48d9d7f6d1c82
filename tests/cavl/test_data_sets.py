"""Candidate sets as bits: the same sets, the same run, an eighth of the bytes; old checkpoints."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cavl import data_sets, main
from cavl.data_labels import LabelState
from cavl.data_sets import PackedSets, blocks_of, compact, is_same, packed, sizes_of
from cavl.method import CAVL


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(data_sets, "PACKED_FROM", 0)
    monkeypatch.setattr(data_sets, "BLOCK", 1000)


def sets_of(n=500, K=13):
    sets = torch.rand(n, K, generator=torch.Generator().manual_seed(0)) < 0.4
    sets[:, 3] = True
    return sets.to(torch.uint8)


@pytest.mark.parametrize("K", [1, 7, 8, 9, 13, 1000])
def test_rows_come_back(K, always):
    sets = (torch.rand(20, K, generator=torch.Generator().manual_seed(K)) < 0.5).to(torch.uint8)
    found = compact(sets)
    assert isinstance(found, PackedSets)
    assert found.bits.nbytes == 20 * -(-K // 8)
    index = torch.tensor([3, 0, 19, 3])
    assert torch.equal(found[index], sets[index])
    assert torch.equal(found.index_select(0, index), sets[index])
    assert torch.equal(found[2], sets[2])
    assert torch.equal(sizes_of(found), sets.sum(1))
    assert torch.equal(torch.cat([block for _, block in blocks_of(found)]), sets)


def test_small_sets_stay_a_matrix():
    assert compact(sets_of()).dtype == torch.uint8


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_checkpoints_of_matrix_and_bits(temperature, always):
    sets = sets_of()
    method = CAVL(temperature=temperature)
    old = LabelState(method, sets, Accelerator(cpu=True))
    new = LabelState(method, compact(sets), Accelerator(cpu=True))
    saved = new.state_dict()
    assert saved["candidates"].nbytes == 500 * 2
    assert torch.equal(saved["selected"], old.state_dict()["selected"])
    assert torch.equal(saved["table"], old.state_dict()["table"])
    new.load_state_dict(old.state_dict())
    old.load_state_dict(saved)
    new.load_state_dict(saved)


def test_other_sets_are_told(always):
    sets = sets_of()
    other = sets.clone()
    other[7, 5] ^= 1
    for one in (sets, compact(sets)):
        assert is_same(one, sets) and is_same(one, packed(sets))
        assert not is_same(one, other) and not is_same(one, packed(other))
        assert not is_same(one, sets[1:])


RUN = ["--sample", "--ep", "2", "--cpu", "--max_steps", "6", "--output_dir"]


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [["-partial_type", "uss"], ["-partial_type", "fps"]])
def test_a_run_is_bit_for_bit_the_same(drawn, tmp_path, monkeypatch):
    found = []
    for name, limit in (("matrix", 2**28), ("bits", 0)):
        monkeypatch.setattr(data_sets, "PACKED_FROM", limit)
        monkeypatch.setattr(data_sets, "BLOCK", 3000)
        main.main([*RUN, str(tmp_path / name), *drawn])
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        loss = [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "wall")}
            for line in lines
        ]
        weights = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        model = weights["state"]["model"]
        found.append((np.load(tmp_path / name / "candidates.npy"), loss, model))
    matrix, bits = found
    assert np.array_equal(matrix[0], bits[0])
    assert all(torch.equal(value, bits[2][key]) for key, value in matrix[2].items())
    keys = ("loss", "accuracy", "covering_rate", "disambiguation")
    for one, other in zip(matrix[1], bits[1], strict=True):
        assert [one.get(key) for key in keys] == [other.get(key) for key in keys]
