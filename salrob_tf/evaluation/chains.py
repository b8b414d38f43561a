"""What is run on a model under the name of an attack: itself, several, or itself twice in two dtypes."""

from __future__ import annotations

from collections.abc import Mapping

from salrob_tf.attacks.base import Link
from salrob_tf.attacks.ensemble import Ensemble
from salrob_tf.attacks.registry import Entry
from salrob_tf.models.classifier import Classifier

NEAR = 0.03  # share of its lead that may be left to an image that is attacked again in float32


def chains_of(
    classifier: Classifier, attacks: Mapping[str, Entry], craft_dtype: str, survivors_only: bool = True
) -> dict[str, tuple[Link, ...]]:
    """By label, what is run on a model, looked at before anything is written.

    Raises:
        ValueError: If the model has too few classes for one, or cannot be copied in bfloat16.
    """
    classifier.crafting(craft_dtype)
    chains = {label: attack.members(classifier) for label, attack in attacks.items()}
    for chain in chains.values():
        for link in chain:
            link.attack.check_classes(classifier.num_classes)
    return {label: _first_in(craft_dtype, chain, survivors_only) for label, chain in chains.items()}


def _first_in(dtype: str, chain: tuple[Link, ...], survivors_only: bool) -> tuple[Link, ...]:
    """A chain whose attacks search on gradients in a dtype, and in float32 what then stands and is near to falling.

    Where gradients in that dtype are poor, images stay far from falling that float32 breaks: some of those are tried.
    FGSM's one gradient is not worth the loss, and attacks that are run whole take float32.
    """
    quick = dtype != "float32"
    found = []
    for link in chain:
        if not (quick and link.attack.stepwise and link.attack.uses_gradients):
            found.append(link)
        elif len(chain) == 1 and not survivors_only:
            found.append(link._replace(dtype=dtype))
        else:
            found.append(link._replace(label=f"{link.label}-{dtype}", dtype=dtype))
            found.append(link._replace(near=min(link.near, NEAR), doubted=link.near))
    return tuple(found)


def audits_of(classifier: Classifier, attacks: Mapping[str, Entry]) -> dict[str, tuple[Link, ...]]:
    """By label, the attacks that some images meet once more, of those that have any."""
    ensembles = {label: attack for label, attack in attacks.items() if isinstance(attack, Ensemble)}
    found = {label: ensemble.auditors(classifier) for label, ensemble in ensembles.items()}
    return {label: chain for label, chain in found.items() if chain}
