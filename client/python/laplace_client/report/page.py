"""The page: one HTML file with its style and figures in it, and no scripts."""

from __future__ import annotations

import pathlib
from typing import Sequence

from ..types import Model, Posterior
from .data import Evaluated
from .data_figures import data_sections, quality
from .posterior_figures import posterior_sections
from .section import Section, Table, number, percent
from .svg import escape, style

_STYLE_SHEET = pathlib.Path(__file__).with_name("page.css")

# Nothing is loaded, whatever the page says.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def report(
    model: Model,
    posterior: Posterior,
    inside: Evaluated | None = None,
    outside: Sequence[Evaluated] = (),
) -> str:
    """The whole page; the same values give the same text.

    inside, outside: answers for in- and out-of-distribution data.
    """
    with style():
        parts = (
            ("The posterior", posterior_sections(model, posterior)),
            ("On data", data_sections(model, inside, outside)),
        )
    title = f"{model.name} {model.version}: Laplace posterior"
    body = "".join(
        f"<h2>{escape(name)}</h2>\n" + "".join(map(_section, sections)) for name, sections in parts
    )
    contents = "".join(
        f'<li><a href="#{section.key}">{escape(section.title)}</a></li>'
        for _, sections in parts
        for section in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_STYLE_SHEET.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
{_head(model, posterior, inside)}
</header>
<nav aria-label="Figures"><ul>{contents}</ul></nav>
<main>
{body}</main>
</body>
</html>
"""


def _head(model: Model, posterior: Posterior, inside: Evaluated | None) -> str:
    text = f"<h1>{escape(model.name)} <small>version {model.version}</small></h1>\n"
    if model.description:
        text += f"<p>{escape(model.description)}</p>\n"
    text += _tiles(_key_numbers(model, posterior, inside))
    if posterior.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in posterior.warnings)
        text += (
            f'<div class="note" role="note"><strong>The fit warns:</strong><ul>{items}</ul></div>\n'
        )
    text += '<div class="columns">\n'
    text += _table(Table("The posterior", ("", ""), _origin(model, posterior), 2), False)
    text += _table(Table("Options, as used", ("", ""), _options(posterior), 2), False)
    return text + "</div>"


def _key_numbers(
    model: Model, posterior: Posterior, inside: Evaluated | None
) -> list[tuple[str, str, str]]:
    """Name, value, and what is good to know about it."""
    rank = f"{posterior.rank} directions" if posterior.rank else f"{len(posterior.blocks)} blocks"
    evidence = posterior.log_marginal_likelihood / max(posterior.n_data, 1)
    for_scores = f"scores: {number(posterior.ood_prior_precision)}"
    numbers = [
        (
            "uncertain parameters",
            f"{posterior.n_parameters:,}",
            f"of {model.n_parameters:,}; {rank}",
        ),
        ("effective parameters", f"{posterior.effective_parameters:,.0f}", "set by the data"),
        ("prior precision", number(posterior.prior_precision), for_scores),
        ("evidence", f"{evidence:.3f}", "nats per example"),
    ]
    found = None if inside is None else quality(model, inside)
    if found is not None:
        before, after = found
        numbers += [
            ("accuracy", percent(after.accuracy), f"before {percent(before.accuracy)}"),
            ("NLL", f"{after.nll:.4f}", f"before {before.nll:.4f}"),
            ("ECE", f"{after.ece:.4f}", f"before {before.ece:.4f}"),
        ]
    return numbers


def _origin(model: Model, posterior: Posterior) -> tuple[tuple[str, str], ...]:
    active = "active" if posterior.active else "not active"
    rows = [
        ("posterior", f"{posterior.id} ({active})"),
        ("fitted", posterior.create_time.replace("T", " ").replace("Z", " UTC")),
        ("fit took", f"{posterior.cost.seconds:.0f} s" if posterior.cost else ""),
        ("likelihood", f"{model.likelihood}, {model.n_outputs} outputs"),
        ("training examples", f"{posterior.n_data:,}"),
        ("curvature measured on", _examples(posterior.curvature_count)),
        ("mean training loss", f"{number(posterior.mean_train_loss)} nats"),
        ("updated with", _examples(posterior.updated_examples)),
        ("made from", posterior.parent_posterior_id),
        ("default score", posterior.default_ood_score),
        ("feature layer", posterior.features.layer if posterior.features else ""),
        ("checkpoint", posterior.checkpoint_sha256[:16]),
        ("training data", _short_id(posterior.train_dataset_id)),
        ("validation data", _short_id(posterior.validation_dataset_id)),
        ("calibration data", _short_id(posterior.calibration_dataset_id)),
        ("code version", posterior.code_version),
    ]
    return tuple((name, value) for name, value in rows if value)


def _examples(count: int) -> str:
    return f"{count:,} examples" if count else ""


def _short_id(dataset_id: str) -> str:
    return dataset_id.removeprefix("sha256-")[:16]


_ORDER = (
    "structure", "curvature", "debiasing", "residual", "rank", "direction_batch_size",
    "curvature_batch_size", "kfac_eigenvalues", "parameters", "prior_method", "prior_precision",
    "ood_prior_precision", "temperature", "noise_method", "sigma_noise", "target_id_rate", "seed",
    "lanczos_tolerance", "max_products", "max_validation_examples",
    "target_relative_standard_error", "variance_correction",
    "memory_limit_bytes", "fisher_samples", "feature_layer",
)  # fmt: skip


def _options(posterior: Posterior) -> tuple[tuple[str, str], ...]:
    """Without those that are empty, 0 or False: they do not apply or were left alone."""
    rows = []
    for name in _ORDER:
        value = getattr(posterior.options, name)
        if name != "seed" and not value:
            continue
        if isinstance(value, tuple):
            text = ", ".join(value)
        elif isinstance(value, bool):
            text = "yes"
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        rows.append((name.replace("_", " "), text))
    return tuple(rows)


def _tiles(numbers: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(
        f"<div><dt>{escape(name)}</dt>"
        f"<dd><b>{escape(value)}</b> <span>{escape(more)}</span></dd></div>"
        for name, value, more in numbers
    )
    return f'<dl class="tiles">{items}</dl>\n'


def _section(section: Section) -> str:
    heading = f"{section.key}-heading"
    text = f'<section id="{section.key}" aria-labelledby="{heading}">\n<h3 id="{heading}">'
    text += f"{escape(section.title)}</h3>\n"
    if not section.svg:
        return text + f'<p class="none">{escape(section.lead)}</p>\n</section>\n'
    text += f'<figure>\n<div class="plot">{section.svg}</div>\n'
    text += f"<figcaption>{escape(section.lead)}</figcaption>\n</figure>\n"
    return text + "".join(map(_table, section.tables)) + "</section>\n"


def _table(table: Table, with_head: bool = True) -> str:
    """Long tables scroll within the page, and stand in full on paper."""
    head = ""
    if with_head:
        cells = "".join(
            f'<th scope="col"{_text(i, table)}>{escape(c)}</th>'
            for i, c in enumerate(table.columns)
        )
        head = f"<thead><tr>{cells}</tr></thead>"
    rows = "".join(f"<tr>{_row(row, table)}</tr>\n" for row in table.rows)
    caption = escape(table.caption)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption>{caption}</caption>{head}<tbody>\n{rows}</tbody></table></div>\n"
    )


def _row(row: tuple[str, ...], table: Table) -> str:
    first = f'<th scope="row"{_text(0, table)}>{escape(row[0])}</th>'
    return first + "".join(
        f"<td{_text(i, table)}>{escape(cell)}</td>" for i, cell in enumerate(row[1:], 1)
    )


def _text(column: int, table: Table) -> str:
    return ' class="text"' if column < table.text_columns else ""
