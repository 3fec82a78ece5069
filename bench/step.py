"""How fast stepping served envs is: each row measured against its reference in the same run.

    python bench/step.py [--rows W1,W3] [--starts 3] [--seconds 2]

Every start brings up the row's servers afresh; within it both sides are measured in turns. A row shows the
medians of both sides, the median and the range of the figure over the starts, and how busy the machine was
meanwhile with something else, as a share of one core: beyond a few percent the row says little. `--list`
names the rows.
"""

from __future__ import annotations

import argparse
import os
import sys

import flight
import footprint
import placement
import pools
import round_trip
import wire
from rows import Row, Settings, Unavailable, heading, left_out, shown

# further modules' rows go here
ROWS: list[Row] = [*wire.ROWS, *flight.ROWS, *round_trip.ROWS, *footprint.ROWS, *pools.ROWS]


def chosen_rows(names: str) -> list[Row]:
    """The rows of these names, separated by commas, in the table's order; all without names."""
    wanted = [name for name in names.split(",") if name]
    if unknown := set(wanted) - {row.name for row in ROWS}:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not wanted or row.name in wanted]


def measured(row: Row, settings: Settings, starts: int) -> str:
    """The row's lines."""
    try:
        with placement.Strangers() as strangers:
            found = [row.measure(settings) for _ in range(starts)]
    except Unavailable as why:
        return left_out(row, str(why))
    return shown(row, found, strangers.share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="names, separated by commas (default all)")
    parser.add_argument("--starts", type=int, default=3, help="how often the servers are started (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each side is measured in a start")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    arguments = parser.parse_args()
    rows = chosen_rows(arguments.rows)
    if arguments.list:
        print("\n".join(f"{row.name:5} {row.what}, against {row.against}" for row in rows))
        return
    settings = Settings(arguments.seconds, *placement.cores())
    print(
        f"client on core {settings.client_core}, `split` servers on core {settings.other_core}; "
        f"Python {sys.version.split()[0]}; load before {os.getloadavg()[0]:.2f}; "
        f"{arguments.starts} starts, {arguments.seconds:g} s a side"
    )
    print(heading(), flush=True)
    with placement.pinned(settings.client_core):
        for row in rows:
            print(measured(row, settings, arguments.starts), flush=True)


if __name__ == "__main__":
    main()
