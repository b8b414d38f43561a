"""Which images survive which attack at which epsilon (Karkehabadi 2023, section 3): all else derives from this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salrob_tf.checks import as_array, check_whole, epsilon_text, shown
from salrob_tf.results.audits import Audit
from salrob_tf.results.costs import Costs, Member
from salrob_tf.results.flags import Flag, mildest, worst
from salrob_tf.results.spread import accuracy_interval

WORST = "worst of all"  # what none of several attacks broke, as if it were an attack
LONGEST_NAME = 1000
TELLING = {"unbounded", "more steps", "second loss", "black box", "transfer"}  # checks that masked networks fail
KINDS = {  # what an outcome's parts are that are no arrays
    "correct": (dict, "a dictionary, by attack"),
    "attacks": (dict, "a dictionary, by attack"),
    "costs": (dict, "a dictionary, by attack"),
    "sha256": (str, "text"),
    "path": (str | None, "text or None"),
    "description": (dict, "a dictionary"),
    "flags": (tuple | list, "a tuple of flags"),
    "members": (dict, "a dictionary, by attack"),
    "audits": (dict, "a dictionary, by attack"),
}


@dataclass(frozen=True, eq=False)
class Robustness:
    """What became of each image of one model under each attack.

    Example:
        >>> result = sr.evaluate(network, images, labels, "fgsm", [0.05, 0.1])
        >>> result.correct["fgsm"].shape, result.accuracy("fgsm").shape, result.interval("fgsm").shape
        ((2, 64), (2,), (2, 2))

    Attributes:
        model: Name of the model.
        epsilons: Radii of the balls in the user's order, float64 `(K,)`, in the units of the images.
        indices: Index of each image in its dataset, int64 `(N,)`.
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        correct: Per label of an attack, whether image n was classified correctly under epsilon k, `(K, N)`.
        attacks: Per label of an attack, its settings and those of its sweep.
        costs: Per label of an attack, what it cost, `Costs`.
        seed: Seed of the random starts.
        sha256: Identity of images and labels.
        path: Where the model was loaded from, or `None`.
        description: What was found out about the model; see `inspect`.
        flags: What speaks against these results.
        members: Per label of an ensemble, its attacks in their order, `Member`.
        audits: Per label of an ensemble whose misses were looked for, what was found, `Audit`.

    Raises:
        ValueError: If an argument is of another kind, or they do not fit together.
    """

    model: str
    epsilons: np.ndarray
    indices: np.ndarray
    clean: np.ndarray
    correct: dict[str, np.ndarray]
    attacks: dict[str, dict[str, Any]]
    costs: dict[str, Costs] = field(default_factory=dict)
    seed: int = 0
    sha256: str = ""
    path: str | None = None
    description: dict[str, Any] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    members: dict[str, tuple[Member, ...]] = field(default_factory=dict)
    audits: dict[str, Audit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not is_printable(self.model):
            raise ValueError(
                f"`model` must be of printable characters, {LONGEST_NAME} at most. Received: model={shown(self.model)}"
            )
        check_whole("seed", self.seed)
        for name, (kind, what) in KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"`{name}` must be {what}. Received: {name}={shown(getattr(self, name))}")
        if not all(isinstance(flag, Flag) for flag in self.flags):
            raise ValueError(f"`flags` must be flags. Received: flags={shown(self.flags)}")
        if not all(isinstance(cost, Costs) for cost in self.costs.values()):
            raise ValueError(f"`costs` must be Costs, by attack. Received: costs={shown(self.costs)}")
        if self.description and not {"summary", "deterministic"} <= set(self.description):
            raise ValueError(
                "`description` must be empty or hold a summary, and whether the model is deterministic. "
                f"Received: description={shown(self.description)}"
            )
        if not all(isinstance(member, Member) for members in self.members.values() for member in members):
            raise ValueError(f"`members` must be Members, by attack. Received: members={shown(self.members)}")
        if not all(isinstance(audit, Audit) for audit in self.audits.values()):
            raise ValueError(f"`audits` must be Audits, by attack. Received: audits={shown(self.audits)}")
        if not self.correct or set(self.correct) != set(self.attacks):
            raise ValueError(
                "`correct` must hold a matrix, and `attacks` settings, for the same labels, one or more. "
                f"Received: correct of {shown(list(self.correct))}, attacks of {shown(list(self.attacks))}"
            )
        samples, radii = as_array(self.clean, "clean").shape, as_array(self.epsilons, "epsilons").shape
        if len(samples) != 1 or not samples[0] or len(radii) != 1 or not radii[0]:
            raise ValueError(
                "There must be outcomes `clean` (N,) of one image or more, and one or more `epsilons` (K,). "
                f"Received: clean={shown(self.clean)}, epsilons={shown(self.epsilons)}"
            )
        expected: dict[str, tuple[Any, str, tuple[int, ...]]] = {
            "epsilons": (self.epsilons, "fiu", radii),
            "indices": (self.indices, "iu", samples),
            "clean": (self.clean, "b", samples),
            **{label: (matrix, "b", (*radii, *samples)) for label, matrix in self.correct.items()},
        }
        for name, (values, kinds, shape) in expected.items():
            if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or values.shape != shape:
                what = {"fiu": "numbers", "iu": "integers", "b": "booleans"}[kinds]
                raise ValueError(f"`{name}` must be an array of {what} {shape}. Received: {name}={shown(values)}")

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the images as they are, in [0, 1]."""
        return float(self.clean.mean())

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """`correct`, and where there are several attacks, as `"worst of all"`, what none of them broke.

        What counts is the worst case of each image (Croce and Hein 2020, section 5).
        """
        several = len(self.correct) > 1
        return {**self.correct, **({WORST: np.all(list(self.correct.values()), axis=0)} if several else {})}

    @property
    def after_each(self) -> tuple[Member, ...]:
        """What is left after each attack and those before it, and what it cost; none of a single attack."""
        if len(self.correct) < 2:
            return ()
        left = np.logical_and.accumulate(list(self.correct.values())).mean(axis=2).tolist()
        nothing = Costs()
        return tuple(
            Member(label, tuple(accuracy), self.costs.get(label, nothing))
            for label, accuracy in zip(self.correct, left, strict=True)
        )

    def accuracy(self, attack: str) -> np.ndarray:
        """Robust accuracy under an attack, or `"worst of all"`, for each epsilon, `(K,)`, in [0, 1].

        Raises:
            ValueError: If that attack was not run.
        """
        return self._left(attack).mean(axis=1)

    def interval(self, attack: str) -> np.ndarray:
        """95 % intervals of `accuracy(attack)`, `(K, 2)`; see `accuracy_interval`."""
        return np.array([accuracy_interval(row) for row in self._left(attack)])

    def _left(self, attack: str) -> np.ndarray:
        if isinstance(attack, str) and attack in self.correct:
            return self.correct[attack]
        curves = self.curves
        if attack == WORST and attack in curves:
            return curves[attack]
        raise ValueError(f"Unknown attack. Valid here: {', '.join(curves)}. Received: attack={shown(attack)}")

    def doubt(self, attack: str) -> str | None:
        """The gravest severity of what speaks against the accuracies under an attack, `None` if nothing does.

        What none of several attacks broke is as doubtful as the least doubtful of them.
        """
        if attack == WORST:
            return mildest(map(self.doubt, self.correct))
        return worst(flag for flag in self.flags if flag.attack in (None, attack))

    def trust(self, attack: str) -> str:
        """What checks say of the accuracies under an attack, in a word.

        It is `"no sign of masking"`, which is no proof, `"doubtful"`, `"not to be believed"`, or `"not checked"` where
        the run was too cheap for any probe, or what is saved is of an earlier version.
        """
        passed = {probe["id"] for probe in self._checks.get("probes", []) if probe["outcome"] == "passed"}
        return self.doubt(attack) or ("no sign of masking" if passed & TELLING else "not checked")

    @property
    def checks(self) -> str:
        """What was looked at to see whether attacks can be believed, with outcomes and cost, in a line."""
        outcomes: dict[str, list[str]] = {}
        for probe in self._checks.get("probes", []):
            outcomes.setdefault(probe["outcome"], []).append(probe["id"])
        said = "; ".join(f"{outcome}: {', '.join(dict.fromkeys(ids))}" for outcome, ids in outcomes.items())
        if not said:
            return "checks: none"
        spent, share = self._checks["gradient_evaluations"], self._checks["share"]
        return f"checks: {said} ({spent:,} gradients, {share:.0%} of the sweep's)"

    @property
    def looked_at(self) -> bool:
        """Whether anything was looked at to see whether attacks can be believed."""
        return bool(self._checks.get("probes"))

    @property
    def _checks(self) -> dict[str, Any]:
        return self.description.get("checks", {})

    def __str__(self) -> str:
        lines = [f"{self.model}: clean accuracy {self.clean_accuracy:.1%} on {len(self.clean)} images"]
        if self.description:
            lines.append(self.description["summary"])
            if not self.description["deterministic"]:
                judging = self.description.get("draws", {}).get("judging", 1)
                lines[-1] += f"; NOT deterministic, judged by a majority of {judging} draws"
        labels = [*self.curves, *(f"  {member.attack}" for each in self.members.values() for member in each)]
        width = max(10, *map(len, labels))
        lines.append(f"{'epsilon':{width}}" + "".join(f"{epsilon_text(epsilon):>10}" for epsilon in self.epsilons))
        for label in self.curves:
            doubt = f"  {doubt}" if (doubt := self.doubt(label)) else ""
            for member in self.members.get(label, ()):
                lines.append(f"{'  ' + member.attack:{width}}" + "".join(f"{a:10.1%}" for a in member.accuracy))
            lines.append(f"{label:{width}}" + "".join(f"{a:10.1%}" for a in self.accuracy(label)) + doubt)
        audits = [f"{label}: {audit}" for label, audit in self.audits.items()]
        looked = [self.checks] if self.looked_at else []
        return "\n".join([*lines, *audits, *looked, *map(str, self.flags)])


def is_printable(name: str) -> bool:
    """Whether a name can stand in a line of text and in any file."""
    return name.isprintable() and len(name) <= LONGEST_NAME
