"""claims.toml: what is in it is read, and what is wrong with it is said in one line."""

import datetime
import re

import pytest

from common.cli import UserError
from sidebyside.register import load_claims
from sidebyside.results import PAPERS, ROOT
from tests.compare.conftest import CLAIMS

WHOLE = CLAIMS["cavl"]


@pytest.fixture
def read(tmp_path):
    """The claims of a file with this text."""

    def read_text(text: str):
        path = tmp_path / "cavl" / "results" / "claims.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return load_claims(tmp_path, "cavl")

    return read_text


def test_a_whole_entry(read):
    more = """
where = { dataset = "MNIST.*" }
higher_is_better = false
secondary = ["F1.*"]
beside = "chance"
equal_accuracy = 5
data = "MNIST"
protocol = "last epoch"
"""
    (claim,) = read(WHOLE + more)
    assert claim.name == "better than averaging"
    assert claim.registered == datetime.date(2030, 1, 1)
    assert claim.endpoint == {"metric": "test accuracy %"}
    assert claim.where == {"dataset": "MNIST.*"}
    assert not claim.higher
    assert (claim.secondary, claim.beside, claim.equal_accuracy) == (["F1.*"], "chance", 5)
    assert (claim.seeds, claim.data, claim.protocol) == (3, "MNIST", "last epoch")


def test_the_first_margin_that_fits_counts(read):
    margins = 'margins = [{ dataset = "mnist", delta = 0.2 }, { dataset = "C.*", delta = 1 }]'
    (claim,) = read(re.sub(r"margins = .*", margins, WHOLE))
    assert claim.delta("MNIST") == 0.2
    assert claim.delta("CIFAR-10") == 1.0
    with pytest.raises(UserError, match="no margin for SVHN"):
        claim.delta("SVHN")


def test_a_paper_without_a_file_has_no_claims(tmp_path):
    assert load_claims(tmp_path, "cavl") == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[claim]]", "[claim]", "expected [[claim]] tables"),
        ("[[claim]]", "x = 1\n[[claim]]", "expected [[claim]] tables and nothing else"),
        ("seeds = 3\n", "", "claim 1: has no seeds"),
        ("seeds = 3", "seeds = 1", "seeds must be a whole number from 2 on"),
        ("seeds = 3", 'seeds = "3"', "seeds must be a whole number"),
        ("2030-01-01", '"soon"', "registered must be a date"),
        ("source =", "sauce =", "sauce is no field of a claim"),
        ('"abstract"', "1", "source must be a text"),
        ('{ method = "cavl" }', '"cavl"', "better must be a table of column = pattern"),
        ('{ method = "cavl" }', '{ seed = "1" }', "better.seed must be one of method, dataset"),
        ('{ method = "cavl" }', '{ method = "(" }', "better.method: "),
        ("{ metric =", "{ protocol =", "endpoint must be a table with a metric"),
        ('[{ dataset = ".*", delta = 1.0 }]', "1.0", "margins must be a list of"),
        ('[{ dataset = ".*", delta = 1.0 }]', "[]", "margins must be a list of"),
        ("delta = 1.0", "delta = 0", "margins.delta must be a number above 0"),
        ("delta = 1.0", "epsilon = 1", "margins must be a list of { dataset, delta }"),
        ("seeds = 3", "seeds = 3\nsecondary = 1", "secondary must be a list"),
        ("seeds = 3", 'seeds = 3\nhigher_is_better = "no"', "higher_is_better must be true"),
        ("seeds = 3", "seeds = 3\nequal_accuracy = 0", "equal_accuracy must be a number above 0"),
        ("seeds = 3", "seeds = ", "claims.toml: "),
    ],
)
def test_what_is_wrong_is_named(read, old, new, message):
    assert old in WHOLE
    with pytest.raises(UserError, match=re.escape(message)):
        read(WHOLE.replace(old, new))


def test_two_claims_of_one_name_are_refused(read):
    with pytest.raises(UserError, match="two claims are named 'better than averaging'"):
        read(WHOLE + WHOLE)


# --- the five files ---


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_registered_claims(paper):
    claims = load_claims(ROOT, paper)
    assert claims
    for claim in claims:
        assert claim.source and claim.command and claim.data and claim.protocol
        assert not re.search(r"\d\d", claim.statement)  # numbers come from the results files
