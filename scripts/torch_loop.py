"""A guided training step as the reference does it: PyTorch, Captum, and masks made image by image.

Written from the description of Ismail et al. 2021, Algorithm 1, with the layers of `cnn`. `benchmark.py` starts it with
a file of `images`, `labels` and `num_classes` and writes a line for each step that it wants; the answer is a line with
the loss. TensorFlow and PyTorch do not go together in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import Saliency
from torch import nn
from torch.nn import functional


def guided_step(images: np.ndarray, labels: np.ndarray, num_classes: int) -> Callable[[], float]:
    """One training step on one batch, again and again.

    Args:
        images: Float32 `(N, height, width, channels)`.
        labels: Integers `(N,)`.
        num_classes: Number of classes.

    Returns:
        A function that takes a step and gives its loss.
    """
    x, y = torch.from_numpy(np.moveaxis(images, -1, 1).copy()), torch.from_numpy(labels.astype(np.int64))
    channels, height, width = x.shape[1:]
    model = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, num_classes),
        nn.LogSoftmax(dim=1),
    )
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.1)
    saliency, masked_units = Saliency(model), height * width // 2

    def step() -> float:
        model.eval()
        gradient = saliency.attribute(x.clone().requires_grad_(), y, abs=False).mean(dim=1).reshape(len(x), -1)
        masked = x.clone()
        for image, scores in zip(masked, gradient, strict=True):
            lowest = torch.topk(scores, masked_units, largest=False).indices
            for channel in image.view(channels, -1):
                low, high = channel.min().item(), channel.max().item()
                channel[lowest] = torch.empty(masked_units).uniform_(low, high)
        model.train()
        optimizer.zero_grad()
        clean, other = model(x), model(masked)
        loss = functional.nll_loss(clean, y) + functional.kl_div(other, clean, reduction="batchmean", log_target=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


if __name__ == "__main__":
    with np.load(sys.argv[1]) as batch:
        take_step = guided_step(batch["images"], batch["labels"], int(batch["num_classes"]))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(take_step(), flush=True)
