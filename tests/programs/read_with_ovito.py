"""read_with_ovito.py EXTXYZ: what OVITO's own reader finds in a recorded trajectory."""

import json
import sys

from ovito.io import import_file

pipeline = import_file(sys.argv[1])
frames = [pipeline.compute(k) for k in range(pipeline.num_frames)]
keys = ("attempt", "action", "basin", "new_basin", "trigger", "trigger_reason", "energy")
answer = {
    "marks": [[frame.attributes[key] for key in keys] for frame in frames],
    "positions": frames[2].particles.positions[...].tolist(),
    "forces": frames[2].particles.forces[...].tolist(),
    "cell": frames[0].cell[:, :3].T.tolist(),
    "pbc": list(frames[0].cell.pbc),
}
print(json.dumps(answer))
