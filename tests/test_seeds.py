"""Two ways of training, compared over seeds."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

import salrob_tf as sr
from salrob_tf.reports.effects import differences_of, points_of, specifications_of
from salrob_tf.reports.specification import specification_curve
from salrob_tf.results.crossed import Components, components_of, mean_of
from salrob_tf.results.flags import Flag
from salrob_tf.results.planner import plan_of
from salrob_tf.results.robustness import WORST

EPSILONS = np.arange(1, 11) * 0.03


def network(name, smallest, epsilons=EPSILONS, **more):
    """A network of which each image falls at its smallest epsilon."""
    correct = {"pgd": np.asarray(smallest)[None] >= np.asarray(epsilons)[:, None]}
    clean = np.ones(len(smallest), bool)
    return sr.Robustness(name, np.array(epsilons), np.arange(len(smallest)), clean, correct, {"pgd": {}}, **more)


def groups_of(first, second, **more):
    """Two ways of training, from the smallest epsilons of images in seeds, `(S, N)` each."""
    ways = {"regular": first, "guided": second}
    return {way: [network(f"{way}-{s}", row, **more) for s, row in enumerate(rows)] for way, rows in ways.items()}


def study(rng, seeds, images, by_seed, shift=0.0):
    """Networks that vary as those of MNIST-5k do: by their seeds, by image and way, and by image in each network."""
    base = np.log(0.13) + 0.35 * rng.standard_normal(images)
    ways = []
    for _ in range(2):
        seed, image = by_seed * rng.standard_normal((seeds, 1)), 0.1 * rng.standard_normal(images)
        ways.append(np.exp(base + image + seed + 0.15 * rng.standard_normal((seeds, images))))
    return groups_of(ways[0], ways[1] * np.exp(shift))


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("by_seed", [0.01, 0.05])
def test_without_a_difference_one_verdict_in_twenty_is_wrong(seeds, by_seed):
    rng, studies = np.random.default_rng(0), 400
    found = [sr.compare_methods(study(rng, seeds, 200, by_seed)) for _ in range(studies)]
    wrong = np.mean([each.outcome in ("more robust", "less robust") for each in found])
    covered = np.mean([low <= 0 <= high for low, high in (each.endpoint.interval() for each in found)])
    error = 2.5 * np.sqrt(0.05 * 0.95 / studies)
    assert wrong <= 0.05 + error and covered >= 0.95 - error


def test_tests_over_images_alone_would_be_wrong_in_most_studies():
    rng, wrong = np.random.default_rng(0), []
    for _ in range(50):
        ways = study(rng, 2, 200, 0.1)
        differences = sr.compare(ways["regular"][0], ways["guided"][0]).differences
        wrong.append(any(item.p_value <= 0.05 / len(differences) for item in differences))
    assert np.mean(wrong) > 0.3


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("varying", [Components(4e-4, 4e-3, 2e-2), Components(1e-3, 0, 1e-2)])
def test_a_detectable_difference_is_found_in_80_of_100_studies(seeds, varying):
    rng, studies, images = np.random.default_rng(1), 400, 100
    effect, found, covered = varying.detectable(seeds, images), 0, 0
    for _ in range(studies):
        seed, image = rng.standard_normal((seeds, 1)), rng.standard_normal(images)
        differences = effect + np.sqrt(varying.seed) * seed + np.sqrt(varying.image) * image
        mean = mean_of(differences + np.sqrt(varying.residual) * rng.standard_normal((seeds, images)))
        low, high = mean.interval()
        found += mean.p_value <= 0.05
        covered += low <= effect <= high
    assert abs(found / studies - 0.8) <= 2.5 * np.sqrt(0.8 * 0.2 / studies)
    assert covered / studies >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / studies)


def test_a_family_of_epsilons_has_a_wrong_member_in_one_study_of_twenty():
    rng, studies = np.random.default_rng(2), 100
    smallest = [min(e.p_value for e in sr.compare_methods(study(rng, 5, 100, 0.05)).family) for _ in range(studies)]
    assert np.mean(np.array(smallest) <= 0.05) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / studies)


def test_components_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((4, 1)) + 2 * rng.standard_normal(9) + rng.standard_normal((4, 9))
    seed, image = np.indices(values.shape)
    table = pandas.DataFrame({"d": values.ravel(), "seed": seed.ravel(), "image": image.ravel()})
    squares = anova_lm(ols("d ~ C(seed) + C(image)", table).fit())["mean_sq"]
    found = components_of(values)
    rest = squares["Residual"]
    assert found.residual == pytest.approx(rest, rel=1e-10)
    assert found.seed == pytest.approx((squares["C(seed)"] - rest) / 9, rel=1e-10)
    assert found.image == pytest.approx((squares["C(image)"] - rest) / 4, rel=1e-10)
    variance = squares["C(seed)"] + squares["C(image)"] - rest
    assert mean_of(values).error ** 2 == pytest.approx(variance / 36, rel=1e-10)
    assert components_of(np.array([[1.0, 2.0], [2.0, 1.0]])) == Components(0, 0, 1)  # negative ones are 0


def test_where_only_seeds_vary_all_is_that_of_a_paired_t():
    by_seed = np.array([0.02, 0.05, -0.01, 0.03])
    mean, paired = mean_of(np.repeat(by_seed[:, None], 7, axis=1)), DescrStatsW(by_seed)
    assert mean.interval() == pytest.approx(paired.tconfint_mean(), rel=1e-10)
    assert mean.p_value == pytest.approx(paired.ttest_mean()[1], rel=1e-10)
    assert mean.freedom == pytest.approx(3, rel=1e-10)
    for margin in np.linspace(0.02, 0.2, 19):
        assert mean.within(margin) == (paired.ttost_mean(-margin, margin)[0] < 0.05)
    for seeds in (3, 6, 20):
        size = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)
        assert Components(4e-4, 0, 0).detectable(seeds, 50) == pytest.approx(0.02 * size, rel=1e-6)


def test_the_endpoint_is_the_area_under_the_curve_and_the_mean_smallest_epsilon():
    rng = np.random.default_rng(4)
    first, second = rng.uniform(0, 0.35, (2, 3, 40))
    found = sr.compare_methods(groups_of(first, second))
    for way, smallest in zip(found.areas, (first, second), strict=True):
        for area, epsilon in zip(way.ravel(), smallest.ravel(), strict=True):
            ladder = np.linspace(0, 0.3, 11)
            right = [float(k == 0 or epsilon >= ladder[k] - 1e-12) for k in range(11)]
            assert area == pytest.approx(sum((a + b) / 2 for a, b in itertools.pairwise(right)) / 10)
            assert abs(area * 0.3 - min(epsilon, 0.3)) <= 0.0151  # half a step of the grid
    assert found.endpoint.estimate == pytest.approx(found.by_seed.mean())
    accuracies = [result.accuracy("pgd") for result in groups_of(first, second)["guided"]]
    expected = np.mean([np.trapezoid([1, *a], np.linspace(0, 0.3, 11)) for a in accuracies]) / 0.3
    assert found.areas[1].mean() == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(2, 30))
def test_swapped_the_signs_turn_and_the_order_of_epsilons_is_no_matter(seed, seeds, images):
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, 0.3, (2, seeds, images))
    there, back = sr.compare_methods(groups_of(first, second)), sr.compare_methods(groups_of(second, first))
    turned = sr.compare_methods(groups_of(first, second, epsilons=[*EPSILONS[::-1], 0.0]))
    assert back.endpoint.estimate == pytest.approx(-there.endpoint.estimate)
    assert back.endpoint.p_value == pytest.approx(there.endpoint.p_value)
    assert turned.endpoint == there.endpoint and turned.family == there.family
    for item, other in zip(there.family, back.family, strict=True):
        assert item.difference == -other.difference and item.p_value == pytest.approx(other.p_value, abs=0.01)
        assert item.interval[0] <= item.difference <= item.interval[1]


def test_a_family_of_one_is_its_t_test():
    rng = np.random.default_rng(5)
    first = rng.uniform(0, 0.3, (5, 50))
    found = sr.compare_methods(groups_of(first, first + rng.normal(0.02, 0.03, (5, 50)), epsilons=[0.15]))
    alone = mean_of(found.differences[0])
    assert found.family[0].p_value == pytest.approx(alone.p_value, abs=0.005)
    assert found.family[0].interval == pytest.approx(alone.interval(), abs=0.005)


def test_signs_are_flipped_in_every_way_from_six_seeds_on():
    rng = np.random.default_rng(6)
    first = rng.uniform(0, 0.3, (7, 20))
    second = first + rng.normal(0.01, 0.02, (7, 20))
    found = sr.compare_methods(groups_of(first, second))
    means = [np.mean(found.by_seed * signs) for signs in itertools.product([-1, 1], repeat=7)]
    assert found.sign_flip == pytest.approx(np.mean(np.abs(means) >= abs(found.by_seed.mean()) - 1e-12))
    assert sr.compare_methods(groups_of(first[:5], second[:5])).sign_flip is None


@pytest.mark.parametrize(
    ("shift", "noise", "outcome", "words"),
    [
        (0.03, 0.01, "more robust", "guided gives more robust networks than regular. Difference"),
        (-0.03, 0.01, "less robust", "guided gives less robust networks than regular. Difference"),
        (0.0004, 0.0001, "more robust", "more robust networks than regular, by less than one point. Difference"),
        (0.0, 0.003, "equivalent within one point", "guided and regular are equivalent within one point"),
        (0.0, 0.06, "not decided", "nothing is decided"),
    ],
)
def test_verdicts_say_which_way_by_how_much_and_on_what(shift, noise, outcome, words):
    rng = np.random.default_rng(7)
    first = rng.uniform(0, 0.3, (6, 1000))
    found = sr.compare_methods(groups_of(first, first + shift + noise * rng.standard_normal((6, 1))))
    assert found.outcome == outcome and words in found.verdict
    assert "95 % interval" in found.verdict and "pgd; 6 seeds, 1000 images" in found.verdict
    assert ("80 of 100" in found.verdict) == (outcome == "not decided")
    assert found.verdict in str(found) and "all epsilons together" in str(found)
    assert json.loads(json.dumps(found.record()))["outcome"] == outcome


def test_no_verdict_rests_on_doubtful_accuracies_or_on_seeds_that_are_all_alike():
    rng = np.random.default_rng(8)
    first, second = rng.uniform(0, 0.2, (3, 50)), rng.uniform(0.1, 0.3, (3, 50))
    assert sr.compare_methods(groups_of(first, second)).outcome == "more robust"
    flag = Flag("zero gradients", "not to be believed", 1, 0.01, "the gradient was zero", "Try spsa", "pgd")
    doubted = sr.compare_methods(groups_of(first, second, flags=(flag,)))
    assert doubted.outcome == "not decided" and "the gradient was zero" in doubted.verdict
    assert doubted.verdict.count("the gradient was zero") == 1 and "guided-2" in doubted.verdict
    assert doubted.doubt == "not to be believed"
    fine = sr.compare_methods(groups_of(first, second, flags=(Flag("x", "note", 1, 0, "m", "r", "pgd"),)))
    assert fine.outcome == "more robust" and not fine.doubts
    grave = Flag("one step", "not to be believed", 1, 0.01, "one step breaks more", "Look at the gradient", "fgsm")
    mild = replace(flag, severity="doubtful")
    several = {
        way: [
            replace(
                each,
                correct={"fgsm": each.correct["pgd"], **each.correct},
                attacks={"fgsm": {}, "pgd": {}},
                flags=flags,
            )
            for each in group
        ]
        for (way, group), flags in zip(groups_of(first, second).items(), ((grave,), (grave, mild)), strict=True)
    }
    of_several = sr.compare_methods(several)
    assert of_several.attack == WORST and of_several.doubt == "doubtful", "as the least doubtful attack of each network"
    assert {name for name, _ in of_several.doubts} == {"guided-0", "guided-1", "guided-2"}
    for smallest in (0.0, 1.0):
        same = sr.compare_methods(groups_of(np.full((3, 50), smallest), np.full((3, 50), 0.12)))
        assert same.outcome == "not decided" and "the same in all seeds" in same.verdict
        assert np.isfinite(same.endpoint.interval()).all() and same.family[0].interval[0] >= -1
    with pytest.raises(ValueError, match="nothing can be planned"):
        same.plan(0.01)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [(1.0, 1.0, "+0.0"), (0.0, 0.0, "+0.0"), (1.0, 0.0, "-95.0"), (0.0, 1.0, "+95.0")],
)
def test_of_accuracies_that_are_0_or_100_percent_in_all_seeds_no_interval_is_told(first, second, difference):
    found = sr.compare_methods(groups_of(*(np.full((6, 50), smallest) for smallest in (first, second))))
    assert found.outcome == "not decided" and "nothing is decided" in found.verdict
    assert f"0 to 0.3: {difference} points (no interval: the difference is the same in all seeds, " in found.verdict
    assert "95 % interval" not in found.verdict and "80 of 100" not in found.verdict
    lines = str(found).splitlines()
    assert [line.split("%  ")[1] for line in lines[1:11]] == ["none: all seeds differ alike"] * 10
    assert "paired t over seeds: none, as the seeds' means are alike" in str(found) and found.paired_t is None
    record = json.loads(json.dumps(found.record()))
    endpoint = record["endpoint"]
    assert [endpoint[key] for key in ("interval", "p_value", "detectable", "within_one_point", "paired_t")] == [
        None
    ] * 5
    assert {(each["interval"], each["p_value"]) for each in record["epsilons"]} == {(None, None)}


def test_where_one_epsilon_does_not_vary_the_others_and_the_verdict_have_their_intervals():
    rng = np.random.default_rng(12)
    first, second = rng.uniform(0.04, 0.2, (3, 50)), rng.uniform(0.1, 0.25, (3, 50))
    found = sr.compare_methods(groups_of(first, second))
    assert found.outcome == "more robust" and "95 % interval" in found.verdict
    told = [item.told for item in found.family]
    assert told == [False, *[True] * 7, False, False] and str(found).count("none: all seeds differ alike") == 3
    assert [each["interval"] is not None for each in found.record()["epsilons"]] == told
    _, points = points_of(found)
    assert np.isfinite(points[:, 2]).tolist() == np.isfinite(points[:, 3]).tolist() == told
    (shown,) = differences_of([found])
    assert "nan" not in shown.chart and shown.chart.count('class="band"') == 1
    figure = sr.difference_curves([found])
    (bands,) = figure.axes[0].collections
    assert figure.get_supxlabel().endswith("bands: 95 %, none where all seeds differ alike")
    assert np.isfinite(bands.get_paths()[0].vertices).all()


def test_ways_that_differ_alike_in_all_seeds_are_shown_without_interval():
    alike = sr.compare_methods(groups_of(np.full((3, 50), 0.1), np.full((3, 50), 0.2)))
    rng = np.random.default_rng(12)
    other = sr.compare_methods(groups_of(rng.uniform(0.04, 0.2, (3, 50)), rng.uniform(0.1, 0.25, (3, 50))))
    rows = specifications_of([alike, other], {}).rows
    assert sorted(np.isfinite([row.low, row.high]).all() for row in rows) == [False, True]
    figure = specification_curve([alike, other], {other.second: {}})
    assert [len(line.get_xdata()) for line in figure.axes[0].lines].count(2) == 2, "one bar, and the line at 0"


def test_means_that_differ_by_rounding_alone_have_no_paired_t():
    same = sr.compare_methods(groups_of(np.full((3, 50), 0.1), np.full((3, 50), 0.2)))
    areas = np.zeros((2, 3, 50))
    areas[1] = 0.3
    areas[1, 1] += 1e-14
    same = replace(same, areas=areas)
    assert 0 < np.ptp(same.by_seed) < 1e-12 and same.paired_t is None


def test_networks_given_twice_have_no_interval_though_their_images_vary():
    rng = np.random.default_rng(13)
    first, second = np.repeat(rng.uniform(0, 0.3, (2, 1, 50)), 3, axis=1)
    found = sr.compare_methods(groups_of(first, second))
    assert found.endpoint.error > 0 and "no interval: the difference is the same in all seeds" in found.verdict
    assert found.outcome == "not decided" and found.record()["endpoint"]["interval"] is None


def test_several_attacks_are_compared_by_what_none_of_them_broke(tmp_path):
    rng = np.random.default_rng(9)
    ways = groups_of(*rng.uniform(0, 0.3, (2, 3, 30)))
    both = {}
    for way, results in ways.items():
        both[way] = []
        for result in results:
            weaker = result.correct["pgd"] | (rng.uniform(size=result.correct["pgd"].shape) < 0.2)
            correct = {"pgd": result.correct["pgd"], "fgsm": weaker}
            more = {"attacks": {"pgd": {"norm": "inf", "steps": 1}, "fgsm": {"norm": "inf", "steps": 1}}}
            costs = {"pgd": sr.results.costs.Costs(), "fgsm": sr.results.costs.Costs()}
            of = result.model, result.epsilons, result.indices, result.clean, correct
            both[way].append(sr.Robustness(*of, costs=costs, **more))
    found = sr.compare_methods(both)
    assert found.attack == "worst of all" and "what no attack broke" in found.verdict
    np.testing.assert_array_equal(found.areas, sr.compare_methods(ways).areas)
    pair = sr.compare(both["regular"][0], both["guided"][0])
    sr.save_results(tmp_path, [*both["regular"], *both["guided"]], comparisons=[pair, found])
    saved = json.loads((tmp_path / "results.json").read_text())["comparison"]
    assert saved["methods"] == [found.record()] and len(saved["pairs"]) == 1
    assert len(sr.load_results(tmp_path)) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ways: {"regular": ways["regular"]}, "Two ways of training"),
        (lambda ways: {**ways, "third": ways["guided"]}, "Two ways of training"),
        (lambda ways: {**ways, "guided": ways["guided"][:2]}, "same seeds"),
        (lambda ways: {way: results[:1] for way, results in ways.items()}, "One network of each kind"),
        (lambda ways: {**ways, "guided": []}, "none of them empty"),
        (lambda ways: [*ways.values()], "dictionary"),
        (lambda ways: {**ways, "guided": [network("g", [0.1] * 4)] * 3}, r"images 5 .no digest. and 4 .no digest."),
        (lambda ways: groups_of([[0.1]] * 2, [[0.2]] * 2), "two images or more"),
        (lambda ways: groups_of([[0.1, 0.2]] * 2, [[0.2, 0.2]] * 2, epsilons=[0.0]), "epsilon above 0"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change, words):
    ways = groups_of(np.full((3, 5), 0.1), np.full((3, 5), 0.2))
    with pytest.raises(ValueError, match=words) as error:
        sr.compare_methods(change(ways))
    assert "\n" not in str(error.value)


def test_a_plan_has_the_fewest_seeds_or_images_that_reach_a_width():
    varying = Components(2e-4, 4e-3, 5e-2)
    plan = plan_of(varying, 3, 100, 0.02, minutes_per_network=2, minutes_per_image=0.01)
    enough = [seeds for seeds in range(3, 200) if varying.half_width(seeds, 100) <= 0.02]
    assert plan.more_seeds.seeds == enough[0] and plan.more_seeds.images == 100
    assert plan.more_seeds.minutes == pytest.approx(2 * (2 + 1) * (enough[0] - 3))
    assert plan.more_images is None  # three seeds vary too much
    best = min(
        (2 * (2 * (seeds - 3) + 0.01 * (seeds * images - 300)), seeds, images)
        for seeds in range(3, 20)
        for images in range(100, 260)
        if varying.half_width(seeds, images) <= 0.02
    )
    assert (plan.cheapest.minutes, plan.cheapest.seeds, plan.cheapest.images) == pytest.approx(best)
    assert plan.assured.seeds > plan.more_seeds.seeds
    assert plan_of(varying, 3, 100, 0.02).cheapest is None
    still = plan_of(Components(0, 1e-3, 5e-2), 3, 1000, 0.005)
    assert still.assured.seeds > still.more_seeds.seeds, "a pilot of 3 seeds does not know that they do not vary"
    assert f"{enough[0]} seeds, 100 images" in str(plan) and "by more images: out of reach" in str(plan)
    easy = plan_of(Components(0, 1e-2, 0), 5, 100, 0.01)
    assert easy.more_images.seeds == 5 and easy.more_seeds is None
    there = plan_of(varying, 3, 100, 1.0, minutes_per_network=1)
    assert (there.cheapest.seeds, there.cheapest.images, there.cheapest.minutes) == (3, 100, 0)
    with pytest.raises(ValueError, match="half_width"):
        plan_of(varying, 3, 100, 0)
    with pytest.raises(ValueError, match="minutes_per_network"):
        plan_of(varying, 3, 100, 0.1, -1)


def test_a_comparison_is_the_pilot_of_a_plan():
    rng = np.random.default_rng(10)
    first = rng.uniform(0, 0.3, (3, 100))
    found = sr.compare_methods(groups_of(first, first + 0.02 * rng.standard_normal((3, 1))))
    low, high = found.endpoint.interval()
    plan = found.plan((high - low) / 4, minutes_per_network=1)
    assert plan.more_seeds.seeds > 3 and plan.more_seeds.minutes == 2 * (plan.more_seeds.seeds - 3)


def test_a_specification_curve_sorts_effects_and_says_what_was_chosen():
    rng = np.random.default_rng(11)
    first, noise = rng.uniform(0, 0.2, (4, 100)), 0.01 * rng.standard_normal((3, 4, 1))
    shifts, fractions = (0.05, -0.05, 0.0), (0.3, 0.5, 0.7)
    found, choices = [], {}
    for shift, fraction, each in zip(shifts, fractions, noise, strict=True):
        ways = groups_of(first, first + shift + each)
        name = f"guided mask_fraction={fraction}"
        found.append(sr.compare_methods({"regular": ways["regular"], name: ways["guided"]}))
        choices[name] = {"way": "guided", "mask_fraction": fraction}
    figure = specification_curve(found, choices, "a study")
    upper, lower = figure.axes
    drawn = [line.get_ydata()[0] for line in upper.lines if len(line.get_ydata()) == 1]
    assert drawn == pytest.approx(sorted(100 * each.endpoint.estimate for each in found))
    bars = [line.get_ydata() for line in upper.lines[:-1] if len(line.get_ydata()) == 2]
    assert bars[0] == pytest.approx([100 * end for end in found[1].endpoint.interval()])
    assert [text.get_text() for text in lower.get_yticklabels()] == [f"mask_fraction = {each}" for each in fractions]
    assert [list(line.get_xdata()) for line in lower.lines] == [[2], [0], [1]]
    with pytest.raises(ValueError, match="choices for each"):
        specification_curve(found, {}, "none")
    with pytest.raises(ValueError, match="one comparison or more"):
        specification_curve([], {})
