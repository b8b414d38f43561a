"""Attacks that own what they do to a batch of images, and their names."""
