"""The bench: every restorer on every image of a suite, measured; the same table whoever did what, and when."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emsynth.benchmark import journal as journals
from emsynth.benchmark import record, reference, table
from emsynth.benchmark.entrants import Restorers, contenders
from emsynth.benchmark.journal import Journal, Kept, Key, key
from emsynth.benchmark.lanes import MEASURE, Done, Entry, Lanes, Task
from emsynth.benchmark.selection import Group, Patience, chosen, several
from emsynth.benchmark.suite import Suite
from emsynth.benchmark.trial import Floats
from emsynth.benchmark.workers import Contender, Limits, Workers
from emsynth.builder.job import Progress, Silence
from emsynth.builder.workers import usable_cores
from emsynth.errors import RestorerError, StoreError, StoreExistsError, SuiteError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = ("identity", "gaussian")
_AHEAD = 4  # tasks for each lane that may be begun before the first of them is kept


def run(suite: Suite | str | os.PathLike[str], restorers: Restorers = DEFAULT, *, workers: int = 1,
        out: str | os.PathLike[str] | None = None, resume: bool = False, overwrite: bool = False,
        timeout: float = 60.0, memory: float = 4.0, families: str | Sequence[str] | None = None,
        severities: int | Sequence[int] | None = None, scenes: int | Sequence[int] | None = None,
        oracle: bool = False, report: str | os.PathLike[str] | None = None, progress: Progress | None = None,
        measure: str = MEASURE) -> pd.DataFrame:
    """Restore the images of a suite and measure what came of it.

    Each restorer runs in processes of its own, which see the distorted image only and do not measure; one that fails,
    crashes, takes too much memory or never returns costs that image and nothing else. A failed image is measured as if
    the restorer had returned the mean of the distorted image everywhere, and its status says so. After 3 images in a
    row of one condition that took too long, the rest of that condition counts as timeout without being tried; after 9
    in a row that took too long or ended the process, the rest of the suite.

    Parameters
    ----------
    suite : Suite, str or path
        A frozen suite, its name, or its file.
    restorers : str, callable, sequence of these, or mapping of names to these
        Names of baselines, ``module:function``, files of networks, any of them as ``NAME=...`` to have another name in
        the table, or callables ``image -> image`` with images (H, W) float32 in ADU. A callable is pickled and sent;
        one that draws from NumPy's, Python's or torch's global generator finds it seeded by the image.
    workers : int
        Images that are restored at the same time. No figure depends on it but the time.
    out : path, optional
        Write the table there as it says, .csv or .parquet, and where it comes from beside it as `out`.json.
    resume : bool
        Go on with the table `out`, finished or not; what was measured is not measured again.
    overwrite : bool
        Replace `out`.
    timeout : float
        Seconds for an image; the first of a process is restored twice, and has as long each time. An oracle has 20
        times as long.
    memory : float
        GB that a restorer may take beyond what it has once it is loaded; 0 for no limit. It limits addresses, so that
        CUDA needs 0; on Linux only.
    families, severities, scenes : sequence or one of them, optional
        Only these.
    oracle : bool
        Also tune each baseline on the truth of each image; a bound, named ``gaussian (oracle)``.
    report : path, optional
        Write an HTML report there; it compares with the reference that is kept for the suite, or with whole gaussian in
        this run.
    progress : Progress, optional
        Who wants to know how far it is.
    measure : str
        ``module:function`` that measures.

    Returns
    -------
    DataFrame
        Columns suite, restorer, family, severity, scene, content, metric, value, status (ok, wrong_shape, not_finite,
        exception, killed or timeout) and message. Rows in the order of the restorers as given, of the suite's
        conditions and scenes, and of the metrics; ``time``, in s per megapixel, is the last.

    Raises
    ------
    SuiteError
        There is no such suite, or it lacks what is asked for.
    RestorerError
        A restorer cannot be had, or may take what makes no sense.
    StoreError
        The table cannot be written, or is not one to go on with.
    """
    asked = _Asked(None if out is None else Path(out), resume, overwrite, workers, Limits(timeout, memory),
                   None if report is None else Path(report), progress or Silence(), measure)
    asked.check()
    suite = _suite(suite)
    groups = chosen(suite, several(families), several(severities), several(scenes))
    if suite.split == "tune":
        asked.progress.note(f"{suite.name}: a tuning split: no figure of it is to be quoted")
    with contextlib.closing(Workers()) as processes:
        taking_part = contenders(restorers, suite, groups, asked.limits, oracle, processes)
        if asked.report is not None:
            _check_reference(suite, groups, taking_part)
        return _Bench(suite, groups, taking_part, asked, processes).run()


bench = run  # as `emsynth.bench`


def _suite(suite: Any) -> Suite:
    if isinstance(suite, Suite):
        return suite
    if not isinstance(suite, (str, os.PathLike)):
        raise SuiteError(f"{type(suite).__name__} is not a suite; give the name of one, such as stem_hd_v1, its file, "
                         "or a Suite")
    from emsynth.benchmark import shipped

    return shipped.load(suite)


def _check_reference(suite: Suite, groups: Sequence[Group], taking_part: Sequence[Contender]) -> None:
    """SuiteError where there will be nothing that a report could compare with."""
    whole = sum(len(group.wanted) for group in groups) == len(suite)
    try:
        reference.reference(suite)
    except SuiteError as missing:
        if not (whole and any(one.name == reference.RESTORER for one in taking_part)):
            raise SuiteError(f"no report can be made: {missing}; or add {reference.RESTORER} to the restorers of a "
                             "whole run, or leave the report out") from None


@dataclass(frozen=True)
class _Asked:
    """How a run is to be done."""

    out: Path | None
    resume: bool
    overwrite: bool
    workers: int
    limits: Limits
    report: Path | None
    progress: Progress
    measure: str

    def check(self) -> None:
        """What can be wrong with limits and places, before anything is restored."""
        self._check_limits()
        if self.resume and self.overwrite:
            raise StoreExistsError("give either resume, to go on, or overwrite, to begin again")
        if self.report is not None:
            table.check_report(self.report, self.resume or self.overwrite)
        if self.out is None:
            if self.resume:
                raise StoreError("there is nothing to go on with without the name of a table; give --out")
            return
        table.check_out(self.out)
        journals.check_free(journals.beside(self.out))
        if not (self.resume or self.overwrite):
            table.check_new(self.out, record.beside(self.out), journals.beside(self.out))

    def _check_limits(self) -> None:
        if not (_finite(self.limits.timeout) and self.limits.timeout > 0):
            raise RestorerError(f"timeout {self.limits.timeout}: give a number of seconds above 0")
        if not (_finite(self.limits.memory) and self.limits.memory >= 0):
            raise RestorerError(f"memory {self.limits.memory}: give a number of GB, or 0 for no limit")
        if not isinstance(self.workers, Integral) or self.workers < 1:
            raise RestorerError(f"workers {self.workers}: give a whole number of 1 or more")


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


class _Bench:
    """One run, from what is kept to the table."""

    def __init__(self, suite: Suite, groups: Sequence[Group], taking_part: Sequence[Contender], asked: _Asked,
                 processes: Workers) -> None:
        self._suite, self._groups, self._contenders, self._asked = suite, groups, taking_part, asked
        self._lanes = Lanes(asked.limits, processes, asked.measure)
        self._entries: dict[Key, Entry] = {}
        self._done = self._failed = 0
        self._began = time.monotonic()
        self._wanted = list(self._in_order())

    def _in_order(self) -> Iterator[Key]:
        for contender in self._contenders:
            for number in dict.fromkeys(g.condition for g in self._groups):
                scenes = sorted(s for g in self._groups if g.condition == number for s in g.wanted)
                yield from ((contender.name, self._suite.conditions[number].name, s) for s in scenes)

    def run(self) -> pd.DataFrame:
        pool = ThreadPoolExecutor(self._asked.workers)
        try:
            made, told = self._kept_or_measured(pool)
            if self._asked.report is not None:
                self._report(pool, self._asked.report, made, told)
            return made
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _kept_or_measured(self, pool: ThreadPoolExecutor) -> tuple[pd.DataFrame, dict[str, Any]]:
        if self._asked.out is None:
            return self._measured(pool, None)
        head = record.head(self._suite)
        with Journal(journals.beside(self._asked.out), head) as journal:
            self._take_over(self._asked.out, journal, head)
            done = self._measured(pool, journal)
            journal.remove()
            return done

    def _take_over(self, out: Path, journal: Journal, now: dict[str, Any]) -> None:
        """Use what is kept in a table that was finished, and in the journal of one that was not."""
        if not self._asked.resume:
            journal.begin(alone=True)
            return
        then, kept = journal.read()
        if then:
            journals.check_same(journal.path, then, now)
        else:
            journal.begin(alone=False)
        if out.exists() and not then.get("alone", False):
            kept = self._of_table(out, now) + kept
        digests = {c.name: c.identity.digest for c in self._contenders}
        self._entries = journals.still_good(kept, digests, self._asked.limits, self._asked.progress.note)

    def _of_table(self, out: Path, now: dict[str, Any]) -> list[Kept]:
        then = record.read_record(out)
        journals.check_same(record.beside(out), then, now)
        entries = table.entries_of(self._suite, table.read_table(out))
        beyond = {key(entry) for entry in entries} - set(self._wanted)
        if beyond:
            restorer, condition, _ = min(beyond)
            raise StoreError(f"{out}: would lose {len(beyond):,} images that are not asked for now, such as {restorer} "
                             f"on {condition}; ask for them as well, or give another --out")
        known = {one["name"]: one for one in then["restorers"]}
        return [Kept(replace(entry, steady=known.get(entry.restorer, {}).get("reproducible", True)),
                     known.get(entry.restorer, {}).get("digest", ""), Limits(**then["limits"])) for entry in entries]

    def _measured(self, pool: ThreadPoolExecutor, journal: Journal | None) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The table and where it comes from, both written."""
        there = sum(k in self._entries for k in self._wanted)
        if there:
            self._asked.progress.note(f"{there:,} of {len(self._wanted):,} images are kept from before")
        self._asked.progress.begin("bench", len(self._wanted) - there)
        for contender in self._contenders:
            self._restore(pool, contender, journal)
        entries = [self._entries[k] for k in self._wanted]
        self._tell_failures(entries)
        made = table.frame(self._suite, entries)
        told = record.content(self._suite, self._contenders, self._asked.limits, entries, self._asked.workers,
                              usable_cores(), time.monotonic() - self._began)
        if self._asked.out is not None:
            # The record first: one cannot go on with a table that has none.
            record.write_record(self._asked.out, told)
            table.write_table(made, self._asked.out)
        return made, told

    def _restore(self, pool: ThreadPoolExecutor, contender: Contender, journal: Journal | None) -> None:
        """All images of one restorer: finished in any order, kept in that of the suite.

        So the image after which patience ends does not depend on the number of lanes.
        """
        patience = Patience(contender.name, self._asked.limits.timeout, self._asked.progress.note)
        begun: deque[tuple[Group, Future[Done] | None]] = deque()
        for group in self._groups:
            begun.append((group, self._start(pool, contender, group, patience)))
            if len(begun) >= _AHEAD * self._asked.workers:
                self._keep(pool, contender, *begun.popleft(), patience, journal)
        while begun:
            self._keep(pool, contender, *begun.popleft(), patience, journal)

    def _start(self, pool: ThreadPoolExecutor, contender: Contender, group: Group,
               patience: Patience) -> Future[Done] | None:
        name = self._suite.conditions[group.condition].name
        if all((contender.name, name, scene) in self._entries for scene in group.wanted):
            return None
        return pool.submit(self._lanes.run, self._task(contender, group), patience.given_up(name))

    def _task(self, contender: Contender, group: Group) -> Task:
        return Task(contender, tuple(self._suite.case(group.condition, s) for s in group.scenes), group.wanted)

    def _keep(self, pool: ThreadPoolExecutor, contender: Contender, group: Group, future: Future[Done] | None,
              patience: Patience, journal: Journal | None) -> None:
        name = self._suite.conditions[group.condition].name
        reason = patience.given_up(name)
        if future is not None and reason:
            future.cancel()  # one that runs goes on until its time is over, and nobody looks at it
            future = pool.submit(self._lanes.run, self._task(contender, group), reason)
        for entry in () if future is None else future.result().entries:
            if key(entry) not in self._entries:
                self._entries[key(entry)] = entry
                if journal is not None:
                    journal.add(Kept(entry, contender.identity.digest, self._asked.limits))
                self._say(entry)
        for scene in group.wanted:
            entry = self._entries[contender.name, name, scene]
            patience.saw(name, entry.status, entry.message)

    def _say(self, entry: Entry) -> None:
        self._done += 1
        self._failed += entry.status != "ok"
        rate = self._done / max(1e-9, time.monotonic() - self._began)
        self._asked.progress.step(1, f"{self._failed} failed, {rate:.3g}/s, {entry.restorer} {entry.condition}")

    def _tell_failures(self, entries: Sequence[Entry]) -> None:
        for contender in self._contenders:
            of_one = [entry for entry in entries if entry.restorer == contender.name]
            failed = [entry for entry in of_one if entry.status != "ok"]
            if failed:
                first = failed[0]
                self._asked.progress.note(f"{contender.name}: failed on {len(failed):,} of {len(of_one):,} images; "
                                          f"{first.condition}, scene {first.scene}: {first.status}: {first.message}")
            if not all(entry.steady for entry in of_one):
                self._asked.progress.note(f"{contender.name}: returns other figures for the same image: its results "
                                          "cannot be reproduced")

    def _report(self, pool: ThreadPoolExecutor, path: Path, made: pd.DataFrame, told: dict[str, Any]) -> None:
        from emsynth.benchmark.report import write_report
        from emsynth.benchmark.report_images import cases_shown
        from emsynth.benchmark.standing import reference_for, scores

        against = reference_for(self._suite, made)
        shown = cases_shown(self._suite, made, against)
        write_report(path, self._suite, made, scores(self._suite, made, against), self._restored(pool, shown), told,
                     against)

    def _restored(self, pool: ThreadPoolExecutor, shown: Sequence[tuple[str, int]]) -> dict[Key, Floats]:
        """Restored images of the cases in the report, made again: which these are is known only in the end."""
        number = {c.name: n for n, c in enumerate(self._suite.conditions)}
        futures = {
            (c.name, name, scene): pool.submit(self._lanes.run, self._task(c, Group(number[name], (scene,), (scene,))))
            for c in self._contenders for name, scene in shown
            if (c.name, name, scene) in self._entries and self._entries[c.name, name, scene].status == "ok"}
        return {k: image for k, future in futures.items() for image in future.result().restored.values()}
