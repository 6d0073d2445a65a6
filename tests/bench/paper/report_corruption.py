"""The sections of the report on posteriors under corruption (C8, C9)."""
import numpy as np

from metrics import mean_and_error
from report_parts import COLOURS, OPEN, SHOWN, REFUTED, Claim, figure, group, larger, number, read, save, settings, table

KEY = ("structure", "variant", "strategy")
NAMES = {
    "map": "plain network (MAP)", "temperature": "temperature scaling", "low_rank": "low rank", "kfac": "K-FAC", "last_layer": "last layer",
    "layerwise": "layerwise residual", "none": "no residual", "factors": "K (factors)", "exact": "E (re-measured)",
    "biased": "biased", "equal_budget": "equal budget", "debiased": "**debiased**",
}  # fmt: skip
CLAIMS = {
    "residual": "At N beta, with a residual, debiased low-rank curvature has lower NLL than biased curvature of |B1|",
    "budget": "... and than one batch of |B1| + |B2| (equal budget)",
    "none": "Without a residual the strategy makes no difference (NLL within 1 %)",
    "kfac_k": "At N beta, debiased K-FAC (K) has lower NLL than biased K-FAC",
    "kfac_e": "At N beta, debiased K-FAC (E) has lower NLL than biased K-FAC with re-measured eigenvalues (EKFAC)",
    "kfac_budget": "At N beta, debiased K-FAC (E) has lower NLL than equal budget (E)",
    "tuned": "At the tuned prior, debiased low rank has lower NLL than temperature scaling",
    "detection": "Entropy under the debiased posterior (low rank, N beta) detects corruption better than the plain network's",
}


def claims():
    return {key: Claim(text) for key, text in CLAIMS.items()}


def _key(row):
    return tuple(row[k] or "" for k in KEY)


def _label(key):
    return ", ".join(NAMES[part] for part in key if part)


class Results:
    """Numbers by (structure, variant, strategy), prior and severity, an array over seeds each."""

    def __init__(self, folder):
        self.rows = read(folder / "corruption.csv")
        self.auroc = read(folder / "corruption_auroc.csv")
        self.fits = {}
        for row in read(folder / "corruption_fits.csv"):
            self.fits.setdefault(_key(row), []).append(row)
        # Only seeds for which everything is there, so that differences are of the same images.
        done = group(self.rows, "seed")
        methods = {seed: {_key(r) for r in rows} for (seed,), rows in done.items()}
        most = max((len(m) for m in methods.values()), default=0)
        self.seeds = [seed for seed, m in methods.items() if len(m) == most]
        self.methods = list(dict.fromkeys(_key(r) for r in self.rows if r["seed"] in self.seeds))
        self.severities = sorted({r["severity"] for r in self.rows})

    def values(self, method, prior, quantity, severities, score=None):
        """One mean over severities for each seed."""
        rows = self.auroc if score else self.rows
        chosen = [r for r in rows if _key(r) == method and (r["prior"] or "") == prior
                  and r["severity"] in severities and (not score or r["score"] == score)]  # fmt: skip
        return np.array([np.mean([r[quantity] for r in chosen if r["seed"] == seed]) for seed in self.seeds])

    def priors(self, method):
        return ("",) if method[0] in ("map", "temperature") else ("n_beta", "tuned")


def _severity_table(results, prior, quantity, digits=3):
    rows = []
    for method in results.methods:
        at = "" if "" in results.priors(method) else prior
        cells = [number(*mean_and_error(results.values(method, at, quantity, [s])), digits) for s in results.severities]
        rows.append([_label(method), *cells])
    return table(["", *(f"severity {s:.0f}" if s else "clean" for s in results.severities)], rows)


def _summary_table(results):
    corrupted = [s for s in results.severities if s > 0]
    rows = []
    for method in results.methods:
        cells = []
        for prior in ("n_beta", "tuned"):
            at = "" if "" in results.priors(method) else prior
            if at == "" and prior == "tuned":
                cells += ["as left"] * 3
                continue
            cells += [number(*mean_and_error(results.values(method, at, quantity, corrupted))) for quantity in ("nll", "ece")]
            cells.append(number(*mean_and_error(results.values(method, at, "auroc", corrupted, "entropy"))))
        fits = results.fits.get(method, [])
        cells.append("" if at == "" else f"{np.mean([f['fit_seconds'] for f in fits]):.0f}")
        rows.append([_label(method), *cells])
    header = ["", *(f"{q}, {p}" for p in ("N beta", "tuned") for q in ("NLL", "ECE", "AUROC (entropy)")), "fit, s"]
    return table(header, rows)


def _score_table(results):
    top = [max(results.severities)]
    scores = list(dict.fromkeys(r["score"] for r in results.auroc))
    rows = []
    for method in results.methods:
        for prior in results.priors(method):
            have = {r["score"] for r in results.auroc if _key(r) == method}
            cells = [number(*mean_and_error(results.values(method, prior, "auroc", top, s))) if s in have else "" for s in scores]
            rows.append([_label(method), {"n_beta": "N beta", "tuned": "tuned", "": ""}[prior], *cells])
    return table(["", "prior", *(s.replace("_", " ") for s in scores)], rows)


def _kinds_table(results, folder):
    """NLL of each corruption, mean of its severities."""
    shown = [(m, p) for m, p in ((("map", "", ""), ""), (("temperature", "", ""), ""), (("low_rank", "layerwise", "debiased"), "n_beta"),
                                 (("low_rank", "layerwise", "debiased"), "tuned")) if m in results.methods]  # fmt: skip
    kinds = group([r for r in read(folder / "corruption_kinds.csv") if r["seed"] in results.seeds], "corruption")
    rows = []
    for (kind,), of_kind in kinds.items():
        of = lambda method, prior: [r for r in of_kind if _key(r) == method and (r["prior"] or "") == prior]
        accuracy = mean_and_error([r["accuracy"] for r in of(("map", "", ""), "")]) if shown else (None, None)
        rows.append([kind.replace("_", " "), number(*accuracy), *(number(*mean_and_error([r["nll"] for r in of(*chosen)])) for chosen in shown)])
    names = [_label(m) + {"n_beta": ", N beta", "tuned": ", tuned", "": ""}[p] for m, p in shown]
    return table(["", "accuracy, plain network", *(f"NLL, {name}" for name in names)], rows)


DRAWN = [("map", "", ""), ("temperature", "", ""), ("low_rank", "layerwise", "biased"), ("low_rank", "layerwise", "equal_budget"),
         ("low_rank", "layerwise", "debiased"), ("kfac", "exact", "debiased"), ("last_layer", "", "")]  # fmt: skip


def _figure(results, path):
    drawing, axes = figure(2, 2, width=4.6)
    for row, prior in enumerate(("n_beta", "tuned")):
        for axis, (quantity, score) in zip(axes[row], (("nll", None), ("auroc", "entropy"))):
            severities = [s for s in results.severities if s > 0 or not score]
            for colour, method in zip(COLOURS, DRAWN):
                if method not in results.methods:
                    continue
                at = "" if "" in results.priors(method) else prior
                points = [mean_and_error(results.values(method, at, quantity, [s], score)) for s in severities]
                mean, error = np.array(points).T
                axis.errorbar(severities, mean, np.nan_to_num(error), color=colour, marker=".", linewidth=1.2, capsize=0,
                              label=_label(method).replace("*", ""))  # fmt: skip
            title = {"nll": "NLL, nats", "auroc": "AUROC of the entropy"}[quantity]
            axis.set_title(f"{title} ({'N beta' if row == 0 else 'tuned prior'})", fontsize=9)
            axis.set_xlabel("severity")
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawing.get_layout_engine().set(rect=(0, 0.1, 1, 0.9))
    drawing.legend(handles, labels, loc="lower center", ncol=4, fontsize=8)
    return save(drawing, path)


def _judge(results, network, claims):
    corrupted = [s for s in results.severities if s > 0]
    nll = lambda method, prior: results.values(method, prior, "nll", corrupted)

    def lower(key, better, worse, prior, prior_of_worse=None):
        if better not in results.methods or worse not in results.methods:
            claims[key].add(network, OPEN, "not run")
            return
        difference = nll(worse, prior if prior_of_worse is None else prior_of_worse) - nll(better, prior)
        mean, error = mean_and_error(difference)
        because = f"lower by {number(mean, error)}" if mean >= 0 else f"higher by {number(-mean, error)}"
        claims[key].add(network, larger(mean, 0, error), f"{because}, mean of severities, {len(difference)} seeds, paired")

    low = lambda residual, strategy: ("low_rank", residual, strategy)
    kfac = lambda eigenvalues, strategy: ("kfac", eigenvalues, strategy)
    lower("residual", low("layerwise", "debiased"), low("layerwise", "biased"), "n_beta")
    lower("budget", low("layerwise", "debiased"), low("layerwise", "equal_budget"), "n_beta")
    lower("kfac_k", kfac("factors", "debiased"), kfac("factors", "biased"), "n_beta")
    lower("kfac_e", kfac("exact", "debiased"), kfac("exact", "biased"), "n_beta")
    lower("kfac_budget", kfac("exact", "debiased"), kfac("exact", "equal_budget"), "n_beta")
    lower("tuned", low("layerwise", "debiased"), ("temperature", "", ""), "tuned", "")
    if low("none", "debiased") in results.methods:
        a, b = nll(low("none", "debiased"), "n_beta"), nll(low("none", "biased"), "n_beta")
        ratio = float(np.mean(a) / np.mean(b))
        claims["none"].add(network, SHOWN if abs(ratio - 1) < 0.01 else REFUTED, f"debiased / biased NLL {ratio:.4f}")
    entropy = lambda method, prior: results.values(method, prior, "auroc", corrupted, "entropy")
    if low("layerwise", "debiased") in results.methods and ("map", "", "") in results.methods:
        mean, error = mean_and_error(entropy(low("layerwise", "debiased"), "n_beta") - entropy(("map", "", ""), ""))
        because = f"AUROC {'higher' if mean >= 0 else 'lower'} by {number(abs(mean), error)}, mean of severities, paired"
        claims["detection"].add(network, larger(mean, 0, error), because)


def section(folder, network, claims):
    """Markdown of a network's results in `folder`, where its figure goes too; "" if there are none. Adds verdicts to claims."""
    results = Results(folder)
    if not results.methods:
        return ""
    chosen = settings(folder / "corruption_settings.csv")
    kinds = len(chosen.get("corruptions", "").split())
    picture = _figure(results, folder / "corruption.svg")
    _judge(results, network, claims)
    images = int(max(r["images"] for r in results.rows))
    return "\n\n".join([
        f"### {network}: under corruption (C8, C9)",
        f"{len(results.seeds)} seeds (batches, test images and corruptions are drawn anew); {kinds} corruptions, {images} images for each severity and seed "
        f"and the same ones clean; K = {chosen.get('rank')}, |B1| = {chosen.get('b1')}, |B2| = {chosen.get('b2')}, {chosen.get('validation')} validation images; "
        f"commit {chosen.get('commit')}. Mean ± standard error over seeds. NLL, ECE and AUROC of the first table are means over severities "
        f"{', '.join(f'{s:.0f}' for s in results.severities if s)}; the plain network and temperature scaling have no prior.",
        _summary_table(results),
        f"![NLL and AUROC by severity]({folder.name}/{picture})",
        "Accuracy (at the tuned prior):", _severity_table(results, "tuned", "accuracy"),
        "NLL at N beta:", _severity_table(results, "n_beta", "nll"),
        "NLL at the tuned prior:", _severity_table(results, "tuned", "nll"),
        f"AUROC of every score, clean against severity {max(results.severities):.0f}:", _score_table(results),
        "By corruption, mean of its severities:", _kinds_table(results, folder),
    ])  # fmt: skip
