"""``python -m gureum.sim``: run seeds, or one seed with its timeline."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from gureum.sim.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gureum.sim", description="Seeded runs of a simulated cloud."
    )
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--steps", type=int, default=60, help="API calls in a run")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--networks", action="store_true", help="mostly calls about VPCs")
    parser.add_argument("--shared", action="store_true", help="with a shared pool")
    parser.add_argument("--ha", action="store_true", help="with a shared pool, and hosts that are lost")
    parser.add_argument("--crash-at", default="", help="die at this crash point only")
    parser.add_argument("--timeline", action="store_true", help="print what happens")
    options = parser.parse_args()
    if options.timeline:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s")
    began = time.monotonic()
    virtual = 0.0
    for seed in range(options.seed, options.seed + options.runs):
        try:
            outcome = simulate(
                seed,
                options.steps,
                options.hosts,
                options.crash_at,
                networks=options.networks,
                shared=options.shared or options.ha,
                ha=options.ha,
            )
        except BaseException:
            print(f"seed {seed} failed", file=sys.stderr)
            raise
        virtual += outcome.virtual_seconds
        if options.runs == 1:
            print(f"answers {dict(outcome.answers)}\nfaults {dict(outcome.faults)}")
            print(f"crashes {dict(outcome.crashes)}\ndigest {outcome.digest}")
    seconds = time.monotonic() - began
    print(f"{options.runs} runs, {virtual:.0f} virtual seconds, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
