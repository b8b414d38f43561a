"""The mean of differences over seeds and images, both of them drawn at random, and how far it may be off.

The difference of image n between two networks of seed s is mu + a_s + b_n + c_sn: a seed moves all images of a network,
an image moves in all networks, and the rest is of that image in that network. Its mean varies by var(a) / S +
var(b) / N + var(c) / (S N), with the degrees of freedom of Satterthwaite (1946). Tests over images alone leave out
var(a), and call networks of other seeds another way of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

CONFIDENCE, POWER = 0.95, 0.8
CAUTION = 0.7  # confidence of the limit up to which seeds may vary, where degrees of freedom are counted


@dataclass(frozen=True)
class Components:
    """Variances of the differences of single images.

    Attributes:
        seed: Of the seeds' means.
        image: Of the images' means.
        residual: Of what is left.
    """

    seed: float
    image: float
    residual: float

    def error(self, seeds: int, images: int) -> float:
        """Standard error of the mean over so many seeds and images."""
        return float(np.sqrt(self.seed / seeds + self.image / images + self.residual / (seeds * images)))

    def freedom(self, seeds: int, images: int) -> float:
        """Degrees of freedom of that standard error (Satterthwaite 1946, Eq. 17), counted with caution.

        Few seeds that happen to vary little make the error too small and its degrees of freedom too many at once: of
        three seeds, 6 to 8 % of verdicts were wrong. So the seeds' mean square is taken at its upper 70 % limit here,
        which leaves 3 to 5 % of three seeds and makes intervals of five seeds 1 to 4 % wider.
        """
        upper = max(1.0, (seeds - 1) / float(stats.chi2.ppf(1 - CAUTION, seeds - 1)))
        by_seed, by_image = upper * (images * self.seed + self.residual), seeds * self.image + self.residual
        variance = by_seed + by_image - self.residual
        if not variance:
            return float(seeds - 1)
        spread = by_seed**2 / (seeds - 1) + by_image**2 / (images - 1)
        spread += self.residual**2 / ((seeds - 1) * (images - 1))
        return float(variance**2 / spread)

    def half_width(self, seeds: int, images: int, confidence: float = CONFIDENCE) -> float:
        """Half the width of Student's interval of the mean over so many seeds and images."""
        quantile = stats.t.ppf((1 + confidence) / 2, self.freedom(seeds, images))
        return float(quantile * self.error(seeds, images))

    def detectable(self, seeds: int, images: int, power: float = POWER) -> float:
        """The smallest true difference that a two-sided test at 5 % finds so often, over so many seeds and images."""
        freedom = self.freedom(seeds, images)
        critical = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)

        def lacking(shift: float) -> float:
            other_way = np.nan_to_num(
                stats.nct.cdf(-critical, freedom, shift)
            )  # SciPy has no number for very small ones
            return float(stats.nct.sf(critical, freedom, shift) + other_way - power)

        return float(optimize.brentq(lacking, 0, 3 * critical) * self.error(seeds, images))


def components_of(differences: np.ndarray) -> Components:
    """Estimate the components from the mean squares of a two-way layout; one that comes out negative is 0.

    Args:
        differences: Of each image in each seed's pair of networks, `(S, N)`, two or more of each.
    """
    seeds, images = differences.shape
    mean, by_seed, by_image = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_seed[:, None] - by_image + mean
    of_seeds = images * np.sum((by_seed - mean) ** 2) / (seeds - 1)
    of_images = seeds * np.sum((by_image - mean) ** 2) / (images - 1)
    of_rest = np.sum(rest**2) / ((seeds - 1) * (images - 1))
    return Components(
        seed=float(max(0.0, of_seeds - of_rest) / images),
        image=float(max(0.0, of_images - of_rest) / seeds),
        residual=float(of_rest),
    )


@dataclass(frozen=True)
class Mean:
    """The mean of differences over seeds and images.

    Attributes:
        estimate: The mean.
        error: Its standard error.
        freedom: Degrees of freedom of that.
        components: What the differences vary by.
    """

    estimate: float
    error: float
    freedom: float
    components: Components

    @property
    def t(self) -> float:
        """The mean in standard errors; 0 of no difference at all."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.nan_to_num(np.divide(self.estimate, self.error), nan=0.0, posinf=np.inf, neginf=-np.inf))

    @property
    def p_value(self) -> float:
        """Of the two-sided test that the true mean is 0."""
        return float(2 * stats.t.sf(abs(self.t), self.freedom))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Student's interval of the mean."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.freedom) * self.error)
        return self.estimate - half, self.estimate + half

    def within(self, margin: float) -> bool:
        """Whether two one-sided tests at 5 % each find the true mean between -margin and margin (Schuirmann 1987)."""
        low, high = self.interval(0.9)
        return -margin < low and high < margin


def mean_of(differences: np.ndarray) -> Mean:
    """The mean of differences `(S, N)`, two or more of each, and how far it may be off."""
    components = components_of(differences)
    return Mean(
        float(differences.mean()),
        components.error(*differences.shape),
        components.freedom(*differences.shape),
        components,
    )


def largest_t(differences: np.ndarray, draws: int = 20_000, seed: int = 0) -> np.ndarray:
    """The largest of several correlated t, drawn where there is no difference: what a family of tests is held against.

    Args:
        differences: For each member of the family, differences of images in seeds, `(K, S, N)`.
        draws: How many.
        seed: Seed of the draws.

    Returns:
        Their sizes, ascending, float64 `(draws,)`: of a multivariate t with the correlation of the means and the
        fewest degrees of freedom among them (Hothorn, Bretz and Westfall 2008, section 3).
    """
    seeds, images = differences.shape[1:]
    by_seed, by_image = differences.mean(axis=2), differences.mean(axis=1)
    centred = by_seed - by_seed.mean(axis=1, keepdims=True), by_image - by_image.mean(axis=1, keepdims=True)
    # Where all that varies is the rest, it is in both terms; as both are of one sign mostly, correlations stay close.
    covariance = sum(part @ part.T / (part.shape[1] - 1) / part.shape[1] for part in centred)
    sizes = np.sqrt(np.diag(covariance))
    varies = sizes > 0
    if not varies.any():
        return np.zeros(draws)
    correlation = (covariance / np.outer(sizes, sizes).clip(np.finfo(float).tiny))[np.ix_(varies, varies)]
    freedom = min(components_of(each).freedom(seeds, images) for each in differences[varies])
    drawn = stats.multivariate_t(shape=correlation, df=freedom, allow_singular=True, seed=seed).rvs(draws)
    return np.sort(np.abs(drawn.reshape(draws, -1)).max(axis=1))
