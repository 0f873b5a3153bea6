"""The long run: `python -m tests.chaos --calls 1000 --store both --seed 7`; exit 1 if anything was violated."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.processes import KINDS
from tests.chaos.run import Plan, run
from tests.chaos.table import table


def main() -> int:
    """Run, and print the table."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="chaos-"))
    outcomes = []
    for kind in KINDS if args.store == "both" else (args.store,):
        here = folder / kind
        here.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            kind,
            args.seed,
            args.calls,
            args.clients,
            args.seconds,
            args.fault_every,
            args.cut,
            args.fsync,
            args.broken,
        )
        outcomes.append(asyncio.run(run(plan, here)))
    print(table(outcomes))
    violations = [violation for outcome in outcomes for violation in outcome.violations]
    for violation in violations[:50]:
        print(f"VIOLATED  {violation}")
    print(f"seed {args.seed}; logs in {folder}")
    return 1 if violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="how many calls are made")
    parser.add_argument("--store", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further call after so long")
    parser.add_argument("--clients", type=int, default=16, help="how many calls are made at once")
    parser.add_argument("--fault-every", type=float, default=2.0, help="seconds between two faults, on average")
    parser.add_argument("--cut", type=float, default=0.03, help="how likely a request to an agent is cut")
    parser.add_argument("--fsync", choices=["always", "everysec", "no"], default="always")
    parser.add_argument("--broken", choices=["no-fence", "no-effect-record", "resend-without-asking"])
    parser.add_argument("--folder", help="where logs, data and ledger are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
