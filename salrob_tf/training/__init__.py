"""Saliency-guided training as a Keras model, by `fit`, on one machine or several."""
