"""increment_twenty_times.py STORE: raises one number of the database, a transaction each time."""

import sys
import time

from rlpath_core.store import Store, orm

with Store(sys.argv[1]) as store:
    for _ in range(20):
        with store.session() as session:
            row = session.get(orm.RunRow, "x")
            assert row is not None
            assert row.seed is not None
            time.sleep(0.002)
            row.seed += 1
