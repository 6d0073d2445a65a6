"""The page: its figures, what stands instead of those it cannot have, and that it is closed."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Callable

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")

import report_values as values  # noqa: E402
from laplace_client.report import data_figures, posterior_figures  # noqa: E402
from laplace_client.report.page import report  # noqa: E402
from laplace_client.report.section import Section  # noqa: E402
from laplace_client.types import Model, Posterior, PriorCandidate  # noqa: E402

KEYS = ["spectrum", "bias", "residual", "prior", "reliability", "scores", "roc"]


class Sections(HTMLParser):
    """Of each section: its figures' view boxes and names, its tables' rows, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: dict[str, list[dict[str, str]]] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.text: dict[str, str] = {}
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._key = ""
        self._skip = 0
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.tags.add(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "section":
            self._key = values["id"]
            self.figures[self._key], self.rows[self._key], self.text[self._key] = [], [], ""
        elif tag == "svg":
            self.figures[self._key].append(values)
            self._skip += 1
        elif tag == "tr" and self._key:
            self.rows[self._key].append([])
        elif tag in ("td", "th") and self._key:
            self.rows[self._key][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg":
            self._skip -= 1
        elif tag in ("td", "th"):
            self._in_cell = False
        elif tag == "section":
            self._key = ""

    def handle_data(self, data: str) -> None:
        if self._key and not self._skip:
            self.text[self._key] += data
            if self._in_cell:
                self.rows[self._key][-1][-1] += data.strip()


def drawn(sections: Sections) -> list[str]:
    return [key for key, figures in sections.figures.items() if figures]


@pytest.fixture(scope="module")
def full_page() -> str:
    return report(
        values.model(), values.posterior(), values.answers(), [values.answers("far", 300, 2.0)]
    )


def test_every_figure_is_there_with_numbers_and_a_description(full_page: str) -> None:
    sections = Sections(full_page)
    assert drawn(sections) == KEYS
    for key, figures in sections.figures.items():
        (figure,) = figures
        _, _, width, height = map(float, figure["viewbox"].split())
        assert width > 400 and height > 80
        assert figure["role"] == "img"
        for name in figure["aria-labelledby"].split():
            assert name in sections.ids, name
        assert len(sections.rows[key]) > 2, key


def test_tables_hold_the_numbers_of_the_posterior(full_page: str) -> None:
    rows = Sections(full_page).rows
    # Direction 2: debiased 5 * .7, biased by 1.1 + 1.4 / 11, standard error 5 %.
    assert rows["spectrum"][2] == ["2", "4.295", "3.500", "0.1750"]
    assert rows["bias"][2] == ["2", "1.227", "0.06136"]
    # Weight and bias: traces 2 + 2, left over 1 + 1.
    assert rows["residual"][1] == ["hidden", "90", "4.000", "2.000", "50.0 %"]
    chosen = [row for row in rows["prior"] if row[-1] == "chosen"]
    assert [row[0] for row in chosen] == ["3.162"]


def test_reliability_tells_before_from_after(full_page: str) -> None:
    rows = Sections(full_page).rows["reliability"]
    before, after = rows[1], rows[2]
    assert before[0].startswith("before") and after[0].startswith("after")
    # The plain network's logits are twice those that made the labels.
    assert float(before[3]) > 2 * float(after[3])


def test_scores_say_what_is_flagged(full_page: str) -> None:
    rows = {(row[0], row[1]): row for row in Sections(full_page).rows["scores"]}
    scores = values.answers().scores["energy"]
    assert rows["energy", "ID"][-1] == f"{100 * (scores > 1.6).mean():.1f} %"
    assert rows["msp", "far"][-2:] == ["-", "-"]  # has no threshold


def test_without_data_the_page_says_how_to_give_some() -> None:
    sections = Sections(report(values.model(), values.posterior()))
    assert drawn(sections) == KEYS[:4]
    for key in KEYS[4:]:
        assert "--id" in sections.text[key]


def last_layer() -> Posterior:
    fit = values.options(structure="last_layer", debiasing="")
    return values.posterior(fit, biased_eigenvalues=np.empty(0), standard_errors=np.empty(0))


def without(**options: str) -> Posterior:
    return values.posterior(values.options(**options))


@pytest.mark.parametrize(
    "draw, posterior, words",
    [
        (posterior_figures.spectrum, values.kfac(), "K-FAC keeps a curvature for each pair"),
        (posterior_figures.residual, values.kfac(), "nothing is left over"),
        (posterior_figures.residual, without(residual="none"), "no residual"),
        (posterior_figures.residual, without(residual="isotropic"), "evenly"),
        (posterior_figures.bias, without(debiasing="none"), "debiasing none"),
        (posterior_figures.bias, last_layer(), "exact over all training data"),
    ],
)
def test_a_figure_that_cannot_be_says_why(
    draw: Callable[[Posterior], Section], posterior: Posterior, words: str
) -> None:
    section = draw(posterior)
    assert section.svg == "" and section.tables == ()
    assert words in section.lead


def test_a_page_of_kfac_has_the_sentences_and_the_bias_of_its_blocks() -> None:
    sections = Sections(report(values.model(), values.kfac()))
    assert drawn(sections) == ["bias", "prior"]
    assert "no spectrum" in sections.text["spectrum"]
    rows = sections.rows["bias"]
    assert rows[1] == ["hidden.weight", "kronecker", "80", "3.000", "2.000", "1.500"]


def test_without_candidates_there_is_no_curve() -> None:
    section = posterior_figures.prior_precision(
        values.model(), values.posterior(prior_candidates=())
    )
    assert section.svg == "" and "Predictions use 3.162" in section.lead


def test_without_validation_only_the_evidence_is_drawn() -> None:
    candidates = tuple(PriorCandidate(d, 0.0, -d) for d in (1.0, 2.0, 4.0, 1.5, 1.4))
    posterior = values.posterior(prior_candidates=candidates, validation_nll_map=0.0)
    section = posterior_figures.prior_precision(values.model(), posterior)
    (table,) = section.tables
    assert table.columns == ("prior precision", "evidence", "note")
    assert table.rows[-1] == ("1.400", "-1.4", "step 2")
    assert "no validation data" in section.lead


def test_directions_without_curvature_are_counted() -> None:
    posterior = values.posterior(eigenvalues=np.r_[values.posterior().eigenvalues[:10], 0.0, 0.0])
    assert "2 directions without curvature" in posterior_figures.spectrum(posterior).lead
    assert posterior_figures.bias(posterior).tables[0].rows[-1] == ("12", "-", "-")


@pytest.mark.parametrize(
    "model, words",
    [(values.model(likelihood="gaussian"), "not probabilities"), (values.model(), "no targets")],
)
def test_reliability_needs_probabilities_and_targets(model: Model, words: str) -> None:
    section = data_figures.reliability(model, values.answers(targets=None))
    assert section.svg == "" and words in section.lead


def test_bernoulli_labels_have_a_reliability() -> None:
    targets = np.random.default_rng(0).integers(0, 2, (400, 3))
    model = values.model(likelihood="bernoulli")
    section = data_figures.reliability(model, values.answers(targets=targets))
    assert "mean over labels" in section.lead
    assert sum(int(row[1].replace(",", "")) for row in section.tables[1].rows) == 1200


def test_scores_that_are_all_the_same_are_drawn() -> None:
    constant = values.answers(scores={"energy": np.full(400, 2.0)}, thresholds={})
    other = values.answers("far", scores={"energy": np.full(400, 2.0)}, thresholds={})
    section = data_figures.roc(constant, [other])
    assert section.tables[0].rows == (("far", "energy", "0.5000", "100.0 %"),)
    assert data_figures.histograms(constant, [other]).svg


def test_nothing_is_loaded_and_nothing_runs(full_page: str) -> None:
    assert "script" not in Sections(full_page).tags
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["'](?!#)""", full_page)
    assert not re.search(r"url\(\s*(?!#)", full_page)
    assert "@import" not in full_page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', full_page)
    assert policy is not None and policy[1].startswith("default-src 'none';")


def test_identifiers_are_unique_and_references_hold(full_page: str) -> None:
    ids = Sections(full_page).ids
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', full_page))
    assert {a or b for a, b in referred} <= set(ids)
    assert len(referred) > 10


def test_colours_are_those_of_the_page(full_page: str) -> None:
    style = full_page.index("</style>")
    assert not re.search(r"#[0-9a-f]{6}\b(?!\")", re.sub(r'"#[^"]*"', "", full_page[style:]))
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", full_page)):
        # Light, dark and print.
        assert full_page.count(variable + ":") >= (2 if variable == "--panel" else 3), variable


def test_names_are_escaped() -> None:
    evil = "<script>alert('1')</script>\"&"
    model = values.model(name=evil, description=evil)
    posterior = values.posterior(blocks=values.blocks(name=evil), warnings=(evil,))
    page = report(model, posterior)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") >= 5
    section = data_figures.roc(values.answers(), [values.answers(evil)])
    assert "<script" not in section.svg


def test_head_says_what_it_is(full_page: str) -> None:
    for words in ("net", "version 3", "p-1 (active)", "2026-02-03 04:05:06 UTC", "two_batch"):
        assert words in full_page
    warned = report(values.model(), values.posterior(warnings=("at the edge of the grid",)))
    assert "at the edge of the grid" in warned


def test_the_same_values_give_the_same_page(full_page: str) -> None:
    again = report(
        values.model(), values.posterior(), values.answers(), [values.answers("far", 300, 2.0)]
    )
    assert again == full_page


def test_a_large_posterior_on_much_data_is_a_small_page() -> None:
    eigenvalues = np.geomspace(10, 1e-3, 200)
    many = tuple(
        dataclasses.replace(block, name=f"layer{i}.{block.name}")
        for i in range(30)
        for block in values.blocks()
    )
    posterior = values.posterior(
        rank=200, eigenvalues=eigenvalues, biased_eigenvalues=2 * eigenvalues,
        standard_errors=0.1 * eigenvalues, blocks=many,
    )  # fmt: skip
    outside = [values.answers(f"set {i}", 20_000, i) for i in range(4)]
    page = report(values.model(), posterior, values.answers(rows=20_000), outside)
    assert len(page.encode()) < 1_500_000
