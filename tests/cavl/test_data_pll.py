"""Initial confidences, the indexed data set, the .mat reader."""

import warnings

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from cavl.data_pll import standardize_features
from cavl.utils import utils_data
from cavl.utils.gen_index_dataset import gen_index_dataset
from cavl.utils.utils_data import (
    generate_flip_candidate_labels,
    initial_confidence,
    load_pll_mat,
)
from common.cli import UserError


def test_initial_confidence():
    sets = generate_flip_candidate_labels(
        torch.arange(10).repeat(5), 0.5, generator=np.random.default_rng(0)
    )
    confidence = initial_confidence(sets)
    torch.testing.assert_close(confidence.sum(1), torch.ones(50))
    assert ((confidence > 0) == (sets > 0)).all()
    assert initial_confidence(sets.to(torch.uint8)).dtype == torch.float32
    sets[[3, 20]] = 0
    with pytest.raises(ValueError, match="2 rows .* 3, 20"):
        initial_confidence(sets)


def test_gen_index_dataset():
    images, Y, labels = torch.rand(5, 1, 2, 2), torch.ones(5, 3), torch.arange(5).float()
    dataset = gen_index_dataset(images, Y, labels)
    assert len(dataset) == 5
    image, row, label, index = dataset[3]
    assert torch.equal(image, images[3]) and torch.equal(row, Y[3]) and label == 3.0 and index == 3
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=5)))
    assert batch[3].tolist() == [0, 1, 2, 3, 4]


def test_everything_of_the_spec_is_in_utils_data():
    for name in utils_data.__all__:
        assert hasattr(utils_data, name)


def mat_content(n=7, d=3, K=4):
    y = np.arange(n) % (K - 1)  # the last class has no sample
    target = np.eye(K)[y]
    partial = target.copy()
    partial[np.arange(n), (y + 1) % K] = 1
    data = np.random.default_rng(0).normal(5, 2, (n, d))
    data[:, 1] = 0.1
    return data, partial, target


def save_mat(path, **content):
    scipy.io.savemat(path, content)
    return path


@pytest.mark.parametrize(
    "keys", [("data", "partial_target", "target"), ("features", "p_labels", "logitlabels")]
)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_load_pll_mat(tmp_path, keys, sparse, transposed):
    data, partial, target = mat_content()
    matrices = [m.T if transposed else m for m in (partial, target)]
    matrices = [scipy.sparse.csc_matrix(m) if sparse else m for m in matrices]
    path = save_mat(tmp_path / "set.mat", **dict(zip(keys, [data, *matrices], strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X, partialY, y = load_pll_mat(path, standardize=False)
    assert (X.dtype, partialY.dtype, y.dtype) == (torch.float32, torch.float32, torch.int64)
    torch.testing.assert_close(X, torch.from_numpy(data).float())
    assert torch.equal(partialY, torch.from_numpy(partial).float())
    assert torch.equal(y, torch.arange(7) % 3)


def test_load_pll_mat_standardizes(tmp_path):
    data, partial, target = mat_content(n=40)
    path = save_mat(tmp_path / "set.mat", data=data, partial_target=partial.T, target=target.T)
    X, _, _ = load_pll_mat(str(path))
    torch.testing.assert_close(X.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        X.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]), atol=1e-6, rtol=0
    )
    assert (X[:, 1] == 0).all()


def test_standardize_by_reference_rows():
    X = torch.tensor([[1.0, 4.0], [3.0, 4.0], [10.0, 9.0]])
    expected = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [8.0, 0.0]])
    torch.testing.assert_close(standardize_features(X, X[:2]), expected)


def test_load_pll_mat_reports_true_labels_outside(tmp_path):
    data, partial, target = mat_content()
    partial[[0, 4]] = 0
    partial[[0, 4], 3] = 1
    path = save_mat(tmp_path / "noisy.mat", data=data, partial_target=partial, target=target)
    with pytest.warns(UserWarning, match="2 of 7") as caught:
        load_pll_mat(path)
    assert len(caught) == 1


def break_content(how, data, partial, target):
    content = {"data": data, "partial_target": partial, "target": target}
    if how == "missing":
        content["labels"] = content.pop("target")
    elif how == "missing_other":
        content = {"features": data, "p_labels": partial}
    elif how == "samples":
        content["partial_target"] = partial[:-1]
    elif how == "classes":
        content["target"] = target[:, :-1]
    elif how == "no_candidate":
        partial[2] = 0
    elif how == "no_true":
        target[5] = 0
    elif how == "two_true":
        target[5] = 1
    elif how == "values":
        partial[1, 1] = 0.5
    elif how == "nan":
        data[0, 0] = np.nan
    elif how == "text":
        content["data"] = "abc"
    return content


BROKEN = {
    "missing": ["'target'", "data, labels, partial_target"],
    "missing_other": ["'logitlabels'", "features, p_labels"],
    "samples": ["partial_target", "(6, 4)", "7 samples"],
    "classes": ["4 classes", "3"],
    "no_candidate": ["partial_target", "1 rows without a candidate", "first: 2"],
    "no_true": ["'target'", "first: 5"],
    "two_true": ["'target'", "first: 5"],
    "values": ["partial_target", "other than 0 and 1"],
    "nan": ["'data'", "NaN"],
    "text": ["'data'", "not a matrix"],
}


@pytest.mark.parametrize("how", BROKEN)
def test_load_pll_mat_errors_name_file_and_key(tmp_path, how):
    path = save_mat(tmp_path / "broken.mat", **break_content(how, *mat_content()))
    with pytest.raises(ValueError) as caught:
        load_pll_mat(path)
    assert isinstance(caught.value, UserError)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(path), *BROKEN[how]]:
        assert part in message


def test_load_pll_mat_of_no_or_a_damaged_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_pll_mat(tmp_path / "absent.mat")
    (tmp_path / "text.mat").write_text("not matlab " * 50)
    with pytest.raises(UserError, match="not a readable MATLAB file"):
        load_pll_mat(tmp_path / "text.mat")


def square_content(n=6):
    """As many samples as classes; two samples share class 0, so that rows and columns differ."""
    y = np.array([0, 0, *range(2, n)])
    target = np.eye(n)[y]
    partial = target.copy()
    partial[np.arange(n), (y + 1) % n] = 1
    partial[0, 4] = 1
    return np.random.default_rng(0).normal(size=(n, 3)), partial, target, y


@pytest.mark.parametrize("stored_by_class", [True, False])
def test_as_many_samples_as_classes_are_told_apart_by_the_true_labels(tmp_path, stored_by_class):
    data, partial, target, y = square_content()
    stored = [matrix.T if stored_by_class else matrix for matrix in (partial, target)]
    path = save_mat(tmp_path / "square.mat", data=data, partial_target=stored[0], target=stored[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, sets, labels = load_pll_mat(path)
    assert labels.tolist() == y.tolist()
    assert np.array_equal(sets.numpy(), partial)


def test_a_square_matrix_is_read_as_documented_and_with_a_warning(tmp_path):
    data, _, _, _ = square_content()
    y = np.array([1, 2, 0, 3, 4, 5])
    target = np.eye(6)[y]
    partial = target.copy()
    partial[0, 4] = 1
    path = save_mat(tmp_path / "square.mat", data=data, partial_target=partial.T, target=target.T)
    with pytest.warns(UserWarning, match=r"6 samples and 6 classes, .*'target'.*read as \(K, n\)"):
        _, sets, labels = load_pll_mat(path)
    assert labels.tolist() == y.tolist()
    assert np.array_equal(sets.numpy(), partial)
