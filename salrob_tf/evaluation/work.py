"""A plan carried out shard by shard, and what became of the images, collected."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from salrob_tf.attacks.base import Link
from salrob_tf.data.arrays import check_labels, fingerprint
from salrob_tf.evaluation.audit import Tally, audited_epsilons, audited_images, drawn
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.evaluation.counts import ONE_DRAW, SEVERAL_DRAWS, Counts
from salrob_tf.evaluation.inspection import chance, inspect
from salrob_tf.evaluation.leads import Left, leads_of
from salrob_tf.evaluation.plans import Plan
from salrob_tf.evaluation.search import Sweep
from salrob_tf.evaluation.trust import Sample, flags_of, poor_gradients
from salrob_tf.files import check_file, written_beside
from salrob_tf.results.costs import Member, sum_of
from salrob_tf.results.flags import Flag
from salrob_tf.results.robustness import Robustness

AUDITED = 1  # above the seed is that of auditors: from the starts of what they look at they would find it again
TRIED_AFAR = 20  # images, of the first shard, that are far from falling after gradients of few digits
CLEAN = "none"  # the attack that a checkpoint keeps the clean outcomes of random networks under

Progress = Callable[[str, int, int | None, int], None]


class Work:
    """A plan carried out: shards are taken one after the other, and what became of their images is collected."""

    def __init__(
        self,
        plan: Plan,
        indices: np.ndarray | None,
        kept: Checkpoint | None,
        adversarials: Path | None,
        progress: Progress | None,
        total: int | None,
        every: np.ndarray | None = None,
    ) -> None:
        """Nothing is done yet; `every` are the indices of all images of the sweep, here or elsewhere, if known."""
        largest = plan.ascending[-1]
        if largest > 1 and any(attack.norm == np.inf for attack in plan.attacks.values()):
            warnings.warn(f"epsilon {largest:g} is larger than the range of the images, [0, 1]", stacklevel=3)
        self.plan, self.indices, self.kept, self.adversarials = plan, indices, kept, adversarials
        self.progress, self.total = progress, None if total is None else total * len(plan.chains)
        self.digests = hashlib.sha256(), hashlib.sha256()
        self.number = self.seen = self.done = 0
        self.draws, self.sample = ONE_DRAW, Sample()
        self.clean: list[np.ndarray] = []
        # For each member of each chain, what it left, shard by shard, and what it cost.
        self.left: dict[str, list[list[np.ndarray]]] = {label: [[] for _ in run] for label, run in plan.chains.items()}
        self.counts = {label: [Counts() for _ in chain] for label, chain in plan.chains.items()}
        self.audits: dict[str, Tally] = {}
        # By attack and link, of some images far from falling, how many fell, and how many there are.
        self.afar: dict[tuple[str, str], tuple[int, int]] = {}
        self.audited = None if every is None else every[audited_images(every, plan.seed)]

    def take(self, x: np.ndarray, y: np.ndarray, number: int | None = None) -> None:
        """Attack a shard with every attack; `number` is that of its parts, by default the next one."""
        self.number = self.number if number is None else number
        x = self.plan.classifier.check(x)
        y = check_labels(y, len(x), self.plan.classifier.num_classes)
        given = slice(self.seen, self.seen + len(x))
        rows = np.arange(given.start, given.stop) if self.indices is None else self.indices[given]
        sha256 = fingerprint(x, y, rows)
        for digest, column in zip(self.digests, (x, y), strict=True):
            digest.update(np.ascontiguousarray(column).data)
        clean = self._look(x, y, sha256)
        sampled = self.sample.take(x, y, clean)
        guess = None
        for label in self.plan.chains:
            report = _Report(self.progress, label, self.done, self.total)
            correct = self._attack(label, _Shard(x, y, rows, clean, sha256), guess, report)
            self.sample.keep(label, correct[:, sampled])
            guess = correct.sum(axis=0)
            self.done += len(x)
            report.finish(self.done)
        self.clean.append(clean)
        self.number, self.seen = self.number + 1, given.stop

    def _look(self, x: np.ndarray, y: np.ndarray, sha256: str) -> np.ndarray:
        """Which images are classified correctly as they are; of the first shard, what is to be said of the model."""
        classifier, size = self.plan.classifier, self.plan.batch_size
        clean = classifier.classify(x, size) == y
        if not self.number:
            self.description, self.flags = inspect(classifier, x, y, self.plan.attacks, size)
            if not self.description["deterministic"]:
                self.draws = SEVERAL_DRAWS
                self.description["draws"] = self.draws._asdict()
        if self.draws.judging > 1:  # what was attacked before is what is to be attacked now
            part = self.kept.load(CLEAN, self.number, sha256) if self.kept else None
            clean = part["correct"] if part else classifier.classifies(x, y, size, self.draws.judging)
            if self.kept and not part:
                self.kept.save(CLEAN, self.number, sha256, correct=clean)
        if not self.number:
            self.said = chance(classifier, clean)
            _warn(self.flags + self.said, above=3)
        return clean

    def _attack(self, label: str, shard: _Shard, guess: np.ndarray | None, report: _Report) -> np.ndarray:
        """What an attack leaves of a shard, or the last of an ensemble, `(K, N)`."""
        chain = self.plan.chains[label]
        before: Left | None = None
        for number, link in enumerate(chain):
            last = number == len(chain) - 1
            name = label if len(chain) == 1 else f"{label}-{link.label}"
            file = self.adversarials / f"{label}-{self.number:05d}.npz" if self.adversarials and last else None
            # What becomes known is told once; until then, how many stand.
            told = report if last else lambda known, standing: report(0, standing)
            if before and link.doubted is not None:
                if (label, name) not in self.afar:
                    self.afar[label, name] = self._try_afar(name, link, shard, before, self.counts[label][number])
                link = link._replace(near=link.doubted) if self.afar[label, name][0] else link
            before, counts = self._part(name, link, shard, guess, before, file, told)
            correct = before.correct
            self.left[label][number].append(correct)
            self.counts[label][number].add(counts)
        if label in self.plan.audits:
            self._audit(label, shard, correct, report)
        return correct

    def _try_afar(self, name: str, link: Link, shard: _Shard, before: Left, counts: Counts) -> tuple[int, int]:
        """How many of some images fall that are far from it after the attack before, and how many those are."""
        assert link.doubted is not None
        lead = leads_of(self.plan.classifier, shard.images, shard.labels, self.plan.batch_size)
        far = before.correct[0] & (before.leads > link.near * lead) & (before.leads <= link.doubted * lead)
        far = np.flatnonzero(far)
        rows = far[drawn(shard.indices[far], self.plan.seed, TRIED_AFAR)]
        if not len(rows):
            return 0, 0
        left = Left(before.correct[:, rows], before.found[rows], np.full(len(rows), -np.inf))
        link = link._replace(near=np.inf)
        some = shard.part(rows)
        after, its = self._part(f"{name}-afar", link, some, None, left, None, lambda known, standing: None)
        counts.add(its)
        return int(np.sum(after.correct.sum(axis=0) < left.correct.sum(axis=0))), len(rows)

    def _audit(self, label: str, shard: _Shard, correct: np.ndarray, report: _Report) -> None:
        """Let some images of a shard meet other attacks once more, of what stands after one of them, `(K, N)`."""
        if label not in self.audits:
            self.audits[label] = Tally(audited_epsilons(correct, shard.clean))
        tally = self.audits[label]
        if self.audited is None:  # a stream does not tell what is to come: of it each shard has its share
            rows = audited_images(shard.indices, self.plan.seed)
        else:
            rows = np.flatnonzero(np.isin(shard.indices, self.audited))
        if not len(rows):
            return
        epsilons, some = self.plan.ascending[tally.places], shard.part(rows)
        before = Left(correct[np.ix_(tally.places, rows)], some.images, np.full(len(rows), -np.inf))
        standing, counts = before.correct.sum(axis=1), Counts()
        for link in self.plan.audits[label]:
            name = f"{label}-audit-{link.label}"
            told = lambda known, standing: report(0, standing)  # noqa: E731
            before, its = self._part(name, link, some, None, before, None, told, epsilons, self.plan.seed + AUDITED)
            counts.add(its)
        tally.add(len(rows), standing, standing - before.correct.sum(axis=1), counts)

    def _part(
        self,
        name: str,
        link: Link,
        shard: _Shard,
        guess: np.ndarray | None,
        before: Left | None,
        file: Path | None,
        report: Callable[[int, int], None],
        epsilons: np.ndarray | None = None,
        seed: int | None = None,
    ) -> tuple[Left, Counts]:
        """What one attack left and took, done now or kept from before; with `file` its adversarials are there."""
        if file is not None:
            check_file(file)
        part = self.kept.load(name, self.number, shard.sha256, file) if self.kept else None
        # Where a network is nearly deterministic, who made a part may have taken it for what it is not taken for here;
        # which images are audited depends on all, and which are far from falling on rounding.
        if part is not None:
            judging, rows = part.pop("judging"), part.pop("rows")
            if judging == self.draws.judging and np.array_equal(rows, shard.indices):
                return self._taken(part, shard)
        plan, began = self.plan, time.perf_counter()
        sweep = Sweep(
            link.attack, plan.classifier, shard.images, shard.labels, shard.clean,
            plan.ascending if epsilons is None else epsilons, shard.indices, plan.seed if seed is None else seed,
            plan.batch_size, link.dtype,
            report, before, link.near, link.hope, guess, plan.keep, self.draws,
        )  # fmt: skip
        independent = name in plan.chains and plan.independent(name)
        outcome = sweep.everything() if independent else sweep.survivors(plan.search if plan.survivors_only else "full")
        sweep.counts.seconds = time.perf_counter() - began
        part = {"correct": outcome, "leads": sweep.left.leads} | {
            key: np.array(value) for key, value in vars(sweep.counts).items()
        }
        if file is not None:
            with written_beside(file) as beside:
                np.savez_compressed(beside, indices=shard.indices, images=sweep.found)
        elif plan.keep:
            part["found"] = sweep.found
        if self.kept:
            which = {"judging": self.draws.judging, "rows": shard.indices}
            self.kept.save(name, self.number, shard.sha256, file, **which, **part)
        return self._taken(part, shard)

    @staticmethod
    def _taken(part: dict[str, np.ndarray], shard: _Shard) -> tuple[Left, Counts]:
        left = Left(part.pop("correct"), part.pop("found", shard.images), part.pop("leads"))
        return left, Counts(**{key: value.item() for key, value in part.items()})

    def result(self, name: str | None) -> Robustness:
        """All shards together, and what speaks against them."""
        if not self.seen:
            raise ValueError("`images` must hold at least one image. Received: an empty dataset")
        plan, clean = self.plan, np.concatenate(self.clean)
        guessing = chance(plan.classifier, clean)
        if not self.said:
            _warn(guessing, above=2)
        order = np.searchsorted(plan.ascending, plan.epsilons)
        members = {label: self._members(label, order) for label in plan.chains}
        costs = {label: sum_of([each.costs for each in members[label]], **self._shares(label)) for label in plan.chains}
        whole = {label: np.concatenate(left[-1], axis=1) for label, left in self.left.items()}
        found, looked = flags_of(self.sample, plan, costs, clean, whole, draws=self.draws, at_chance=bool(guessing))
        found += [poor_gradients(*which, fell, tried) for which, (fell, tried) in self.afar.items() if fell]
        _warn(found, above=2)
        return Robustness(
            model=name or plan.classifier.name,
            epsilons=plan.epsilons,
            indices=np.arange(self.seen) if self.indices is None else self.indices,
            clean=clean,
            correct={label: correct[order] for label, correct in whole.items()},
            attacks=plan.settings,
            costs=costs,
            members={label: each for label, each in members.items() if len(each) > 1},
            audits={label: tally.audit(plan.ascending) for label, tally in self.audits.items()},
            seed=plan.seed,
            sha256=hashlib.sha256("".join(digest.hexdigest() for digest in self.digests).encode()).hexdigest(),
            path=plan.classifier.path,
            description={**self.description, "checks": looked},
            flags=(*self.flags, *guessing, *found),
        )

    def _members(self, label: str, order: np.ndarray) -> tuple[Member, ...]:
        """What each attack of a chain left and cost; `order` is that of the user's epsilons."""
        found = []
        for link, left, counts in zip(self.plan.chains[label], self.left[label], self.counts[label], strict=True):
            costs = counts.costs(self.plan.classifier.traces((link.attack, link.dtype)))
            accuracy = np.concatenate(left, axis=1)[order].mean(axis=1)
            found.append(Member(link.label, tuple(accuracy.tolist()), costs))
        return tuple(found)

    def _shares(self, label: str) -> dict[str, float]:
        """The share of zero gradients of the member that stands for a chain, and that of flips in all."""
        at = self.plan.chains[label].index(self.plan.links[label])
        every = Counts()
        for counts in self.counts[label]:
            every.add(counts)
        return {"zero_gradients": self.counts[label][at].costs(0).zero_gradients, "flipped": every.costs(0).flipped}


class _Shard(NamedTuple):
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    clean: np.ndarray
    sha256: str

    def part(self, rows: np.ndarray) -> _Shard:
        """Some of the images."""
        images, labels, indices, clean = (column[rows] for column in self[:4])
        return _Shard(images, labels, indices, clean, self.sha256)


def _warn(flags: Iterable[Flag], above: int) -> None:
    for flag in flags:
        warnings.warn(str(flag), stacklevel=above + 2)  # who called `evaluate`


class _Report:
    """Turns what a sweep reports into what `progress` is called with."""

    def __init__(self, progress: Progress | None, label: str, done: int, total: int | None) -> None:
        self.progress, self.label, self.done, self.total = progress, label, done, total
        self.standing = 0

    def __call__(self, known: int, standing: int) -> None:
        self.done += known
        self.standing = standing
        if self.progress:
            self.progress(self.label, self.done, self.total, standing)

    def finish(self, done: int) -> None:
        if self.done != done:
            self(done - self.done, self.standing)
