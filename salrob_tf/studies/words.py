"""What options of scripts may be, in words, from the registries."""

from __future__ import annotations

from collections.abc import Iterable

from salrob_tf.attacks.registry import attack_names
from salrob_tf.data.sources import SOURCES
from salrob_tf.models.networks import PRETRAINED
from salrob_tf.saliency.recipes import RECIPES
from salrob_tf.studies.runs import NAMES


def valid(option: str) -> str:
    """What may be given for `attacks`, `data`, `recipe`, `weights` (a network that takes them) or a key of `NAMES`."""
    names: dict[str, Iterable[str]] = {"data": SOURCES, "recipe": RECIPES, "weights": PRETRAINED, **NAMES}
    return attack_names() if option == "attacks" else ", ".join(names[option])
