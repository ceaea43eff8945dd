"""One service: `python -m testbed.shop cart --addresses addresses.json --database shop.sqlite`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import zlib
from pathlib import Path

from testbed.shop.server import serve
from testbed.shop.services import DATABASE_USERS, SERVICES


def main() -> None:
    parser = argparse.ArgumentParser(prog="testbed.shop", description=__doc__)
    parser.add_argument("name", choices=sorted(SERVICES))
    parser.add_argument("--addresses", type=Path, required=True, help="JSON: service → http://host:port")
    parser.add_argument("--database", type=Path, required=True, help="the shop's SQLite file")
    told = parser.parse_args()
    addresses = json.loads(told.addresses.read_text())
    base = told.database if told.name in DATABASE_USERS else None

    async def run() -> None:
        work = asyncio.ensure_future(
            serve(told.name, SERVICES[told.name], addresses, base, zlib.crc32(told.name.encode()))
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work

    asyncio.run(run())


if __name__ == "__main__":
    main()
