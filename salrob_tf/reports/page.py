"""Results as one page that opens anywhere, offline: the verdict first, then all it rests on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup

from salrob_tf.checks import epsilon_text
from salrob_tf.reports import effects, parts, quality
from salrob_tf.reports.charts import legend_mark
from salrob_tf.reports.directions import isolated
from salrob_tf.reports.sprites import address
from salrob_tf.results.alike import check_groups
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.measures import OverSeeds
from salrob_tf.results.methods import EQUIVALENT, LESS, MORE, MethodComparison
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.results.spread import spread

DOWNLOADS = {
    "results.json": "application/json",
    "correct.npz": "application/zip",
    "measures.csv": "text/csv",
    "manifest.toml": "application/toml",
    "table1.md": "text/markdown",
}


def report(
    groups: Mapping[str, Sequence[Robustness]],
    comparisons: Sequence[Comparison | MethodComparison],
    record: Mapping[str, Any],
    evidence: Evidence | None = None,
    files: Mapping[str, bytes] | None = None,
    missing: Sequence[str] = (),
    seeds: Sequence[OverSeeds] = (),
) -> str:
    """One self-contained HTML page.

    Args:
        groups: By name, the results of one network, or of networks trained alike from several seeds.
        comparisons: How they differ.
        record: What `results.json` holds beside outcomes: `data`, `environment`, `arguments`, `created`, `run`.
        evidence: What the explorer shows and what was measured; without it the page says that it is not there.
        files: Of those that can be taken from the page, the contents by name.
        missing: What is not there and why, in words.
        seeds: What was measured of ways of training, over their seeds.

    Returns:
        The page. Names of whatever kind are shown as text.

    Raises:
        ValueError: If results are not of the same attacks, epsilons and images.
    """
    first = check_groups(groups)
    given = {key: record.get(key) for key in ("data", "environment", "arguments", "run")}
    record = {**record, **{key: part if isinstance(part, Mapping) else {} for key, part in given.items()}}
    attacks = list(first.correct)
    labels = attacks + [WORST] * (len(attacks) > 1)
    every = [result for results in groups.values() for result in results]
    return _template().render(
        data={"name": "", "split": "", **record["data"]},
        created=record.get("created", ""),
        images=len(first.clean),
        headline=_headline(comparisons),
        names=[*groups, *(result.model for result in every)],
        rests_on=[each.verdict for each in comparisons if isinstance(each, MethodComparison)]
        or [each.verdict for each in comparisons if isinstance(each, Comparison)],
        legend=[(_mark(place), name) for place, name in enumerate(groups)],
        epsilons=[epsilon_text(epsilon) for epsilon in np.sort(first.epsilons)],
        table1=parts.table1_of(groups, record["data"], (files or {}).get("table1.md", b"").decode(errors="replace")),
        rows=parts.rows_of(groups, labels, evidence),
        curves=[parts.curve_of(groups, label, evidence) for label in labels],
        unseen=parts.unseen_of(groups, labels, evidence),
        bands=list(dict.fromkeys(spread([each.clean for each in results]).kind for results in groups.values())),
        differences=effects.differences_of(comparisons),
        specifications=effects.specifications_of(comparisons, record["run"]),
        checks=[parts.checks_of(result, labels) for result in every],
        **(seen := _seen(evidence, attacks) if evidence else UNSEEN),
        seeds=seeds,
        better_maps=quality.verdicts_of(seen["measures"], seeds),
        costs=parts.costs_of(every),
        facts=_facts(record),
        command=_command(record),
        downloads=[(name, address(content, DOWNLOADS[name]), len(content)) for name, content in (files or {}).items()],
        missing=missing,
    )


UNSEEN = {"explorer": None, "payload": None, "measures": None}


def _seen(evidence: Evidence, attacks: Sequence[str]) -> dict[str, Any]:
    """What a page shows of evidence."""
    return {
        "explorer": parts.explorer_of(evidence, attacks),
        "payload": Markup(parts.payload_of(evidence)),
        "measures": parts.measures_of(evidence),
        "removals": quality.removals_of(evidence),
        "agreement": quality.agreement_table(evidence),
        "explained": quality.explained_of(evidence),
    }


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("salrob_tf.reports")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["mark"] = _mark
    page.filters["isolated"] = isolated
    page.filters["points"] = lambda value: f"{value:+.1f}" if np.isfinite(value) else ""
    page.filters["signed"] = lambda value: f"{value:+.2g}" if np.isfinite(value) else ""
    page.filters["percent"] = lambda share: f"{100 * share:.1f}"
    page.globals["style"] = Markup(loader.get_source(page, "report.css")[0])
    page.globals["script"] = Markup(loader.get_source(page, "report.js")[0])
    return page.get_template("report.html.j2")


def _mark(style: int) -> Markup:
    return Markup(legend_mark(style))


def _headline(comparisons: Sequence[Comparison | MethodComparison]) -> str:
    """The answer in one sentence for who reads nothing else."""
    ways = [each for each in comparisons if isinstance(each, MethodComparison)]
    said = []
    for each in ways:
        trained, points = f"Networks trained {each.second}", f"by {100 * abs(each.endpoint.estimate):.1f} points"
        words = {
            MORE: f"{trained} withstand attacks better than {each.first} ones, {points} on average.",
            LESS: f"{trained} withstand attacks less well than {each.first} ones, {points} on average.",
            EQUIVALENT: f"{trained} withstand attacks as well as {each.first} ones, within one point.",
        }
        open_question = f"Whether {each.second} or {each.first} networks withstand attacks better is not decided."
        said.append(words.get(each.outcome, open_question))
    if said:
        return " ".join(said)
    pairs = [each for each in comparisons if isinstance(each, Comparison)]
    if not pairs:
        return "How well these networks withstand attacks."
    if len(pairs) > 1:
        return f"How {len(pairs) + 1} networks withstand attacks, each held against {pairs[0].first}."
    one = pairs[0].verdict.split(";")[0].split(". ")[0].removesuffix(".")
    return f"{one}. One pair of networks says nothing of two ways of training: that takes several seeds."


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = record["data"]
    found = [("data", f"{data.get('name', '')}, {data.get('split', '')} images: {data.get('samples', '')}")]
    found += [("identity of images and labels (SHA-256)", str(data.get("sha256", "")))]
    found += [("seed of attacks", str(record.get("seed", "")))]
    return found + [(str(key), str(value)) for key, value in record["environment"].items()]


def _command(record: Mapping[str, Any]) -> str:
    """The command line that asks for the same again, or nothing where no script did."""
    if not (script := record["run"].get("script")):
        return ""
    words = ["python", f"scripts/{script}"]
    for key, value in record["arguments"].items():
        option = f"--{key.replace('_', '-')}"
        if value is None or key in ("resume", "overwrite"):
            continue
        if isinstance(value, bool):
            words += [option] if value else [f"--no-{option[2:]}"] if key == "survivors_only" else []
        elif isinstance(value, list):
            words += [option] * (key != "models") + [str(each) for each in value]
        else:
            words += [option] * (key != "manifest") + [str(value)]
    return shlex.join(words)
