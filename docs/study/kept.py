"""What a folder beside this file keeps of a study's networks: `correct.npz`, and `results.json`, compressed."""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import salrob_tf as sr
from salrob_tf.files import written_beside
from salrob_tf.results.robustness import Robustness

RECORD = "results.json.gz"  # a tenth of its size: settings are the same for most curves


def record_of(folder: Path) -> dict[str, Any]:
    """What results.json says."""
    return json.loads(gzip.decompress((folder / RECORD).read_bytes()))


def results_of(folder: Path) -> list[Robustness]:
    """The outcomes of each network; `ValueError` where a file is missing or damaged."""
    with tempfile.TemporaryDirectory() as unpacked:
        try:
            (Path(unpacked) / "results.json").write_bytes(gzip.decompress((folder / RECORD).read_bytes()))
            (Path(unpacked) / "correct.npz").write_bytes((folder / "correct.npz").read_bytes())
            return sr.load_results(unpacked)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ValueError(
                f"{folder} keeps no results, or damaged ones: put back what was there ({error})"
            ) from error


def keep_results(folder: Path, results: list[Robustness], data_name: str, arguments: dict[str, Any]) -> None:
    """Write both files, each whole; the same bytes for the same results.json."""
    with tempfile.TemporaryDirectory() as written:
        sr.save_results(written, results, data_name=data_name, arguments=arguments)
        outcomes = (Path(written) / "correct.npz").read_bytes()
        record = gzip.compress((Path(written) / "results.json").read_bytes(), mtime=0)
    for name, content in {"correct.npz": outcomes, RECORD: record}.items():
        with written_beside(folder / name) as beside:
            beside.write_bytes(content)
