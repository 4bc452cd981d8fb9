"""The groups of steps, as `doit list` shows them, in the order of the data's way, then those that are only for when asked."""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, str] = {
    "fetch": "get each model's file and check its digest",
    "import": "translate each model to MLIR",
    "reference": "make each model's test inputs and reference outputs",
    "score": "score each model's reference on its data set, where it has one",
    "compile": "compile each model for each of its bundles into one fat vmfb",
    "verify": "run every variant this machine can run, compare with the reference",
    "package": "write each model's manifest",
    "publish": "put each model's release into the store",
    "promote": "move a channel to a release in the store, if its policy allows that now (model=NAME version=… channel=…)",
    "reproduce": "build a release of the store once more, without any cache, and compare it byte for byte (model=NAME version=…)",
    "rollback": "move a channel to the release that it pointed to before (model=NAME channel=…)",
    "prune": "remove old releases from the store, and what no release needs (keep=N, then dry=no; model=NAME pins=…)",
    "fsck": "check that everything in the store is there and right (deep=yes reads a bucket's bytes, repair=yes)",
    "yank": 'say that a release in the store is not to be used any more (model=NAME version=… reason="…", or undo=yes)',
    "trust-init": "make keys and sign all that the store holds, from now on (roots=1 threshold=1 days=timestamp:7,…)",
    "trust-rotate": "change who signs a store (role=NAME or model=NAME; key=FILE add=yes remove=ID threshold=2)",
    "trust-witness": "let a witness's evidence count in a signed store (name=NAME key=PUBLIC.pem, or remove=NAME)",
    "trust-refresh": "sign a signed store anew before its time is over: for a timer, with the key that is online",
    "site": "make the pages of the store's catalogue in out/site (site=publish puts them into the store, too)",
    "runtimes": "try what the store's channels point to in releases of IREE's runtime that nobody tried it in",
    "audit": "generate a sample of each model's cached code again and compare (sample=20)",
    "reduce": "write the smallest part of a model that fails as an ONNX file (model=NAME seconds=600)",
    "tune": "search for faster code of the kernels that a model spends its time in, for the devices here (model=NAME budget=600)",
    "report": "tell where the seconds of code generation and the bytes of each file go, by kernel and by variant (model=NAME)",
}
# What a build consists of.
BUILD_GROUPS = ("fetch", "import", "reference", "score", "compile", "verify", "package", "publish")
# What is about the store alone: of models that are no more built here, too.
STORE_GROUPS = ("promote", "rollback", "yank", "prune", "fsck", "site")
