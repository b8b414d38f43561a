"""The comparison once more, without this library: `python docs/study/independent.py MNIST.npz WAY SEED OUT.csv`.

In PyTorch, with attacks of torchattacks 3.5.1 (`pip install torch torchattacks`); MNIST.npz is Keras' file. WAY is
`regular`, `karkehabadi2023` (Algorithm 1), or its control `noise`, each at the settings of studies/mnist.toml. Trains
one network, attacks it on 500 test images of its own choice, and adds its accuracies to OUT.csv, of which derive.py
makes a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torchattacks
from torch import nn
from torch.nn import functional

EPSILONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
STRONG = 0.15  # where AutoAttack's first two members attack what PGD leaves
EPOCHS, BATCH, IMAGES, AT_ONCE, STEPS = 6, 256, 500, 100, 40
PIXELS, DEVIATION = 28 * 28, 0.2


def network() -> nn.Sequential:
    """The paper's two convolutions and two dense layers, with Keras' first weights and sizes of Ismail et al. 2021."""
    layers = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers


def without_the_least_salient(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Images whose half with the smallest gradients of the class's logit is noise in the image's range (line 4)."""
    net.eval()
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).gather(1, y[:, None]).sum(), images)
    net.train()
    lowest = gradient.abs().flatten(1).argsort(dim=1)[:, : PIXELS // 2]
    flat = x.flatten(1).clone()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return flat.scatter(1, lowest, low + torch.rand(lowest.shape) * (high - low)).view_as(x)


def with_noise(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Images with normal noise on every pixel, which knows nothing of the network."""
    return x + DEVIATION * torch.randn_like(x)


COPIES = {"karkehabadi2023": without_the_least_salient, "noise": with_noise}  # whose outputs shall be the same


def trained(way: str, seed: int, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A network; those of one seed begin with the same weights and meet the images in the same order."""
    torch.manual_seed(seed)
    net, order = network(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0, rho=0.9, eps=1e-6)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            net.train()
            logits = net(x[rows])
            loss = functional.cross_entropy(logits, y[rows])
            if way in COPIES:
                copy = net(COPIES[way](net, x[rows], y[rows]))
                p, q = logits.log_softmax(1), copy.log_softmax(1)
                loss = loss + functional.kl_div(q, p, reduction="batchmean", log_target=True)  # KL(p || q)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(f"{way}-{seed}: epoch {epoch + 1}, loss {total / len(x):.4f}", flush=True)
    return net.eval().requires_grad_(False)


def right(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which images are classified correctly."""
    with torch.no_grad():
        return torch.cat([net(some).argmax(1) == own for some, own in zip(x.split(BATCH), y.split(BATCH), strict=True)])


def left(net: nn.Module, x: torch.Tensor, y: torch.Tensor, attack: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Which images an attack leaves correct."""
    adversarial = [attack(some, own) for some, own in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)]
    return right(net, torch.cat(adversarial), y)


def attacked(net: nn.Module, seed: int, x: torch.Tensor, y: torch.Tensor) -> dict[tuple[str, float], float]:
    """Accuracy by attack and epsilon."""
    torch.manual_seed(seed)
    found = {("none", 0.0): right(net, x, y)}
    for epsilon in EPSILONS:
        found["fgsm", epsilon] = left(net, x, y, torchattacks.FGSM(net, eps=epsilon))
        pgd = torchattacks.PGD(net, eps=epsilon, alpha=2.5 * epsilon / STEPS, steps=STEPS, random_start=True)
        found["pgd", epsilon] = left(net, x, y, pgd)
    standing = found["pgd", STRONG].clone()
    for member in (torchattacks.APGD, torchattacks.APGDT):
        attack = member(net, norm="Linf", eps=STRONG, steps=100, n_restarts=1, seed=seed, rho=0.75)
        if len(rows := standing.nonzero()[:, 0]):
            standing[rows] = left(net, x[rows], y[rows], attack)
    found["strongest", STRONG] = standing
    return {key: outcome.double().mean().item() for key, outcome in found.items()}


def main() -> None:
    """Train and attack a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", metavar="MNIST.npz")
    parser.add_argument("way", choices=("regular", *COPIES))
    parser.add_argument("seed", type=int)
    parser.add_argument("out", metavar="OUT.csv")
    given = parser.parse_args()
    with np.load(given.data) as file:
        x, x_test = (torch.tensor(file[name])[:, None].float() / 255 for name in ("x_train", "x_test"))
        y, y_test = (torch.tensor(file[name]).long() for name in ("y_train", "y_test"))
    net = trained(given.way, given.seed, x, y)
    rows = torch.tensor(np.random.default_rng(0).choice(len(x_test), IMAGES, replace=False))
    found = {("none on the whole test set", 0.0): right(net, x_test, y_test).double().mean().item()}
    found |= attacked(net, given.seed, x_test[rows], y_test[rows])
    name = f"{given.way}-{given.seed}"
    lines = [f"{name},{attack},{epsilon:g},{accuracy:.4f}\n" for (attack, epsilon), accuracy in found.items()]
    with open(given.out, "a", encoding="utf-8") as file:
        file.write("".join(lines))


if __name__ == "__main__":
    main()
