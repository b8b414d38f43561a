"""Does saliency-guided training make a Keras image classifier more robust to adversarial examples, or less?"""

try:
    import keras
except (AssertionError, AttributeError, ModuleNotFoundError, ValueError) as error:
    raise ImportError(
        "Keras does not start: set KERAS_BACKEND=tensorflow, and look for a mistake in other KERAS_... variables or in "
        f"keras.json, which is in KERAS_HOME or ~/.keras. Received: {type(error).__name__}: {error}",
        name=__name__,
    ) from error

if (
    keras.config.backend() != "tensorflow"
    or keras.config.floatx() != "float32"
    or keras.config.image_data_format() != "channels_last"
):
    raise ImportError(
        "salrob_tf needs Keras with backend=tensorflow, floatx=float32 and image_data_format=channels_last: see "
        "KERAS_BACKEND, and keras.json, which is in KERAS_HOME or ~/.keras. Received: "
        f"backend={keras.config.backend()}, floatx={keras.config.floatx()}, "
        f"image_data_format={keras.config.image_data_format()}",
        name=__name__,
    )

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.carlini_wagner import CWL2
from salrob_tf.attacks.fab import FAB
from salrob_tf.attacks.gradient import BIM, FGSM, MIM, PGD
from salrob_tf.attacks.registry import ATTACKS, make_attack
from salrob_tf.attacks.spsa import SPSA
from salrob_tf.attacks.square import Square
from salrob_tf.attacks.worst_case import WorstCase
from salrob_tf.data.datasets import Dataset, load_data
from salrob_tf.data.pipeline import batches
from salrob_tf.evaluation.callbacks import RobustAccuracy
from salrob_tf.evaluation.sweep import evaluate
from salrob_tf.models.classifier import Classifier
from salrob_tf.models.networks import cnn
from salrob_tf.models.resnet import resnet18
from salrob_tf.reports import notebook
from salrob_tf.reports.differences import difference_curves
from salrob_tf.reports.figures import robustness_curves, save_figure
from salrob_tf.reports.tables import robustness_table
from salrob_tf.results.comparison import Comparison, compare
from salrob_tf.results.methods import MethodComparison, compare_methods
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results
from salrob_tf.saliency.maps import saliency_maps
from salrob_tf.saliency.recipes import RECIPES, Recipe
from salrob_tf.training.controls import CONTROLS
from salrob_tf.training.guided import SaliencyGuided

# Results know nothing of reports, which give them their faces in notebooks.
for _kind, _show in {
    Robustness: notebook.html_of_result,
    Comparison: notebook.html_of_comparison,
    MethodComparison: notebook.html_of_comparison,
    Classifier: notebook.html_of_classifier,
}.items():
    setattr(_kind, "_repr_html_", _show)  # noqa: B010

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CONTROLS",
    "CWL2",
    "FAB",
    "FGSM",
    "MIM",
    "PGD",
    "RECIPES",
    "SPSA",
    "Attack",
    "AutoAttack",
    "Classifier",
    "Comparison",
    "Dataset",
    "MethodComparison",
    "Recipe",
    "RobustAccuracy",
    "Robustness",
    "SaliencyGuided",
    "Square",
    "WorstCase",
    "batches",
    "cnn",
    "compare",
    "compare_methods",
    "difference_curves",
    "evaluate",
    "load_data",
    "load_results",
    "make_attack",
    "resnet18",
    "robustness_curves",
    "robustness_table",
    "saliency_maps",
    "save_figure",
    "save_results",
]
