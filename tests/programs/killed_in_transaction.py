"""killed_in_transaction.py STORE: puts a water molecule and is killed before the transaction commits."""

import os
import signal
import sys

from ase.build import molecule

from rlpath_core.store import Store
from rlpath_core.structure import Structure

with Store(sys.argv[1]) as store, store.session() as session:
    store.put([Structure.from_ase(molecule("H2O"))], session)
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
