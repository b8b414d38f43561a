"""Carry out a study: train networks of several ways and seeds, attack them all alike, and compare the ways.

Jobs that are finished are never repeated. Several processes, on several hosts, may work on one folder at once.
"""

from __future__ import annotations

import argparse
from typing import Any

from _common import Parser, SweepBar, fit_verbosity, folder, quiet_start, run_main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="a TOML file that says what is trained and attacked")
    add("--out", type=folder, required=True, metavar="FOLDER", help="folder of the study")
    add("--resume", action="store_true", help="go on with the study in --out, or help another process with it")
    add("--plan", type=float, metavar="POINTS",
        help="say what brings intervals to so many points to each side, and how long it takes here")  # fmt: skip
    add("--engine", choices=["local", "ray"], default="local",
        help="one job after another in this process (default), or as tasks of Ray")  # fmt: skip
    add("--address", metavar="HOST:PORT", help="cluster of Ray that does the jobs, instead of one on this machine")
    add("--threads", type=int, metavar="N", help="CPUs of each of Ray's jobs (default all of this machine)")
    add("--memory", type=float, metavar="GIB", help="memory of each of Ray's jobs (default 3)")
    add("--status", action="store_true",
        help="say how far the study in --out is, write what it found so far, and do no job")  # fmt: skip
    args = parser.parse_args()
    if args.plan is not None and not args.plan > 0:
        parser.error(f"--plan must be above 0. Received: --plan {args.plan:g}")
    given = [option for option in ("address", "threads", "memory") if getattr(args, option) is not None]
    if given and args.engine != "ray":
        parser.error(f"--{given[0]} needs --engine ray")
    return args


def main() -> None:
    """Carry out a study."""
    args = arguments()
    with quiet_start():
        from salrob_tf import load_data
        from salrob_tf.studies import study as studies
        from salrob_tf.studies.jobs import DOING, DONE, jobs_of
        from salrob_tf.studies.manifest import read_manifest
        from salrob_tf.studies.status import plans_of, status

    study = read_manifest(args.manifest)
    data = load_data(study.data, study.image_size)

    def planned(jobs: Any, comparisons: Any) -> list[str]:
        return [] if args.plan is None else plans_of(args.out, jobs, comparisons, args.plan / 100)

    if args.status:
        studies.check_study(args.out, data)
        jobs = jobs_of(study, data)
        print(status(args.out, jobs), flush=True)
        comparisons = studies.write_results(args.out, study, data, jobs)
        print(*comparisons, *planned(jobs, comparisons), sep="\n\n")
        return
    jobs = studies.open_study(args.out, study, data, args.resume)

    def begin(job: Any, left: int) -> None:
        minutes = status(args.out, jobs).minutes_left  # known once a job of each kind is finished
        how_long = f", about {minutes:.0f} minutes for one process" if minutes is not None and minutes >= 1 else ""
        again = " again, which another version of the code has done before" if job.is_repeated(args.out) else ""
        print(f"{DOING[job.kind]} {job.name}{again}, {left} jobs left{how_long}", flush=True)

    def failed(job: Any, why: str) -> None:
        print(f"{job.name} failed: {why}", flush=True)

    def ended(job: Any, left: int) -> None:
        print(f"{DONE[job.kind]} {job.name}, {left} jobs left", flush=True)

    if args.engine == "ray":
        from salrob_tf.studies.cluster import carry_out_on_ray

        given = {key: getattr(args, key) for key in ("address", "threads", "memory") if getattr(args, key) is not None}
        carry_out_on_ray(args.out, study, data, jobs, ended=ended, failed=failed, **given)
    else:
        options = {"verbose": fit_verbosity(), "progress": SweepBar}
        studies.carry_out(args.out, study, data, jobs, begin=begin, failed=failed, **options)
    comparisons = studies.write_results(args.out, study, data, jobs)
    print("", status(args.out, jobs), *comparisons, *planned(jobs, comparisons), sep="\n\n")
    print(f"\nwritten to {args.out}")
    if any(job.state(args.out) != "finished" for job in jobs):
        raise ValueError("Not all jobs could be done: --resume tries them again, --status says which")


if __name__ == "__main__":
    run_main(main)
