"""A study's jobs as tasks of Ray, on this machine or on a cluster that shares the study's folder."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from salrob_tf.checks import check_number, check_whole
from salrob_tf.data.datasets import Dataset
from salrob_tf.studies.claims import holder
from salrob_tf.studies.jobs import CLAIM, Job
from salrob_tf.studies.manifest import Study
from salrob_tf.studies.study import POLL, look, take

GIB = 2**30
PATIENCE = 10.0  # seconds that an address may take to answer
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def carry_out_on_ray(
    folder: Path,
    study: Study,
    data: Dataset,
    jobs: Sequence[Job],
    address: str | None = None,
    threads: int | None = None,
    memory: float = 3.0,
    ended: Callable[[Job, int], None] = lambda job, left: None,
    failed: Callable[[Job, str], None] = lambda job, why: None,
) -> None:
    """Do all jobs that can be done as tasks of Ray, and wait for those that others do.

    Results pass by the folder alone, which all hosts must see under the same path. Ray never repeats a task: a worker
    that dies, or is killed for memory, is a failure of its job like any other.

    Args:
        folder: Of the study.
        study: What it is.
        data: Its data.
        jobs: Its jobs, from `open_study`.
        address: Of a cluster that runs, or `None` for one on this machine that ends with the call.
        threads: CPUs of each job, 1 or more, which TensorFlow has as many threads for; all of this machine by default.
            Networks that are trained with other numbers of threads differ in rounding.
        memory: GiB of each job that Ray counts with, above 0.
        ended: Called with each job that was done, and how many are not finished.
        failed: Called with each job that failed, and why.

    Raises:
        ValueError: If Ray is not installed, no cluster answers at the address or it is lost, or no host of it has
            what a job needs.
    """
    threads = os.cpu_count() or 1 if threads is None else check_whole("threads", threads, 1)
    memory = check_number("memory", memory, above=0)
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"Ray is not there: pip install 'salrob-tf[cluster]' ({error})") from error
    with _cluster(ray, address):
        _check_hosts([node["Resources"] for node in ray.nodes() if node["Alive"]], threads, memory)
        options: dict[str, Any] = {"num_cpus": threads, "memory": int(memory * GIB), "max_retries": 0}
        environment = {"env_vars": dict.fromkeys(THREADS, str(threads))}
        task = ray.remote(**options, runtime_env=environment)(take)
        shared = [ray.put(each) for each in (study, data)]
        where, under_way = folder.resolve(), {}  # type: Path, dict[Any, Job]
        while True:
            unfinished, ready = look(folder, jobs)
            if not ready:
                return
            begun = {job.digest for job in under_way.values()}
            for job in ready:
                if job.digest not in begun and not holder(job.folder(folder) / CLAIM):
                    under_way[task.remote(job, where, *shared)] = job
            if not under_way:
                time.sleep(POLL)  # others do them
                continue
            for reference in ray.wait(list(under_way), timeout=POLL)[0]:
                job = under_way.pop(reference)
                try:
                    ours, why = ray.get(reference)
                except ray.exceptions.RayError as error:
                    ours, why = True, job.fail(folder, error)
                if why:
                    failed(job, why)
                elif ours:
                    ended(job, len(unfinished) - 1)


def _check_hosts(hosts: Sequence[dict[str, float]], threads: int, memory: float) -> None:
    there = [(host.get("CPU", 0), host.get("memory", 0) / GIB) for host in hosts]
    if not any(cpus >= threads and room >= memory for cpus, room in there):
        each = "; ".join(f"{cpus:.0f} CPUs and {room:.1f} GiB" for cpus, room in there)
        raise ValueError(
            "No host has what a job needs: take fewer threads or less memory. "
            f"Received: threads={threads}, memory={memory:g}, hosts of {each}"
        )


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    silent = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    terminated = signal.getsignal(signal.SIGTERM)
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself asks for many minutes
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        ray.init(address=address or "local", **silent)
    except Exception as error:
        # What Ray raises depends on what is wrong with an address.
        why = " ".join(f"{error}".split())[:200]
        raise ValueError(f"No cluster of Ray answers ({why}). Received: --address {address}") from error
    if terminated is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # which Ray took
    try:
        yield
    except BrokenPipeError:  # of whoever reads what is printed
        raise
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise ValueError(f"The cluster of Ray was lost ({error}): --resume goes on. Received: {address}") from error
    finally:
        ray.shutdown()
