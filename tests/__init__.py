"""The tests, and the benchmarks below `bench`. Specs that they write have no aliases: the project reads none."""

import yaml

yaml.SafeDumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign,assignment]
