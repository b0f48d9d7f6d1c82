"""Candidate-set generators."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import scipy.stats
import torch

from cavl.data_candidates import (
    generate_flip_candidate_labels,
    generate_instance_dependent_candidate_labels,
    generate_uniform_cv_candidate_labels,
    generate_uniform_cv_candidate_labels_case,
    instance_dependent_flip_probability,
)
from cavl.method import candidate_set_size_probabilities


def rng(seed=0):
    return np.random.default_rng(seed)


def draw_labels(n, K, seed=0):
    labels = torch.from_numpy(rng(seed).integers(0, K, n))
    labels[:K] = torch.arange(K)
    return labels


GENERATORS = {
    "released": lambda y, g: generate_uniform_cv_candidate_labels(None, y, generator=g),
    "exact": lambda y, g: generate_uniform_cv_candidate_labels(None, y, law="exact", generator=g),
    "case": lambda y, g: generate_uniform_cv_candidate_labels_case(None, y, "04", generator=g),
    "flip": lambda y, g: generate_flip_candidate_labels(y, 0.3, generator=g),
    "instance": lambda y, g: generate_instance_dependent_candidate_labels(
        torch.rand(len(y), 10, generator=torch.Generator().manual_seed(0)).softmax(1),
        y,
        generator=g,
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("stream", ["generator", "global"])
def test_sets_hold_the_true_label_and_repeat_with_the_seed(name, stream):
    labels = draw_labels(500, 10)

    def draw(seed):
        if stream == "generator":
            return GENERATORS[name](labels, rng(seed))
        np.random.seed(seed)  # noqa: NPY002
        return GENERATORS[name](labels, None)

    sets = draw(3)
    assert sets.dtype == torch.float32 and sets.shape == (500, 10)
    assert set(sets.unique().tolist()) == {0.0, 1.0}
    assert (sets.gather(1, labels[:, None]) == 1).all()
    assert torch.equal(sets, draw(3))
    assert not torch.equal(sets, draw(4))


@pytest.mark.parametrize("law", ["released", "exact"])
@pytest.mark.parametrize("stream", ["generator", "global"])
def test_set_sizes_follow_the_law(law, stream):
    labels = draw_labels(60_000, 10)
    np.random.seed(1)  # noqa: NPY002
    generator = rng(1) if stream == "generator" else None
    sizes = (
        generate_uniform_cv_candidate_labels(None, labels, law=law, generator=generator)
        .sum(1)
        .long()
    )
    observed = torch.bincount(sizes, minlength=10)[1:10].numpy()
    K = 10
    law_of_size = {
        "released": [comb(K, s) / (2**K - 2) for s in range(1, K)],
        "exact": [comb(K - 1, s - 1) / (2 ** (K - 1) - 1) for s in range(1, K)],
    }[law]
    assert observed.sum() == 60_000
    assert scipy.stats.chisquare(observed, 60_000 * np.array(law_of_size)).pvalue > 1e-3
    assert sizes.float().mean().item() == pytest.approx(
        {"released": 5.0, "exact": 5.49}[law], abs=0.03
    )


@pytest.mark.parametrize("law", ["released", "exact"])
@pytest.mark.parametrize("stream", ["generator", "global"])
def test_every_set_of_a_size_is_equally_likely(law, stream):
    K, n = 4, 60_000
    labels = torch.full((n,), 2)
    np.random.seed(2)  # noqa: NPY002
    generator = rng(2) if stream == "generator" else None
    sets = generate_uniform_cv_candidate_labels(
        None, labels, law=law, num_classes=K, generator=generator
    )
    codes = (sets.long() * 2 ** torch.arange(K)).sum(1)
    counts = torch.bincount(codes, minlength=2**K).numpy()
    p_size = candidate_set_size_probabilities(K, law)
    expected = np.zeros(2**K)
    for s in range(1, K):
        for false in combinations([0, 1, 3], s - 1):
            expected[4 + sum(2**k for k in false)] = n * p_size[s - 1] / comb(K - 1, s - 1)
    assert counts[expected == 0].sum() == 0
    assert scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize("K", [2, 3, 10, 64, 100, 203, 1200])
@pytest.mark.parametrize("law", ["released", "exact"])
def test_size_probabilities_sum_to_one(K, law):
    p = candidate_set_size_probabilities(K, law)
    assert len(p) == K - 1
    assert sum(p) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("stream", ["generator", "global"])
@pytest.mark.parametrize("law", ["released", "exact"])
@pytest.mark.parametrize("K", [63, 64, 100, 203])
def test_many_classes(K, law, stream):
    labels = draw_labels(600, K)
    sets = generate_uniform_cv_candidate_labels(
        None, labels, law=law, generator=rng() if stream == "generator" else None
    )
    sizes = sets.sum(1)
    assert sizes.mean().item() == pytest.approx(K / 2, abs=1.5)
    assert (sizes < K).all() and (sets.gather(1, labels[:, None]) == 1).all()


@pytest.mark.parametrize("law", ["released", "exact"])
@pytest.mark.parametrize("generator", [None, rng()])
def test_two_classes_are_supervised(law, generator):
    labels = draw_labels(50, 2)
    sets = generate_uniform_cv_candidate_labels(None, labels, law=law, generator=generator)
    assert torch.equal(sets, torch.nn.functional.one_hot(labels, 2).float())


def test_sixty_thousand_sets_with_a_generator():
    labels = draw_labels(60_000, 10)
    sets = generate_uniform_cv_candidate_labels(None, labels, generator=rng())
    assert sets.shape == (60_000, 10)
    assert (sets.gather(1, labels[:, None]) == 1).all()
    assert sets.sum(1).min() == 1 and sets.sum(1).max() == 9


def test_labels_are_shifted_checked_and_may_lack_a_class():
    labels = draw_labels(40, 5)
    from_zero = generate_uniform_cv_candidate_labels(None, labels, generator=rng())
    from_one = generate_uniform_cv_candidate_labels(None, labels + 1, generator=rng())
    assert torch.equal(from_zero, from_one)
    assert torch.equal(
        from_zero, generate_uniform_cv_candidate_labels(None, labels.numpy(), generator=rng())
    )

    given = generate_uniform_cv_candidate_labels(
        None, torch.tensor([1, 2]), num_classes=6, generator=rng()
    )
    assert given.shape == (2, 6) and given[0, 1] == 1 and given[1, 2] == 1
    for bad, options in (
        (labels + 2, {}),
        (labels - 1, {}),
        (labels, {"num_classes": 4}),
        (labels[:0], {}),
        (torch.zeros(5, dtype=torch.int64), {}),
        (labels[:, None], {}),
    ):
        with pytest.raises(ValueError):
            generate_uniform_cv_candidate_labels(None, bad, **options)
    with pytest.raises(ValueError, match="law"):
        generate_uniform_cv_candidate_labels(None, labels, law="even")


CIRCULANT = {
    "01": [0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0],
    "02": [0, 0.1, 0, 0, 0, 0, 0, 0, 0, 0.1],
    "03": [0, *[0.7] * 9],
    "04": [0, 0.5, 0.3, 0.1, 0, 0, 0, 0.1, 0.3, 0.5],
}


@pytest.mark.parametrize("case", CIRCULANT)
def test_class_dependent_flips_follow_the_matrix(case):
    labels = torch.arange(10).repeat(3000)
    sets = generate_uniform_cv_candidate_labels_case(None, labels, case, generator=rng())
    for d, q in enumerate(CIRCULANT[case]):
        joined = sets.gather(1, (labels[:, None] + d) % 10)
        assert joined.mean().item() == pytest.approx(1.0 if d == 0 else q, abs=0.015)


def test_class_dependent_flips_reject_other_cases_and_class_counts():
    with pytest.raises(ValueError, match="05"):
        generate_uniform_cv_candidate_labels_case(None, torch.arange(10), "05")
    for K in (9, 11):
        with pytest.raises(ValueError, match="10 classes"):
            generate_uniform_cv_candidate_labels_case(None, torch.arange(K))


def test_flips_join_independently():
    labels = draw_labels(30_000, 10)
    sets = generate_flip_candidate_labels(labels, 0.3, generator=rng())
    false_counts = torch.bincount((sets.sum(1) - 1).long(), minlength=10).numpy()
    expected = 30_000 * scipy.stats.binom.pmf(np.arange(10), 9, 0.3)
    keep = expected > 5
    observed = np.append(false_counts[keep], false_counts[~keep].sum())
    assert (
        scipy.stats.chisquare(observed, np.append(expected[keep], expected[~keep].sum())).pvalue
        > 1e-3
    )
    assert torch.equal(generate_flip_candidate_labels(labels, 0.0).sum(1), torch.ones(30_000))
    assert generate_flip_candidate_labels(labels[:9], 0.5, num_classes=12).shape == (9, 12)
    for q in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="q is"):
            generate_flip_candidate_labels(labels, q)


def test_class_dependent_case_03_is_flips_of_70_percent():
    labels = draw_labels(400, 10)
    case = generate_uniform_cv_candidate_labels_case(None, labels, "03", generator=rng(5))
    assert torch.equal(case, generate_flip_candidate_labels(labels, 0.7, generator=rng(5)))


def test_at_least_one_false_label():
    labels = draw_labels(9000, 10)
    plain = generate_flip_candidate_labels(labels, 0.1, generator=rng())
    sets = generate_flip_candidate_labels(labels, 0.1, generator=rng(), at_least_one_false=True)
    single = plain.sum(1) == 1
    assert torch.equal(sets[~single], plain[~single])
    assert (sets[single].sum(1) == 2).all()
    distance = ((sets - plain)[single].argmax(1) - labels[single]) % 10
    assert scipy.stats.chisquare(torch.bincount(distance, minlength=10)[1:].numpy()).pvalue > 1e-3
    alone = generate_flip_candidate_labels(draw_labels(20, 2), 0.0, at_least_one_false=True)
    assert (alone == 1).all()


def test_instance_dependent_flips():
    g = torch.Generator().manual_seed(0)
    probs = torch.randn(200, 6, generator=g, dtype=torch.float64).mul(2).softmax(1)
    labels = draw_labels(200, 6)
    P = instance_dependent_flip_probability(probs, labels, 0.3)
    assert ((P >= 0) & (P <= 1)).all() and (P.gather(1, labels[:, None]) == 0).all()
    i, y = 7, int(labels[7])
    false = probs[i].clone()
    false[y] = 0
    torch.testing.assert_close(P[i], (0.3 * false / (false.sum() / 6)).clamp(max=1))

    permutation = torch.randperm(6, generator=g)
    permuted = instance_dependent_flip_probability(
        probs[:, permutation], permutation.argsort()[labels], 0.3
    )
    torch.testing.assert_close(permuted, P[:, permutation])

    many = generate_instance_dependent_candidate_labels(
        probs[i : i + 1].expand(20_000, 6), labels[i].expand(20_000), 0.3, generator=rng()
    )
    expected = P[i].index_fill(0, labels[i : i + 1], 1.0)
    torch.testing.assert_close(many.double().mean(0), expected, atol=0.02, rtol=0)


def test_instance_dependent_flips_of_a_certain_model_and_bad_input():
    certain = torch.eye(4)[[0, 1, 2, 3]]
    P = instance_dependent_flip_probability(certain.numpy(), torch.arange(4))
    assert torch.equal(P, torch.zeros(4, 4))
    with pytest.raises(ValueError, match="rate"):
        instance_dependent_flip_probability(certain, torch.arange(4), 0.0)
    with pytest.raises(ValueError, match="rows"):
        instance_dependent_flip_probability(certain, torch.arange(3))
