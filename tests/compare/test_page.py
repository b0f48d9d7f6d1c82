"""The page's structure, without a browser; the terminal tables; the command line."""

import base64
import csv
import io
import math
import re
from html.parser import HTMLParser

import pytest

import compare
from common.cli import UserError
from sidebyside import chart, claims, curves, documents, markup, page, records, runs, terminal
from sidebyside.results import PAPERS, ROOT
from tests.compare.conftest import run_folder

BEGIN = "<!-- claims:begin -->"
END = "<!-- claims:end -->"
VOID = {"meta", "link", "img", "br", "line", "polyline", "polygon", "input"}


class Reader(HTMLParser):
    """Collects tags with attributes and checks that every tag closes in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def html(repository, run_folders, capsys):
    compare.main(
        ["--root", str(repository), "--out", str(repository / "page.html"), str(run_folders)]
    )
    capsys.readouterr()
    return (repository / "page.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(html):
    reader = Reader(html)
    for tag, attrs in reader.tags:
        assert not attrs.get("src", "data:").startswith(("http", "/", "."))
        if tag != "a":
            assert attrs.get("href", "data:,").startswith("data:")
    outward = {a["href"] for a in reader.all("a") if not a["href"].startswith(("#", "data:"))}
    assert outward == {"https://example.org/cavl", "https://example.org/csl"}
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html


def test_headings_landmarks_and_words_for_those_who_do_not_see(html):
    reader = Reader(html)
    names = [tag for tag, _ in reader.tags]
    assert names.count("h1") == names.count("main") == names.count("nav") == 1
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert reader.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all(
        "meta"
    )
    assert [i["alt"] for i in reader.all("img")] == ["cavl: selected maps", "csl: selected maps"]
    assert all(s.get("aria-label") for s in reader.all("svg") if s.get("role") == "img")
    assert names.count("caption") == names.count("table") > 5
    assert all(th.get("scope") == "col" for th in reader.all("th"))


def test_ids_are_unique_and_in_page_links_resolve(html):
    reader = Reader(html)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in reader.all("a") if a["href"].startswith("#")} <= set(ids)
    assert set(PAPERS) < set(ids)


def test_every_claim_is_there_with_its_computed_verdict(html, repository):
    overview = html[html.index('id="claims-table"') : html.index("<article")]
    rows = re.findall(r"<tr>.*?</tr>", overview, re.S)[1:]
    judged = claims.judge_all(records.load(repository))
    assert {j.verdict for j in judged} == {"reproduced", "not run", "not enough seeds"}
    for row, judgement in zip(rows, judged, strict=True):
        assert judgement.claim.name in row and f"</span> {judgement.verdict}</span>" in row


def card(html: str, anchor: str) -> str:
    """The HTML of one claim."""
    return html[html.index(f'<article class="claim" id="{anchor}">') :].split("</article>")[0]


def test_a_claims_card_draws_every_pair_with_its_margin_and_words(html):
    own = card(html, "claim-cavl-better-than-averaging")
    assert own.count('class="margin"') == own.count('class="interval"') == 1
    label = re.search(r'aria-label="([^"]+)"', own)[1]
    assert label == "difference +4, 95 % interval +4 to +4, margin 1: reproduced"
    assert "earlier code" in own and "3 seeds planned, registered 2030-01-01" in own
    assert "paired t over 3 seeds" in own and "python main.py -seeds 0,1,2" in own


def test_a_claim_that_was_not_run_says_so_and_how(html):
    own = card(html, "claim-csl-open-images")
    assert "Not run on real data." in own and "DATA/OpenImages" in own and 'margin"' not in own


def test_sample_rows_stand_in_tables_of_their_own(html):
    numbers = html[html.index('id="cavl-numbers"') : html.index('id="cavl-sample"')]
    assert "84.2" not in numbers and "97.00" in numbers
    sample = html[html.index('id="cavl-sample"') : html.index('id="oass"')]
    assert "84.2" in sample and ">Paper<" not in sample and "not comparable" in sample


def test_numbers_stand_beside_each_other_only_under_one_protocol(html):
    block = html[html.index('id="csl-numbers"') : html.index('id="mile"')]
    found = re.findall(r"<tr>.*?</tr>", block, re.S)[1:]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in found]
    last, ignore, best = (" ".join(row) for row in rows)
    assert "last epoch 83.44 82.90 ± 0.30 n 3 -0.54 paper inside our 95 % interval" in last
    assert "76.46 76.00 n 1 -0.46 one run" in ignore
    assert "best epoch 83.44 not run" in best and "82.9" not in best


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_fraction_beside_percent_has_no_difference(repository, capsys):
    results = repository / "csl" / "results"
    edit(results / "ours.csv", "mAP %", "mAP")
    edit(results / "paper.csv", "mAP %", "mAP")
    edit(results / "ours.csv", "82.9000,0.3000", "0.8290,0.0030")
    argv = ["--root", str(repository), "--out", str(repository / "page.html")]
    compare.main(argv)
    assert re.search(
        r"83\.44 +0\.8290 ± 0\.0030 \(n 3\)\n", capsys.readouterr().out
    )  # no difference after it
    html = (repository / "page.html").read_text()
    assert "one looks like percent, the other like a fraction" in html and "-82.6" not in html


def test_several_runs_without_a_deviation_are_not_called_one_run(repository):
    edit(repository / "csl" / "results" / "ours.csv", "82.9000,0.3000", "82.9000,")
    html = page.build(records.load(repository), [])
    row = html[html.index("82.90") :].split("</tr>")[0]
    assert "no deviation known" in row and "one run" not in row


def test_the_pairs_that_hold_are_counted(repository):
    edit(repository / "csl" / "results" / "ours.csv", "Ignore, CE", "Ignore")
    judged = claims.judge_all(records.load(repository))
    held = {(j.claim.paper, j.claim.name): terminal.held(j.real, " pairs hold") for j in judged}
    assert held["cavl", "better than averaging"] == "1 of 1 pairs hold"
    assert held["csl", "best with few labels"] == "0 of 1 pairs hold"
    assert held["csl", "Open Images"] == "-"


def test_provenance_is_on_hover_and_folds_out(html):
    reader = Reader(html)
    titles = [attrs["title"] for _, attrs in reader.tags if "title" in attrs]
    assert any(
        "command python main.py -seeds 0,1,2; commit abc1234; data_sha d1" in t for t in titles
    )
    assert "<dt>data sha</dt><dd><code>d1</code></dd>" in html
    assert "values by seed</dt><dd>0: 96, 1: 97, 2: 98</dd>" in html  # from the run directories
    assert "paired t over 3 seeds" in html


def test_the_deviations_register_is_the_readmes(html):
    block = html[html.index('id="cavl-deviations"') : html.index('id="csl-deviations"')]
    assert "<code>CAV</code> times <strong>Y</strong> &lt;b&gt;" in block
    assert "<code>-mask product|candidates</code>" in block
    assert (
        block.count("<tr>") == 3
    )  # header and two rows: the table of another section is not taken


def test_downloads_hold_every_row(html, repository):
    files = {}
    for name, data in re.findall(
        r'download="([\w.]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html
    ):
        files[name] = list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))
    assert len(files["numbers.csv"]) == sum(
        len(p.ours) + len(p.published) for p in records.load(repository)
    )
    assert {r["source"] for r in files["numbers.csv"]} > {"ours", "offline sample"}
    pair = files["claims.csv"][0]
    told = [pair[c] for c in ("better_method", "worse_method", "pair", "data")]
    assert told == ["cavl", "uniform", "reproduced", "real data"]
    assert pair["why"] == "interval above zero, mean beyond the margin"
    assert (pair["margin"], pair["seeds"], pair["earlier_code"]) == ("1.0", "3", "1")
    assert all(
        None not in row and None not in row.values() for rows in files.values() for row in rows
    )


def test_text_from_the_files_cannot_become_markup(repository):
    readme = repository / "cavl" / "README.md"
    readme.write_text(
        readme.read_text().replace("CAVL: partial labels", "<script>alert(1)</script>")
    )
    html = page.build(records.load(repository), [])
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert markup.markdown("a `<b>` [x](https://e.org/?a=1) **b** [y](javascript:1)") == (
        'a <code>&lt;b&gt;</code> <a href="https://e.org/?a=1">x</a> <strong>b</strong> '
        "[y](javascript:1)"
    )


def test_an_empty_repository_gives_a_page_that_says_so(tmp_path, capsys):
    compare.main(["--root", str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert "not there: cavl/" in capsys.readouterr().out
    Reader((tmp_path / "page.html").read_text())


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_of_text_and_lines(scheme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    block = (page.HERE / "page.css").read_text().split(":root {")[1 + scheme].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for name in ("ink", "soft", "link"):
        assert all(
            contrast(colours[name], colours[behind]) >= 4.5 for behind in ("paper", "card", "tint")
        ), name
    for name in ("yes", "no", "partly", "open"):
        assert contrast(colours[name], colours[f"{name}-bg"]) >= 4.5, name
    assert all(contrast(colours[name], colours["card"]) >= 4.5 for name in ("yes", "no"))
    assert all(contrast(colours[f"c{k}"], colours["card"]) >= 3 for k in range(6))


# --- curves ---


def test_a_curve_is_the_mean_over_seeds_with_its_deviation(run_folders):
    found, _ = runs.find([run_folders])
    own = runs.groups(found)
    label = "cavl-seed0 … cavl-seed2: cavl"
    assert list(own) == [label, label.replace("cavl", "uniform")]
    curve = curves.curve("cavl", own[label], "test", "accuracy")
    assert (curve.epochs, curve.runs) == ([1, 2, 3, 4], 3)
    assert curve.mean == pytest.approx([0.5, 0.8, 0.9, 0.97]) and curve.std == pytest.approx(
        [0, 0, 0, 0.01]
    )


def test_there_is_no_curve_of_what_no_run_has(run_folders):
    found, _ = runs.find([run_folders])
    assert curves.curve("x", found, "val", "accuracy") is None


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 60, [20, 40, 60]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0.971, 0.979, [0.972, 0.974, 0.976, 0.978]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert chart.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (96.871, 96.879, ["96.872", "96.874", "96.876", "96.878"]),  # not 96.87 four times
        (0.1, 0.5, ["0.1", "0.2", "0.3", "0.4", "0.5"]),
        (1e-7, 5e-7, ["1e-07", "2e-07", "3e-07", "4e-07", "5e-07"]),
        (-2e12, 2e12, ["-2e+12", "-1e+12", "0", "1e+12", "2e+12"]),
        (0, 1200, ["0", "500", "1000"]),
    ],
)
def test_neighbouring_ticks_never_read_the_same(low, high, expected):
    values = chart.ticks(low, high)
    assert chart.tick_texts(values) == expected
    assert [float(told) for told in expected] == pytest.approx(values)


@pytest.mark.parametrize(
    "values", [[0.5], [0.5] * 3, [1e20] * 2, [0.0], [-1e-9] * 2, [1e90, -1e90], [1e-300, 0.0]]
)
def test_charts_of_flat_tiny_and_huge_curves_can_be_drawn(tmp_path, values):
    run_folder(tmp_path, "cavl", 0, values)
    found, _ = runs.find([tmp_path])
    (drawn,) = curves.charts("cavl", found)
    html = page.build([], [], found)
    assert drawn.title in html
    html = html[html.index('<figure class="chart"') :].split("</figure>")[0]
    places = re.findall(r'(?:cx|cy|x1|x2|y1|y2)="([^"]*)"', html)
    assert len(places) > 4
    assert all(math.isfinite(float(place)) and -10 < float(place) < 500 for place in places)


# --- terminal, README, command line ---


def test_the_terminal_shows_a_table_for_each_paper_and_the_claims(repository, capsys):
    compare.main(["--root", str(repository), "--out", str(repository / "page.html")])
    out = capsys.readouterr().out
    assert re.search(
        r"COCO +FPC 1000 +CSL +mAP % +last epoch +83\.44 +82\.90 ± 0\.30 \(n 3\) +-0\.54\n", out
    )
    assert re.search(
        r"offline sample \(not comparable to the paper\)\n.*\n.*\n"
        r"MNIST \(offline sample\) +USS +cavl",
        out,
    )
    assert re.search(
        r"cavl +better than averaging +reproduced \(earlier code\) +reproduced\n"
        r" +MNIST, USS +\+4 +\[\+4, \+4\] +3 +reproduced\n",
        out,
    )
    assert "not there: oass/" in out


def test_the_tally_counts_every_verdict_in_the_rules_order():
    verdicts = ["not run", "reproduced", "not run", "undecided", "mixed", "reproduced"]
    assert terminal.tally(verdicts) == "2 reproduced, 1 undecided, 1 mixed, 2 not run"


@pytest.mark.parametrize("name, top", [("README.md", ""), ("docs/claims.md", "../")])
def test_the_tables_of_claims_are_those_of_the_results_files(name, top):
    """Else: python compare.py --readme README.md, and the same with docs/claims.md."""
    text = (ROOT / name).read_text(encoding="utf-8")
    judgements = claims.judge_all(records.load(ROOT))
    assert documents.with_tables(text, judgements, top) == text


def test_a_document_gets_the_tables_that_it_has_comments_for():
    judgements = claims.judge_all(records.load(ROOT))
    begin, end = "<!-- verdicts:begin -->", "<!-- verdicts:end -->"
    made = documents.with_tables(f"{begin}\n{end}", judgements, "../")
    rows = made.splitlines()[3:-1]
    papers = [re.match(r"\| \[(\w+)\]\(\.\./\1/README\.md\) \|", row)[1] for row in rows]
    assert papers == list(PAPERS)
    counts = [int(row.split(" | ")[1]) for row in rows]
    assert sum(counts) == len(judgements)


def test_the_readme_gets_its_claims_table_between_the_markers(repository, capsys):
    readme = repository / "README.md"
    readme.write_text(f"# top\n{BEGIN}\nold\n{END}\nend\n")
    argv = [
        "--root",
        str(repository),
        "--out",
        str(repository / "page.html"),
        "--readme",
        str(readme),
    ]
    compare.main(argv)
    first = readme.read_text()
    assert first.startswith("# top\n") and first.endswith("\nend\n") and "old" not in first
    assert "| **reproduced (earlier code)** | reproduced |" in first
    assert "| cavl 97.00 ± 1.00 | uniform 93.00 ± 1.00 | +4 | [+4, +4] | 1 | 3 |" in first
    compare.main(argv)
    assert readme.read_text() == first
    readme.write_text("no markers")
    with pytest.raises(
        UserError, match="needs <!-- claims:begin --> and <!-- claims:end --> once each"
    ):
        compare.main(argv)


def test_the_claims_of_one_paper_do_not_replace_those_of_all(repository):
    readme = repository / "README.md"
    readme.write_text(f"{BEGIN}\nold\n{END}\n")
    with pytest.raises(UserError, match="--readme wants the claims of all papers"):
        compare.main(["--root", str(repository), "--paper", "csl", "--readme", str(readme)])
    assert "old" in readme.read_text()


def test_a_paper_named_twice_is_shown_once(repository, capsys):
    argv = [
        "--root",
        str(repository),
        "--out",
        str(repository / "page.html"),
        "--paper",
        "csl",
        "--paper",
        "csl",
    ]
    compare.main(argv)
    assert capsys.readouterr().out.count("== CSL") == 1
    ids = [
        attrs["id"]
        for _, attrs in Reader((repository / "page.html").read_text()).tags
        if "id" in attrs
    ]
    assert len(ids) == len(set(ids))


def test_ids_that_come_twice_are_numbered():
    assert markup.unique(["a", "a-2", "a", "a"]) == ["a", "a-2", "a-3", "a-4"]
    assert markup.slug("±!") == "unnamed"


@pytest.mark.parametrize(
    "argv",
    [
        ["--out", "no/such/folder/x.html"],
        ["--root", "nowhere"],
        ["nowhere"],
        ["--readme", "nowhere"],
    ],
)
def test_mistakes_are_one_line(argv, repository, capsys):
    base = ["--root", str(repository), "--out", str(repository / "page.html")]
    with pytest.raises(UserError) as error:
        compare.main([*base, *argv])
    assert "\n" not in str(error.value) and argv[-1] in str(error.value)
    capsys.readouterr()


# --- this repository ---


def test_the_repositorys_own_files_can_be_read_and_shown():
    papers = records.load(ROOT)
    assert [p.name for p in papers] == list(PAPERS)
    Reader(page.build(papers, claims.judge_all(papers)))


def test_every_claim_tells_a_command_of_a_script_that_is_there():
    for claim in (claim for paper in records.load(ROOT) for claim in paper.claims):
        scripts = re.findall(r"python (\w+\.py)", claim.command)
        assert scripts
        if (ROOT / claim.paper / "README.md").is_file():
            assert all((ROOT / claim.paper / script).is_file() for script in scripts)
