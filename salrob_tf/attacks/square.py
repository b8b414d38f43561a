"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search in windows, without any gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import Ball, Batch, clip
from salrob_tf.attacks.base import Attack, Seen, State, mean_logits
from salrob_tf.attacks.losses import margin
from salrob_tf.attacks.starts import hashed, keys, uniform
from salrob_tf.checks import check_number
from salrob_tf.models.classifier import Classifier

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries (section 3 and supplement B)
TILES = 5  # along each side, of the start in L2


@dataclass(frozen=True)
class Square(Attack):
    """Square attack: a window of the image is changed, and the change is kept where the margin falls.

    Each of its `steps` is a query, one forward pass. In L-infinity a window is filled with one sign for each channel;
    in L2 it takes over the perturbation of another window.

    Example:
        >>> attack = sr.Square(steps=50)
        >>> adversarial = attack(network, images, labels, epsilon=0.1)

    Attributes:
        share: Of the image's area, what the first windows cover (p), in (0, 1].
    """

    name: ClassVar[str] = "square"
    random_start: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    by_name: ClassVar[tuple[str, ...]] = ("norm", "restarts")  # 5,000 queries are what the name stands for
    steps: int = 5000
    restarts: int = field(default=1, kw_only=True)
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(share=check_number("share", self.share, above=0, high=1))
        if self.targeted:
            raise ValueError("Square is an untargeted attack. Received: targeted=True")

    def forwards_per_step(self, draws: int = 1) -> int:
        """One query, of so many draws."""
        return draws

    def sides(self, queries: np.ndarray, height: int, width: int) -> np.ndarray:
        """Sides of the windows in pixels at some queries; the first is the start itself, and its window empty."""
        halved = np.searchsorted(HALVED_AFTER, queries, side="left")
        sides = np.rint(np.sqrt(self.share / 2.0**halved * height * width)).astype(np.int32)
        if self.norm == 2:
            sides = np.maximum(sides, 3) | 1  # odd, so that a window has a middle, but where the image is smaller
        return np.where(queries > 0, np.clip(sides, 1, min(height, width)), 0)

    def init(self, classifier: Classifier, batch: Batch, seed: int) -> State:
        """The start, which was not asked about yet."""
        key = keys(batch, seed)
        return {
            "images": self._start(batch, key),
            "margin": np.full(len(key), np.inf, np.float32),
            "broken": np.zeros(len(key), bool),
            "key": key.view(np.int64),
            "step": np.zeros(len(key), np.int32),
        }

    def step(
        self, classifier: Classifier, batch: Batch, state: State, dtype: str = "float32", draws: int = 1
    ) -> tuple[State, Seen]:
        """One query, of several `draws` the mean of their logits; `dtype` is not looked at."""
        _, height, width, channels = batch.images.shape
        number = np.asarray(state["step"])
        side = self.sides(number, height, width)
        drawn = uniform(np.asarray(state["key"]).view(np.uint64), number, 5 + channels)
        corners = (drawn[:, :4] * (np.array([height, width] * 2) - side[:, None] + 1)).astype(np.int32)
        signs = np.where(drawn[:, 5:] < 0.5, np.float32(-1), np.float32(1))
        window = (side, corners, drawn[:, 4] < 0.5, signs)

        def query(
            images: tf.Tensor, labels: tf.Tensor, radii: tf.Tensor, x: tf.Tensor, lowest: tf.Tensor, fell: tf.Tensor,
            *window: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:  # fmt: skip
            ball = Ball(images, radii[:, None, None, None], self.norm)
            candidate = (self._change_in_l2 if self.norm == 2 else self._change)(ball, x, *window)
            logits = mean_logits(classifier, draws)(candidate)
            lead = -margin(labels, logits)
            # A mean of draws that says by luck that the image fell is not the end.
            taken = ~fell & ((lead < lowest) | (lead <= 0)) if draws == 1 else lead < lowest
            broken = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
            return (
                tf.where(taken[:, None, None, None], candidate, x),
                tf.where(taken, lead, lowest),
                tf.where(taken, broken, fell),
            )

        given = (batch.images, batch.labels, batch.radii, state["images"], state["margin"], state["broken"], *window)
        signature = [tf.TensorSpec([None, *np.shape(part)[1:]], part.dtype) for part in given]
        run = classifier.function((self, "float32", draws), query, signature)
        images, lowest, broken = run(*given)
        after = {"images": images, "margin": lowest, "broken": broken, "key": state["key"], "step": number + 1}
        seen = np.asarray(state["broken"]) if draws == 1 else np.zeros(len(number), bool)
        return after, Seen(seen, np.zeros(0), np.zeros(0))

    def _start(self, batch: Batch, key: np.ndarray) -> np.ndarray:
        """Vertical stripes to the edge of the ball or, in L2, tiles of two lobes; clipped to [0, 1]."""
        count, height, width, channels = batch.images.shape
        zeroth = np.zeros(count, np.int32)
        if self.norm == np.inf:
            stripes = uniform(hashed(key), zeroth, width * channels).reshape(count, 1, width, channels)
            change = np.where(stripes < 0.5, -1.0, 1.0)
        else:
            change = np.zeros(batch.images.shape)
            side = max(1, min(height, width) // TILES)
            down, across = min(TILES, height // side), min(TILES, width // side)
            top, left = (height - down * side) // 2, (width - across * side) // 2
            drawn = uniform(hashed(key), zeroth, down * across * (1 + channels))
            for tile, draw in enumerate(np.split(drawn, down * across, axis=1)):
                lobes = np.where(draw[:, :1, None] < 0.5, two_lobes(side), two_lobes(side).T)
                signs = np.where(draw[:, None, None, 1:] < 0.5, -1.0, 1.0)
                row, column = top + tile // across * side, left + tile % across * side
                change[:, row : row + side, column : column + side] = lobes[..., None] * signs
            change /= np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
        return np.clip(batch.images + batch.radii[:, None, None, None] * change.astype(np.float32), 0, 1)

    def _change(
        self, ball: Ball, x: tf.Tensor, side: tf.Tensor, corners: tf.Tensor, flipped: tf.Tensor, signs: tf.Tensor
    ) -> tf.Tensor:
        """A window at one edge of the ball or the other, channel by channel (algorithm 2)."""
        edge = clip(ball.images + ball.epsilon * signs[:, None, None, :])
        return tf.where(_window(x, corners[:, :2], side), edge, x)

    def _change_in_l2(
        self, ball: Ball, x: tf.Tensor, side: tf.Tensor, corners: tf.Tensor, flipped: tf.Tensor, signs: tf.Tensor
    ) -> tf.Tensor:
        """The change in a second window moved into the first, on top of what is there (algorithm 3)."""
        change = x - ball.images
        windows = (_window(x, corner, side) for corner in (corners[:, :2], corners[:, 2:]))
        first, second = (tf.cast(window, x.dtype) for window in windows)
        spare = tf.maximum(ball.epsilon**2 - _squares(change), 0) / x.shape[-1]
        both = _squares(change * tf.maximum(first, second), channels=False)
        inside = change * first
        inside /= 1e-12 + tf.sqrt(_squares(inside, channels=False))
        inside += self._lobes(x, side, corners[:, :2], flipped) * signs[:, None, None, :]
        inside *= tf.sqrt(spare + both) / (1e-12 + tf.sqrt(_squares(inside, channels=False)))
        moved = change * (1 - tf.maximum(first, second)) + inside * first
        changed = ball.project(ball.images + moved * ball.epsilon / (1e-12 + tf.sqrt(_squares(moved))))
        return tf.where((side > 0)[:, None, None, None], changed, x)

    def _lobes(self, x: tf.Tensor, side: tf.Tensor, corner: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
        """Two lobes in each image's window, `(N, height, width, 1)`."""
        height, width = x.shape[1:3]
        sides = np.unique(self.sides(np.arange(self.steps), height, width))
        table = np.zeros((2, len(sides), height, width), np.float32)
        for number, each in enumerate(sides):
            table[0, number, :each, :each] = two_lobes(each)
            table[1, number, :each, :each] = two_lobes(each).T
        lobes = tf.gather_nd(table, tf.stack([tf.cast(flipped, tf.int32), tf.searchsorted(sides, side)], axis=1))
        lobes = tf.gather(lobes, (tf.range(height) - corner[:, :1]) % height, batch_dims=1)
        return tf.gather(lobes, (tf.range(width) - corner[:, 1:]) % width, axis=2, batch_dims=1)[..., None]


def two_lobes(side: int) -> np.ndarray:
    """A square, its upper part a bump and its lower part a hollow, of norm 1 (Eq. 2 and figure 3)."""
    square = np.zeros((side, side))
    for part, sign in ((slice(None, side // 2), 1), (slice(side // 2, None), -1)):
        lobe = square[part]
        down, across = lobe.shape
        for ring in range(max(down // 2, across // 2) + 1 if down else 0):
            rows = slice(max(down // 2 - ring, 0), down // 2 + ring + 1)
            lobe[rows, max(across // 2 - ring, 0) : across // 2 + ring + 1] += sign / (ring + 1) ** 2
        lobe /= max(float(np.linalg.norm(lobe)), 1e-12)
    return square / max(float(np.linalg.norm(square)), 1e-12)


def _window(x: tf.Tensor, corner: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Whether a pixel is in each image's window, `(N, height, width, 1)`."""
    down, across = (
        (tf.range(x.shape[axis]) >= start) & (tf.range(x.shape[axis]) < start + side[:, None])
        for axis, start in ((1, corner[:, :1]), (2, corner[:, 1:]))
    )
    return down[:, :, None, None] & across[:, None, :, None]


def _squares(change: tf.Tensor, channels: bool = True) -> tf.Tensor:
    """Sums of squares of each image, with `channels` over all of them."""
    return tf.reduce_sum(change**2, axis=[1, 2, 3] if channels else [1, 2], keepdims=True)
