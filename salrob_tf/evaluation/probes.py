"""Whether what an attack left can be believed: a few images meet it under conditions in which it ought to succeed.

The conditions are those of Carlini et al. 2019 ("On evaluating adversarial robustness", section 4) and the indicators
of attack failure of Pintor et al. 2022. What they break of images that no attack of the run broke, at the epsilon where
about half of them stand, shows that all accuracies of the run are too high. That none does so proves no robustness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.square import Square
from salrob_tf.checks import epsilon_text
from salrob_tf.evaluation.attempts import attempt
from salrob_tf.evaluation.brackets import BALL_TOLERANCE
from salrob_tf.evaluation.counts import Counts, Draws
from salrob_tf.evaluation.plans import Plan
from salrob_tf.evaluation.search import Sweep
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, Flag

BUDGET = 0.12  # gradients of probes at most, as a share of the sweep's
# Of what is left of it, what each may take. All but bounds may take more for the fewest images that say something.
SHARES = {"bounds": 0.2, "unbounded": 0.3, "silent success": 0.3, "more steps": 0.5, "second loss": 1.0}
PASSES = 0.3  # forward passes of probes at most, for each gradient of the sweep: a pass costs a third of a gradient
QUERIES, FEWEST_QUERIES = 500, 100  # of Square
FEWEST = 10  # images, of fewer of which a probe says nothing
LEVEL = 0.005
STANDING = 0.05  # share of images that an attack may leave where every image can be made any other
MISSED = 0.02  # share of what gradients left that others may break: plain PGD misses that much, too


@dataclass(frozen=True)
class Probe:
    """What a probe found, as the description of a model holds it.

    Attributes:
        id: What was looked at.
        images: How many images it was looked at on; 0 where that would have cost too much, or could not be done.
        figure: What was measured.
        threshold: From where on it is a flag.
        flag: The flag, if it is one.
        concerns: Labels of the attacks that a flag concerns; all of the run where there are none.
    """

    id: str
    images: int
    figure: float = 0.0
    threshold: float = 0.0
    flag: Flag | None = None
    concerns: tuple[str, ...] = ()

    @property
    def flags(self) -> list[Flag]:
        """The flag, for each attack that it concerns."""
        found = [] if self.flag is None else [self.flag]
        return [replace(flag, attack=label) for flag in found for label in self.concerns] if self.concerns else found

    @classmethod
    def found(
        cls, id: str, images: int, figure: float, threshold: float, severity: str, meaning: str, remedy: str
    ) -> Probe:
        """A probe that is a flag."""
        return cls(id, images, figure, threshold, Flag(id, severity, figure, threshold, meaning, remedy))

    def record(self) -> dict[str, Any]:
        """The probe as `results.json` holds it."""
        outcome = "not run" if not self.images else "passed" if self.flag is None else self.flag.severity
        return {
            "id": self.id,
            "outcome": outcome,
            "images": self.images,
            "figure": self.figure,
            "threshold": self.threshold,
        }


def strongest(plan: Plan, left: Mapping[str, np.ndarray]) -> tuple[str | None, Attack | None]:
    """Of a run's attacks that go along gradients step by step the one that left least, and its label; or nothing."""
    stepwise = [label for label, each in plan.attacks.items() if each.stepwise and each.uses_gradients]
    label = min(stepwise, key=lambda label: int(left[label].sum()), default=None)
    return label, None if label is None else plan.attacks[label]


def telling(epsilons: np.ndarray, standing: np.ndarray) -> int | None:
    """The place of the radius above 0 at which about half of some images stand, boolean `(K, N)`; `None` without any.

    Of several that are as near, the largest: more can be missed there.
    """
    above = np.array([place for place in np.argsort(-epsilons, kind="stable") if epsilons[place] > 0], np.int64)
    return int(above[np.abs(standing[above].mean(axis=1) - 0.5).argmin()]) if standing[above].size else None


class Probes:
    """Probes of one run on one model.

    Args:
        plan: What was done.
        images: Some of its images, `(n, height, width, channels)`, all classified correctly as they are.
        labels: Their labels, `(n,)`.
        left: What each attack left of them, by label, boolean `(K, n)`.
        gradients: How many gradients the sweep took.
        draws: How often the model is asked.
    """

    def __init__(
        self,
        plan: Plan,
        images: np.ndarray,
        labels: np.ndarray,
        left: Mapping[str, np.ndarray],
        gradients: int,
        draws: Draws,
    ) -> None:
        self.plan, self.images, self.labels, self.draws = plan, images, labels, draws
        self.budget, self.passes = int(BUDGET * gradients), int(PASSES * gradients)
        self.counts = Counts()
        self.label, _ = strongest(plan, left)
        standing = np.all(list(left.values()), axis=0)
        self.place = telling(plan.ascending, standing)
        self.standing = np.flatnonzero(standing[self.place]) if self.place is not None else np.zeros(0, np.int64)

    @property
    def attack(self) -> Attack:
        """The attack of the run that left least, of those that go along gradients step by step."""
        return self.plan.attacks[self.label or ""]

    def run(self) -> Iterator[Probe]:
        """All probes that the run gives cause for; nothing of a run without an attack that goes step by step."""
        if self.label is None or self.place is None or len(self.images) < FEWEST:
            return
        probes: list[Callable[[], Probe]] = [self.bounds, self.unbounded]
        if not self.plan.survivors_only:
            probes.append(self.silent)
        for probe in (*probes, self.longer, self.second_loss, self.black_box):
            yield probe()

    def unbounded(self) -> Probe:
        """Where the ball is the whole range no image should stand; at half of it accuracy should be that of chance."""
        attack, whole = self.attack, 1.0 if self.attack.norm == np.inf else float(np.sqrt(self.images[0].size))
        radii = [0.5, 1.0] if attack.norm == np.inf else [whole]
        rows = self._affordable("unbounded", np.arange(len(self.images)), len(radii) * self._sweep(attack))
        if not len(rows) or (sweep := self._attacked(attack, rows, radii)) is None:
            return Probe("unbounded", 0)
        stood = [int(np.sum(sweep.brackets.broken > place)) for place in range(len(radii))]
        allowed = [max(STANDING, 1 / self.plan.classifier.num_classes), STANDING][-len(radii) :]
        tests = [stats.binom.sf(count - 1, len(rows), share) for count, share in zip(stood, allowed, strict=True)]
        worst = int(np.argmin(tests))
        share = stood[worst] / len(rows)
        if tests[worst] > LEVEL:
            return Probe("unbounded", len(rows), share, allowed[worst])
        where = "is the whole range of images" if radii[worst] == whole else "leads every pixel to grey"
        meaning = (
            f"{self.label} leaves {share:.0%} of {len(rows)} images where the ball {where}: its gradients lead astray"
        )
        severity = NOT_BELIEVED if share >= 0.5 else DOUBTFUL
        found = Probe.found("unbounded", len(rows), share, allowed[worst], severity, meaning, self._without)
        labels = tuple(label for label, each in self.plan.attacks.items() if each.uses_gradients)
        return replace(found, concerns=labels)  # what is seen of the strongest is so of the others

    def silent(self) -> Probe:
        """Judged after every step, an attack should break no more images than after the last (Pintor et al. 2022)."""
        meaning = "{0} passes by adversarials on its way: judged after every step it breaks {1} of {2} images more"
        return self._broken_more("silent success", self.attack, meaning, "Attack only what stands (`survivors_only`)")

    def longer(self) -> Probe:
        """Twice the steps, from another start, should change nothing (Carlini et al. 2019; Pintor et al. 2022)."""
        longer = replace(self.attack, steps=2 * self.attack.steps)
        meaning = "{0} has not converged: in twice its steps it breaks {1} of {2} images that no attack broke"
        return self._broken_more("more steps", longer, meaning, "Give it more steps, or run worst-case or autoattack")

    def second_loss(self) -> Probe:
        """A margin loss should find no more than cross-entropy did (Carlini et al. 2019)."""
        if not self._one_loss:
            return Probe("second loss", 0)
        other = replace(self.attack, loss="margin")
        meaning = f"with a margin loss {{0}} breaks {{1}} of {{2}} images that no attack broke at {self._radius}"
        return self._broken_more("second loss", other, meaning, f"Believe {other.label}, worst-case or autoattack")

    def black_box(self) -> Probe:
        """An attack without gradients should break next to nothing of what gradients left (Athalye et al. 2018)."""
        queries = min(QUERIES, self.passes // max(1, len(self.standing) * self.draws.judging))
        run = any(isinstance(link.attack, Square) for chain in self.plan.chains.values() for link in chain)
        if run or queries < FEWEST_QUERIES or len(self.standing) < FEWEST:
            return Probe("black box", 0)
        sweep = self._attacked(Square(self.attack.norm, steps=queries), self.standing, [self._epsilon])
        if sweep is None:
            return Probe("black box", 0)
        broken, images = int(np.sum(sweep.brackets.broken == 0)), len(self.standing)
        if stats.binom.sf(broken - 1, images, MISSED) > LEVEL:
            return Probe("black box", images, broken / images, MISSED)
        meaning = (
            f"square, which takes no gradient, breaks {broken} of {images} images in {queries} queries that no attack "
            f"broke at {self._radius}"
        )
        severity = NOT_BELIEVED if broken >= images / 2 else DOUBTFUL
        return Probe.found("black box", images, broken / images, MISSED, severity, meaning, self._without)

    def bounds(self) -> Probe:
        """What it crafts should be within its ball and in [0, 1], measured from outside (Carlini et al. 2019)."""
        attack, allowed = self.attack, 10 * BALL_TOLERANCE * max(1.0, self._epsilon)
        rows = self._affordable("bounds", np.arange(min(FEWEST, len(self.images))), self._try(attack))
        if not len(rows):
            return Probe("bounds", 0)
        images = self.images[rows]
        with suppress(ValueError):
            crafted = attack(
                self.plan.classifier, images, self.labels[rows], self._epsilon, seed=self.plan.seed,
                batch_size=self.plan.batch_size, draws=self.draws.gradient,
            )  # fmt: skip
            self.counts.gradient_evaluations += len(rows) * self._try(attack)
            changes = (crafted.astype(np.float64) - images).reshape(len(rows), -1)
            size = float(np.linalg.norm(changes, ord=attack.norm, axis=1).max())
            outside = max(0.0, size - self._epsilon, -float(crafted.min()), float(crafted.max()) - 1)
            if outside <= allowed:
                return Probe("bounds", len(rows), outside, allowed)
            meaning = f"{self.label} leads outside of its ball or of [0, 1] by {outside:.2g}: that is no adversarial"
            remedy = "Project what each of its steps gives"
            found = Probe.found("bounds", len(rows), outside, allowed, NOT_BELIEVED, meaning, remedy)
            return replace(found, concerns=(str(self.label),))
        return Probe("bounds", 0)

    def _broken_more(self, id: str, attack: Attack, meaning: str, remedy: str) -> Probe:
        """What an attack breaks of images that stand; a flag if that is more than the error of their share."""
        rows = self._affordable(id, self.standing, self._sweep(attack))
        if not len(rows) or (sweep := self._attacked(attack, rows, [self._epsilon])) is None:
            return Probe(id, 0)
        broken, share = int(np.sum(sweep.brackets.broken == 0)), len(self.standing) / len(self.images)
        more = share * broken / len(rows)
        error = float(stats.norm.ppf(0.975) * np.sqrt(max(share * (1 - share), 0.01) / len(self.images)))
        if more <= error or broken < 2:
            return Probe(id, len(rows), more, error)
        severity = NOT_BELIEVED if broken > len(rows) / 2 else DOUBTFUL
        said = meaning.format(self.label, broken, len(rows))
        return Probe.found(id, len(rows), more, error, severity, said, remedy)

    @property
    def _epsilon(self) -> float:
        return float(self.plan.ascending[self.place])

    @property
    def _radius(self) -> str:
        return f"epsilon {epsilon_text(self._epsilon)}"

    @property
    def _without(self) -> str:
        attacks = self.plan.attacks.items()
        alike = (label for label, each in attacks if not each.uses_gradients and each.norm == self.attack.norm)
        known = next(alike, None)
        return (
            f"Believe {known}, which takes no gradient" if known else "Attack it with square, which takes no gradient"
        )

    @property
    def _one_loss(self) -> bool:
        """Whether what left least follows the cross-entropy, as all of the run that follow a loss."""
        each_loss = [each.maximises_cross_entropy for each in self.plan.attacks.values() if each.takes_loss]
        return self.attack.maximises_cross_entropy and all(each_loss)

    def _try(self, attack: Attack) -> int:
        """How many gradients an attack takes on an image in one try."""
        return attack.steps * attack.gradients_per_step(self.plan.classifier.num_classes) * self.draws.gradient

    def _sweep(self, attack: Attack) -> int:
        """The same at one epsilon in all its tries, as many as it takes at an image that stands."""
        return attack.tries(self.plan.classifier.num_classes) * self._try(attack)

    def _affordable(self, id: str, rows: np.ndarray, gradients: int) -> np.ndarray:
        """As many of some rows as a probe may attack with so many gradients each; none where they are too few."""
        left = self.budget - self.counts.gradient_evaluations
        most = int(SHARES[id] * left / gradients)
        kept = FEWEST * self._sweep(self.attack) if self._one_loss else 0  # for the second loss
        if id != "bounds" and most < FEWEST and FEWEST * gradients <= left - kept:
            most = FEWEST
        return rows[:most] if len(rows[:most]) >= FEWEST else rows[:0]

    def _attacked(self, attack: Attack, rows: np.ndarray, radii: list[float]) -> Sweep | None:
        """A sweep over some images, or nothing where a gradient or a logit is not finite."""
        plan = self.plan
        links = [link for link in plan.chains[self.label or ""] if link.attack == self.attack]
        dtype = links[-1].dtype if attack.uses_gradients else "float32"  # the last that what nearly fell has met
        return attempt(
            attack, plan.classifier, self.images[rows], self.labels[rows], radii, seed=plan.seed + 1,
            batch_size=plan.batch_size, dtype=dtype, draws=self.draws, counts=self.counts,
        )  # fmt: skip
