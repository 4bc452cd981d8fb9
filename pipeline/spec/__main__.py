"""`python -m pipeline.spec`: write the schemas anew, after a change of `keys.py`."""

from pipeline.files import write
from pipeline.spec.keys import SPECS
from pipeline.spec.schema import schema, shipped

for _name in SPECS:
    write(shipped(_name), schema(_name))
