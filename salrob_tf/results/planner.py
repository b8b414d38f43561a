"""How many seeds and images a study needs, from the variances that a pilot found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scipy import stats

from salrob_tf.checks import check_number
from salrob_tf.results.crossed import Components

MOST_SEEDS, MOST_IMAGES = 1000, 1_000_000
ASSURANCE = 0.8


@dataclass(frozen=True)
class Option:
    """One way to the width.

    Attributes:
        seeds: Networks of each kind in all, those of the pilot among them.
        images: Images in all.
        minutes: What it takes beyond the pilot: training, and attacking all that was not attacked yet.
    """

    seeds: int
    images: int
    minutes: float

    def __str__(self) -> str:
        takes = f", about {self.minutes:.0f} minutes more" if self.minutes else ""
        return f"{self.seeds} seeds, {self.images:,} images{takes}"


@dataclass(frozen=True)
class Plan:
    """What brings the 95 % interval of a difference to a wished width.

    Attributes:
        half_width: The wished half width, as a share.
        more_seeds: With the pilot's images, or `None` where up to 1,000 seeds are not enough.
        more_images: With the pilot's seeds, or `None` where no number of images is enough.
        cheapest: Of all, the one that takes the fewest minutes, or `None`, also where nothing costs any.
        assured: The same as `more_seeds` if the seeds vary as much as they may by the pilot, at its 80 % upper limit
            (Browne 1995): a pilot of three seeds tells their variance badly.
    """

    half_width: float
    more_seeds: Option | None
    more_images: Option | None
    cheapest: Option | None
    assured: Option | None

    def __str__(self) -> str:
        ways = {"by more seeds": self.more_seeds, "by more images": self.more_images}
        ways |= {"at least cost": self.cheapest} if self.cheapest else {}
        ways["by more seeds, 80 % assured"] = self.assured
        lines = [f"{way}: {option or 'out of reach'}" for way, option in ways.items()]
        return "\n".join([f"For a 95 % interval of {100 * self.half_width:g} points to each side:", *lines])


def plan_of(
    components: Components,
    seeds: int,
    images: int,
    half_width: float,
    minutes_per_network: float = 0.0,
    minutes_per_image: float = 0.0,
) -> Plan:
    """Plan a study.

    Args:
        components: What differences vary by, from a pilot.
        seeds: Networks of each kind in the pilot, 2 or more.
        images: Images in the pilot, 2 or more.
        half_width: Wished half width of the 95 % interval, as a share, above 0.
        minutes_per_network: What training one network takes, 0 or more.
        minutes_per_image: What attacking one image takes, 0 or more.

    Returns:
        A `Plan`.

    Raises:
        ValueError: If a number is out of its range.
    """
    check_number("half_width", half_width, above=0)
    for name, minutes in {"minutes_per_network": minutes_per_network, "minutes_per_image": minutes_per_image}.items():
        check_number(name, minutes, low=0)

    def option(some_seeds: int | None, some_images: int | None) -> Option | None:
        if some_seeds is None or some_images is None:
            return None
        attacked = some_seeds * some_images - seeds * images
        minutes = 2 * (minutes_per_network * (some_seeds - seeds) + minutes_per_image * attacked)
        return Option(some_seeds, some_images, minutes)

    def seeds_for(varying: Components, some_images: int) -> int | None:
        return _fewest(lambda many: varying.half_width(many, some_images) <= half_width, seeds, MOST_SEEDS)

    def images_for(some_seeds: int) -> int | None:
        return _fewest(lambda many: components.half_width(some_seeds, many) <= half_width, images, MOST_IMAGES)

    # Of the mean square, not of the component: that is 0 in many small pilots, which know least of it.
    upper = float((seeds - 1) / stats.chi2.ppf(1 - ASSURANCE, seeds - 1))
    residual = components.residual
    cautious = replace(components, seed=(upper * (images * components.seed + residual) - residual) / images)
    options = [option(many, images_for(many)) for many in range(seeds, min(MOST_SEEDS, 20 * seeds) + 1)]
    reached, costs = [each for each in options if each], minutes_per_network or minutes_per_image
    return Plan(
        half_width,
        more_seeds=option(seeds_for(components, images), images),
        more_images=option(seeds, images_for(seeds)),
        cheapest=min(reached, key=lambda each: (each.minutes, each.seeds), default=None) if costs else None,
        assured=option(seeds_for(cautious, images), images),
    )


def _fewest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """About the smallest number from `low` to `high` that is enough, `None` if none is.

    More images may be worse: what is left then are the seeds, of few degrees of freedom. So numbers are doubled first.
    """
    before = low - 1
    while not enough(low):
        if low == high:
            return None
        before, low = low, min(2 * low, high)
    while low - before > 1:
        middle = (before + low) // 2
        before, low = (before, middle) if enough(middle) else (middle, low)
    return low
