"""One page of results that opens offline: the verdict, curves, checks, images, measures, and how to repeat it.

Needs no model: only what evaluate.py, reproduce.py or study.py wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import Parser, folder, quiet_start, run_main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("folders", type=folder, nargs="+", metavar="FOLDER", help="results on the same images")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="page to write (default %(default)s)")
    add("--overwrite", action="store_true", help="replace the page that is there")
    return parser.parse_args()


def main() -> None:
    """Write the page."""
    args = arguments()
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"This file exists: pass --overwrite, or another --out. Received: --out {args.out}")
    with quiet_start():
        from salrob_tf.files import write_text
        from salrob_tf.studies.pages import page_of_folders

    page = page_of_folders(args.folders)
    write_text(args.out, page)
    print(f"written to {args.out}, {len(page.encode()) / 1000:,.0f} kB")


if __name__ == "__main__":
    run_main(main)
