"""The maps of 8-bit optimizer state as bitsandbytes makes them, for tests/optim.rs.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 bitsandbytes==0.50.2
    venv/bin/python tests/golden/make_codes.py > tests/golden/codes.json
"""

import json

import bitsandbytes
from bitsandbytes.functional import create_dynamic_map

maps = {name: create_dynamic_map(signed=signed).double().tolist() for name, signed in (("signed", True), ("unsigned", False))}
print(json.dumps({"bitsandbytes": bitsandbytes.__version__, **maps}))
