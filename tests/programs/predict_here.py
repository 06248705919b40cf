"""predict_here.py MANIFEST STRUCTURES: what a model of this environment predicts for three structures."""

import json
import sys

from rlpath_core.backends import load_local
from rlpath_core.structure import read_structures

model = load_local(sys.argv[1])
predictions = model.predict(read_structures(sys.argv[2])[:3], embeddings=True)
answer = []
for prediction in predictions:
    assert prediction.forces is not None
    assert prediction.node_embedding is not None
    answer.append([prediction.energy, prediction.forces.tolist(), prediction.node_embedding.tolist()])
print(json.dumps(answer))
