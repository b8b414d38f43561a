"""Which images survive which attack at which epsilon (K, section 3): everything else derives from this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from salrob_tf.attacks import NORMS, Attack, make_attack
from salrob_tf.classifier import as_classifier
from salrob_tf.datasets import check_labels, fingerprint

DEFAULT_ATTACKS = ("fgsm", "bim", "pgd", "mim")
DEFAULT_EPSILONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Robustness:
    """What became of each image of one model under each attack.

    Attributes:
        model: Name of the model.
        epsilons: Radii of the balls in the user's order, float64 `(K,)`, in the units of the images.
        indices: Index of each image in its dataset, int64 `(N,)`.
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        correct: Per label of an attack, whether image n was classified correctly under epsilon k, `(K, N)`.
        attacks: Per label, the settings of the attack.
        seconds: Per label, seconds taken.
        gradient_evaluations: Per label, number of gradients of single images.
        seed: Seed of the random starts.
        sha256: Identity of images and labels.
        path: Where the model was loaded from, or `None`.
    """

    model: str
    epsilons: np.ndarray
    indices: np.ndarray
    clean: np.ndarray
    correct: dict[str, np.ndarray]
    attacks: dict[str, dict[str, Any]]
    seconds: dict[str, float] = field(default_factory=dict)
    gradient_evaluations: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    sha256: str = ""
    path: str | None = None

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the images as they are, in [0, 1]."""
        return float(self.clean.mean())

    def accuracy(self, attack: str) -> np.ndarray:
        """Robust accuracy under an attack for each epsilon, `(K,)`, in [0, 1].

        Raises:
            ValueError: If that attack was not run.
        """
        if attack not in self.correct:
            raise ValueError(f"Unknown attack. Valid here: {', '.join(self.correct)}. Received: attack={attack!r}")
        return self.correct[attack].mean(axis=1)

    def interval(self, attack: str) -> np.ndarray:
        """95 % intervals of `accuracy(attack)`, `(K, 2)`; see `accuracy_interval`."""
        self.accuracy(attack)
        return np.array([accuracy_interval(row) for row in self.correct[attack]])

    def __str__(self) -> str:
        lines = [f"{self.model}: clean accuracy {self.clean_accuracy:.1%} on {len(self.clean)} images"]
        lines.append(f"{'epsilon':10}" + "".join(f"{epsilon:8.4g}" for epsilon in self.epsilons))
        lines += [f"{label:10}" + "".join(f"{a:8.1%}" for a in self.accuracy(label)) for label in self.correct]
        return "\n".join(lines)


def evaluate(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    attacks: Sequence[str | Attack] = DEFAULT_ATTACKS,
    epsilons: Sequence[float] | np.ndarray = DEFAULT_EPSILONS,
    *,
    norm: float = np.inf,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    indices: np.ndarray | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Robustness:
    """Attack a model at every epsilon, each epsilon independently and every image (as in K, Figures 1 and 2).

    Args:
        model: Anything that `Classifier` takes.
        images: Floats in [0, 1], `(N, height, width, channels)`.
        labels: True labels, integers `(N,)`.
        attacks: Names of attacks, or `Attack` objects, which bring settings of their own.
        epsilons: Radii of the balls, 0 or more, in the units of the images.
        norm: `np.inf` or 2, for attacks given by name.
        steps: Steps of the iterative attacks given by name.
        restarts: Random restarts of PGD where given by name.
        seed: Seed of random starts, the same for every model.
        batch_size: Images per gradient.
        indices: Index of each image in its dataset, by default 0 to N - 1: random starts go with it.
        name: What results call the model.
        progress: Called after each batch with the attack's label, image-epsilon pairs done, and all of them.

    Returns:
        A `Robustness`.

    Raises:
        ValueError: If an argument is not valid: one line says which, and what is.
    """
    classifier = as_classifier(model)
    images = classifier.check(images)
    labels = check_labels(labels, len(images), classifier.num_classes)
    radii = check_epsilons(epsilons)
    if norm not in NORMS.values():
        raise ValueError(f"`norm` must be np.inf or 2. Received: norm={norm}")
    if seed < 0 or batch_size < 1:
        raise ValueError(f"`seed` must be 0 or more, `batch_size` 1 or more. Received: {seed=}, {batch_size=}")
    chosen = [make_attack(attack, norm=norm, steps=steps, restarts=restarts) for attack in attacks]
    by_label = {attack.label: attack for attack in chosen}
    if not chosen or len(by_label) != len(chosen):
        raise ValueError(
            f"`attacks` must be one or more, each once. Received: attacks={[attack.label for attack in chosen]}"
        )
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    if indices.shape != labels.shape:
        raise ValueError(f"`indices` must be one per image. Received: shape={indices.shape}")

    clean = classifier.predict(images, batch_size) == labels
    correct: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for label, attack in by_label.items():
        correct[label] = np.ones((len(radii), len(images)), bool)
        began, done = time.perf_counter(), 0
        for k, epsilon in enumerate(radii):
            for start in range(0, len(images), batch_size):
                rows = slice(start, start + batch_size)
                for restart in range(attack.restarts):
                    adversarial = attack(
                        classifier,
                        images[rows],
                        labels[rows],
                        epsilon,
                        seed=seed,
                        indices=indices[rows],
                        restart=restart,
                        batch_size=batch_size,
                    )
                    correct[label][k, rows] &= classifier.predict(adversarial, batch_size) == labels[rows]
                done += len(images[rows])
                if progress:
                    progress(label, done, correct[label].size)
        seconds[label] = time.perf_counter() - began
    return Robustness(
        model=name or classifier.name,
        epsilons=radii,
        indices=indices,
        clean=clean,
        correct=correct,
        attacks={label: _settings(attack) for label, attack in by_label.items()},
        seconds=seconds,
        gradient_evaluations={
            label: correct[label].size * attack.steps * attack.restarts for label, attack in by_label.items()
        },
        seed=seed,
        sha256=fingerprint(images, labels),
        path=classifier.path,
    )


def accuracy_interval(correct: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of an accuracy (Wilson 1927).

    Args:
        correct: Outcome of each image, boolean `(N,)`.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].
    """
    interval = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def check_epsilons(epsilons: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return radii as a float64 array `(K,)`, in their order.

    Raises:
        ValueError: If there are none, or one is negative, NaN or infinite.
    """
    radii = np.atleast_1d(np.asarray(epsilons, np.float64))
    if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & np.isfinite(radii)):
        raise ValueError(f"`epsilons` must be one or more numbers, 0 or more. Received: epsilons={epsilons}")
    return radii


def check_comparable(first: Robustness, second: Robustness) -> None:
    """Refuse two results that are not of the same images, attacks, settings, epsilons and seed.

    Raises:
        ValueError: If they differ, naming in what.
    """
    same = {
        "images": first.sha256 == second.sha256 and np.array_equal(first.indices, second.indices),
        "epsilons": np.array_equal(first.epsilons, second.epsilons),
        "attacks or their settings": first.attacks == second.attacks,
        "seeds": first.seed == second.seed,
    }
    different = [what for what, equal in same.items() if not equal]
    if different:
        raise ValueError(f"{first.model} and {second.model} cannot be compared: their {', '.join(different)} differ")


def _settings(attack: Attack) -> dict[str, Any]:
    norm = next(text for text, value in NORMS.items() if value == attack.norm)
    return {**asdict(attack), "norm": norm, "relative_step": attack.step_size(1.0)}
