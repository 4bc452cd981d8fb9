"""The groups of steps, as `doit list` shows them, in the order of the data's way, then those that are only for when asked."""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, str] = {
    "fetch": "get each model's file and check its digest",
    "import": "translate each model to MLIR",
    "reference": "make each model's test inputs and reference outputs",
    "score": "score each model's reference on its data set, if it has one",
    "compile": "compile each model for each of its bundles into a fat vmfb",
    "verify": "run every variant that runs here, compare with the reference",
    "package": "write each model's manifest",
    "publish": "put each release into the store (version=… channel=…)",
    "promote": "move a channel to a release (model=… version=… channel=…)",
    "reproduce": "build a release again, compare its bytes (model=… version=…)",
    "rollback": "move a channel back to what it was (model=… channel=…)",
    "prune": "remove old releases from the store (keep=… dry=no)",
    "fsck": "check all that the store holds (deep=yes repair=yes)",
    "yank": "say that a release is not to be used (model=… version=…)",
    "trust-init": "make keys and sign what the store holds, from now on",
    "trust-rotate": "change who signs a store (role=… or model=…; key=…)",
    "trust-witness": "let a witness's evidence count in a signed store (name=…)",
    "trust-refresh": "sign a store anew before its time is over, for a timer",
    "site": "make pages of store and documentation (site=publish)",
    "runtimes": "try the store's channels in other releases of the runtime",
    "audit": "generate a sample of cached code again, compare (sample=…)",
    "reduce": "write the smallest part of a model that fails (model=…)",
    "tune": "search for faster code for the devices here (model=…)",
    "report": "tell where seconds and bytes go, by kernel (model=…)",
}
# What may be said after steps: NAME=VALUE. Steps, what it means, and what is meant without it.
WORDS: Mapping[str, tuple[str, str, str]] = {
    "version": (
        "publish, promote, reproduce, rollback, yank",
        "the release's version",
        "that by which a channel knows the content, or derived from it",
    ),
    "channel": ("publish, promote, rollback", "the channel that moves", "latest"),
    "model": ("all but those that build", "the model that it is about", "every model, where that makes sense"),
    "reason": ("yank", "why the release is not to be used", ""),
    "undo": ("yank", "yes: it may be used again", "no"),
    "keep": ("prune", "how many releases of each model stay", "must be said"),
    "pins": ("prune", "releases that stay, with commas between, beside those in targets/pins.txt", ""),
    "dry": ("prune", "no: remove, and do not only say what would go", "yes"),
    "deep": ("fsck", "yes: read every byte of a bucket", "no"),
    "repair": ("fsck", "yes: put back and remove what can be", "no"),
    "site": ("site", "publish: put the pages into the store, too", ""),
    "sample": ("audit", "how many cached pieces of each bundle", "20"),
    "seconds": ("reduce", "how long to search", "600"),
    "budget": ("tune", "seconds for each model", "600"),
    "target": ("tune", "executable targets, with commas between", "all that run here"),
    "role": ("trust-rotate", "whose key changes: root, targets or online", ""),
    "key": ("trust-rotate, trust-witness", "file of a public key", "a new one is made"),
    "add": ("trust-rotate", "yes: the key counts beside the others, and replaces none", "no"),
    "remove": ("trust-rotate, trust-witness", "the key, or the witness, that counts no more", ""),
    "name": ("trust-witness", "what the witness is called", ""),
    "roots": ("trust-init", "how many root keys are made", "1"),
    "threshold": ("trust-init, trust-rotate", "how many of them must sign", "1"),
    "days": ("trust-init, trust-rotate", "how long a state is believed: timestamp:7,…", "see threats"),
}
# What a build consists of.
BUILD_GROUPS = ("fetch", "import", "reference", "score", "compile", "verify", "package", "publish")
# What is about the store alone: of models that are no more built here, too.
STORE_GROUPS = ("promote", "rollback", "yank", "prune", "fsck", "site")
