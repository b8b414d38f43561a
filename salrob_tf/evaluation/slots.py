"""The rows of a batch under way: unlike images, epsilons, tries and step counts, side by side."""

from __future__ import annotations

import numpy as np

from salrob_tf.attacks.base import State

# After s steps a try may have `hope (1 + PATIENCE steps / s)` of the lead left, or is given up. On MNIST networks this
# took an eighth of the gradients of nine targets with 100 steps each, and lost nothing.
PATIENCE = 0.12


class Slots:
    """What stands in each row of the batch; a row that is free is not there.

    Attributes:
        row: Row of the image in its shard, `(B,)`.
        k: Epsilon that it is attacked at, as an index, `(B,)`.
        tries: Which try it is at, `(B,)`.
        steps: How many steps it has taken, `(B,)`.
        leads: How far the logit of its label was above all others at least, at this epsilon, `(B,)`.
        leads_in_try: The same in this try alone, `(B,)`.
        state: What the attack keeps of it, arrays `(B, ...)`.
    """

    def __init__(self) -> None:
        self.row, self.k, self.tries, self.steps = (np.zeros(0, np.int64) for _ in range(4))
        self.leads = self.leads_in_try = np.zeros(0)
        self.state: State = {}

    def __len__(self) -> int:
        return len(self.row)

    def enter(self, rows: np.ndarray, k: np.ndarray, state: State) -> None:
        """Let images in, at their first try."""
        zeros = np.zeros_like(rows)
        self.row, self.k = np.concatenate([self.row, rows]), np.concatenate([self.k, k])
        self.tries, self.steps = np.concatenate([self.tries, zeros]), np.concatenate([self.steps, zeros])
        unseen = np.full(len(rows), np.inf)
        self.leads = np.concatenate([self.leads, unseen])
        self.leads_in_try = np.concatenate([self.leads_in_try, unseen])
        self.state = {
            key: np.concatenate([self.state[key], part]) if key in self.state else np.array(part)
            for key, part in state.items()
        }

    def begin(self, slots: np.ndarray, k: np.ndarray, state: State) -> None:
        """Begin another try in some slots."""
        self.leads[slots[self.k[slots] != k]] = np.inf
        self.leads_in_try[slots] = np.inf
        self.k[slots], self.steps[slots] = k, 0
        for key, part in state.items():
            self.state[key][slots] = part

    def keep(self, slots: np.ndarray) -> None:
        """Let the images in all other slots go."""
        self.row, self.k, self.tries, self.steps = (part[slots] for part in (self.row, self.k, self.tries, self.steps))
        self.leads, self.leads_in_try = self.leads[slots], self.leads_in_try[slots]
        self.state = {key: part[slots] for key, part in self.state.items()}

    def hopeless(self, steps: int, hope: float, leads_of_clean: np.ndarray) -> np.ndarray:
        """Which tries of so many steps are given up, because they have not come near enough to the boundary by now.

        `hope` is the share of its lead that a try may leave in the end, `leads_of_clean` what all images have, `(N,)`.
        """
        allowed = hope * (1 + PATIENCE * steps / self.steps) * leads_of_clean[self.row]
        return (self.leads_in_try < np.inf) & (self.leads_in_try > allowed)

    def see(self, leads: np.ndarray) -> None:
        """Note how far the logit of each label was above all others at a step."""
        self.leads = np.minimum(self.leads, leads)
        self.leads_in_try = np.minimum(self.leads_in_try, leads)
