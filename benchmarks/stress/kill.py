"""`kill -9` at random moments of a build: resumed, it must come to the same bytes each time.

``python -m benchmarks.stress.kill`` builds a small data set undisturbed; then again and again, each time from nothing:
all of the build's processes are killed at a random moment, and the build is resumed to its end. It prints the moments,
what had been finished by then, and whether the checksums are those of the undisturbed build; it exits with 1 where one
differs. About five minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from emsynth import store
from emsynth.store import claims

# No wave is propagated: fields take a second, and the moments fall on fields and on shards alike.
RECIPE = ("stem_ld", "samples=96", "fields=4", "store.shard=3")
_BEGUN = "specimens"  # the first line of a build that is at work
_LONGEST = 120.0  # seconds for one build
_TRIES = 5  # at a moment before the end, where a build has ended before its moment


@dataclass(frozen=True)
class Build:
    """A build in processes of its own.

    Attributes
    ----------
    out : Path
        Its output; the field cache is beside it.
    command : tuple of str
        What builds it, or goes on; it says on stderr what phase begins, as `emsynth build` does.
    """

    out: Path
    command: tuple[str, ...]

    @classmethod
    def of(cls, out: Path, recipe: tuple[str, ...] = RECIPE) -> Build:
        """By the command line, of a recipe by its name and what is set otherwise."""
        settings = [word for setting in recipe[1:] for word in ("--set", setting)]
        return cls(out, (sys.executable, "-m", "emsynth", "build", recipe[0], "--out", str(out), "--workers", "2",
                         "--resume", *settings))

    def start(self) -> subprocess.Popen[str]:
        """Begin it or go on with it, in a process group of its own; returns when it is at work."""
        environment = {**os.environ, "EMSYNTH_CACHE": str(self.out.parent / "cache"), "PYTHONUNBUFFERED": "1"}
        running = subprocess.Popen(self.command, env=environment, start_new_session=True, text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if line.startswith(_BEGUN):
                return running
        raise RuntimeError(f"the build did not begin: {''.join(said)}")

    def finish(self) -> float:
        """Run it to its end; seconds that it was at work."""
        running = self.start()
        began = time.monotonic()
        said = running.communicate(timeout=_LONGEST)[1]
        if running.returncode:
            raise RuntimeError(f"the build failed: {said}")
        return time.monotonic() - began

    def kill(self, moment: float) -> bool:
        """Kill all of it after so many seconds of work; whether it was still there to be killed."""
        running = self.start()
        try:
            running.wait(moment)
            running.communicate()
            return False
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            return True

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return (self.out / "zarr.json").exists() and store.open_store(self.out).complete

    def left(self) -> str:
        """What is there: finished parts, claims, drafts."""
        if not (self.out / "zarr.json").exists():
            drafts = len(list(self.out.parent.glob(f".{self.out.name}.*")))
            return f"no data set yet, {drafts} drafts of one"
        there = store.open_store(self.out)
        entries = [path.name for path in (self.out / claims.FOLDER).glob("*-*")]
        drafts = sum(name.startswith(".") for name in entries)
        return (f"{len(there.finished('field'))} of {there.fields} fields and {len(there.finished('shard'))} of "
                f"{there.shards} shards finished, {len(entries) - drafts} claims and {drafts} drafts left")


def strike(build: Build, draw: random.Random, length: float) -> tuple[float, str]:
    """Kill a new build at a random moment of its work, which takes `length` seconds; the moment, and what was left."""
    for attempt in range(_TRIES):
        moment = draw.uniform(0, length) * 0.8**attempt
        shutil.rmtree(build.out.parent, ignore_errors=True)
        build.out.parent.mkdir(parents=True)
        if build.kill(moment) and not build.complete:
            return moment, build.left()
    raise RuntimeError(f"{_TRIES} builds ended before their moment; the machine is too uneven for this test")


def main() -> int:
    """Kill and resume, as many times as the command line says; 1 where bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    print(f"seed {chosen.seed}: {chosen.moments} moments of emsynth build {' --set '.join(RECIPE)} --workers 2")
    same, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emsynth-kill-") as folder:
        for name in ("first", "whole"):  # kernels may have to be compiled in the first
            whole = Build.of(Path(folder) / name / "x.zarr")
            whole.out.parent.mkdir()
            length = whole.finish()
        wanted = store.checksums(whole.out)
        print(f"undisturbed: {length:.1f} s of work, {wanted['total'][:16]}")
        for number in range(chosen.moments):
            build = Build.of(Path(folder) / "killed" / "x.zarr")
            moment, left = strike(build, draw, length)
            again = build.finish()
            found = store.checksums(build.out)
            wrong = [f"{part} differs" for part in wanted if found.get(part) != wanted[part]] + store.verify(build.out)
            wrong += [f"{name} is left" for name in litter(build.out)]
            same += not wrong
            print(f"{number + 1:2d}: killed after {moment:5.2f} s: {left}; resumed in {again:.1f} s: "
                  f"{'; '.join(wrong) or 'the same bytes'}", flush=True)
    print(f"{same} of {chosen.moments} times the same bytes, in {time.monotonic() - began:.0f} s")
    return int(same < chosen.moments)


def litter(out: Path) -> list[str]:
    """Claims and drafts of a killed build that a resumed one has not cleared away."""
    return [path.name for path in (out / claims.FOLDER).glob("*-*")]


if __name__ == "__main__":
    sys.exit(main())
