"""Every choice of saliency-guided training that the papers make differently or leave open.

Karkehabadi 2023 is "Does saliency-based training bring robustness for deep neural networks in image classification?";
it follows Ismail, Corrada Bravo and Feizi 2021, "Improving deep learning interpretability by saliency guided training"
(NeurIPS). Where they differ or say nothing, a `Recipe` says what is done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

import keras

from salrob_tf.checks import check_choice, check_number, check_whole

Seed: TypeAlias = "int | keras.random.SeedGenerator"


@dataclass(frozen=True)
class Recipe:
    """Every choice of saliency-guided training that the papers make differently or leave open.

    Example:
        >>> recipe = sr.Recipe(ranking="signed", fill="constant", fill_value=0.5)
        >>> model = sr.SaliencyGuided(network, recipe=recipe)

    Attributes:
        ranking: Which units are masked: those whose gradient has the lowest `"magnitude"` (Karkehabadi 2023), the
            lowest value, `"signed"`, so the most negative ones (Ismail et al. 2021), or as controls `"random"` ones,
            `"fixed"` ones, drawn once for all images, those of the `"highest"` magnitude, the `"darkest"`, of the
            lowest value, ties at random, or `"every"` unit, whatever the mask fraction.
        gradient_of: What is differentiated: the `"logit"` of the class (Karkehabadi 2023), its `"log_softmax"`
            (Ismail et al. 2021 on MNIST), or the cross-entropy `"loss"` against it.
        target_class: The class: the `"true"` label or the `"predicted"` one.
        saliency_mode: How the network runs in the saliency pass: `"inference"`, or `"training"`, which is the very
            pass over the clean images that the loss takes, with its dropout masks.
        unit: What is masked: a `"pixel"` with all its channels, ranked by the mean gradient over them (the mean
            is taken before the magnitude), or each `"feature"` (one channel of one pixel) by itself.
        mask_count: Exactly how many units to mask; `None` takes int(mask fraction x units).
        fill: What masked units become: uniform noise in the image's own minimum..maximum (`"image_range"`), in
            that of each channel (`"channel_range"`), or in that of the pixels kept (`"kept_range"`); a
            `"constant"`; the `"channel_mean"`; or what they are, with normal noise `"added"`.
        fill_value: The constant of `fill="constant"`, or the noise's standard deviation of `fill="added"`, in the units
            of the images.
        divergence: How the two outputs p = f(x) and q = f(x~) are compared: `"forward"` KL(p || q), `"reversed"`
            KL(q || p), `"symmetric"`, the mean of both, or `"stop_gradient"`, KL(p || q) with p held constant.
        moving_statistics: Which passes of the loss update moving statistics, such as BatchNormalization's: that over
            the `"clean"` images alone, or `"both"` (Ismail et al.'s code). Both normalise by their own batch.
        dropout: Whether the masked images meet `"independent"` dropout masks (Ismail et al.'s code) or,
            `"shared"`, those that the clean images met. So for all layers that draw random numbers by a
            `keras.random.SeedGenerator`.

    Raises:
        ValueError: If a field has a value that is not listed, `mask_count` is no whole number, 0 or more, `fill_value`
            is not finite, or below 0 as a standard deviation, or no unit is kept whose range could fill the others.
    """

    ranking: Literal["magnitude", "signed", "random", "fixed", "highest", "darkest", "every"] = "magnitude"
    gradient_of: Literal["logit", "log_softmax", "loss"] = "logit"
    target_class: Literal["true", "predicted"] = "true"
    saliency_mode: Literal["inference", "training"] = "inference"
    unit: Literal["pixel", "feature"] = "pixel"
    mask_count: int | None = None
    fill: Literal["image_range", "channel_range", "kept_range", "constant", "channel_mean", "added"] = "image_range"
    fill_value: float = 0.0
    divergence: Literal["forward", "reversed", "symmetric", "stop_gradient"] = "forward"
    moving_statistics: Literal["clean", "both"] = "clean"
    dropout: Literal["independent", "shared"] = "independent"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            valid, value = get_args(hints[field.name]), getattr(self, field.name)
            if valid and all(isinstance(option, str) for option in valid):
                check_choice(field.name, value, valid)
        if self.ranking == "every" and self.fill == "kept_range":
            raise ValueError(
                "A recipe that masks every unit keeps none whose range could fill them: choose another fill. "
                f"Received: ranking={self.ranking!r}, fill={self.fill!r}"
            )
        least = {"low": 0} if self.fill == "added" else {}
        numbers = {"fill_value": check_number("fill_value", self.fill_value, **least)}
        if self.mask_count is not None:
            numbers["mask_count"] = check_whole("mask_count", self.mask_count)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)  # as Python's own, which JSON can hold

    def get_config(self) -> dict[str, Any]:
        """The fields as a dictionary that JSON can hold."""
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    "karkehabadi2023": Recipe(),
    "ismail2021": Recipe(ranking="signed", gradient_of="log_softmax", fill="channel_range", moving_statistics="both"),
    "ismail2021_cifar": Recipe(ranking="signed", gradient_of="logit", fill="channel_range", moving_statistics="both"),
    "random": Recipe(ranking="random"),
    "fixed": Recipe(ranking="fixed"),
    "highest": Recipe(ranking="highest"),
    "darkest": Recipe(ranking="darkest"),
    # Noise and divergence without any mask: stability training (Zheng et al. 2016), with its standard deviation.
    "noise": Recipe(ranking="every", fill="added", fill_value=0.2),
}


def get_recipe(recipe: str | Recipe) -> Recipe:
    """The `Recipe` of a name in `RECIPES`; a `Recipe` is returned as it is.

    Raises:
        ValueError: If there is no recipe of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return RECIPES[check_choice("recipe", recipe, RECIPES, ", or a Recipe")]
