"""A `results.json` of the first schema, of which curves and models were flat, as one of the present."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from salrob_tf.results.costs import Costs

OUTCOMES = ("model", "attack", "epsilons", "accuracy", "interval")
ENTRY = ("name", "path", "clean_accuracy", "flags")


def from_schema_1(record: dict[str, Any]) -> dict[str, Any]:
    """The record with settings, costs and descriptions in places of their own; what is no object stays what it is."""
    models, curves = record.get("models"), record.get("curves")
    return {
        **record,
        "models": [_model(model) for model in models] if isinstance(models, list) else models,
        "curves": [_curve(curve) for curve in curves] if isinstance(curves, list) else curves,
    }


def _model(model: Any) -> Any:
    if not isinstance(model, dict):
        return model
    kept = {key: model[key] for key in ENTRY if key in model}
    return kept | {"description": {key: value for key, value in model.items() if key not in ENTRY}}


def _curve(curve: Any) -> Any:
    if not isinstance(curve, dict):
        return curve
    names = [each.name for each in fields(Costs)]
    costs = {"padding": 0} | {key: curve[key] for key in names if key in curve}  # the very first had no padding
    settings = {key: value for key, value in curve.items() if key not in (*OUTCOMES, *names)}
    return {key: curve[key] for key in OUTCOMES if key in curve} | {"settings": settings, "costs": costs}
