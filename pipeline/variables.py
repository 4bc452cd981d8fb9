"""The variables of the environment that are obeyed, once: for `vmfb --help` and the reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """A variable: what it says, in a few words, what holds without it, and whether `vmfb` obeys it too, and not `doit` alone."""

    name: str
    about: str
    default: str
    consumer: bool = False


OWN = (
    Variable("PIPELINE_STORE", "the store: a folder, s3://…, https://…, oci://…, hf://… or a bundle", "out/store", consumer=True),
    Variable("VMFB_CACHE", "folder of what was fetched", "vmfb-pipeline in the user's cache folder", consumer=True),
    Variable("VMFB_LOCK", "file of `vmfb lock` that names mean what it says, as --lock", "none", consumer=True),
    Variable("VMFB_REQUIRE_SIGNED", "1: refuse stores whose signers are not known here", "0", consumer=True),
    Variable("VMFB_TRUST_DIR", "folder that says who is believed", "vmfb-pipeline/trust in the user's settings", consumer=True),
    Variable("VMFB_WITNESS_KEY", "key file that `vmfb attest` signs with", "what was seen is not signed", consumer=True),
    Variable("PIPELINE_CACHE_DIR", "folder of generated code", "vmfb-pipeline/pieces in the user's cache folder"),
    Variable("PIPELINE_CACHE_SIZE", "how large it may be: 500M, 4G", "4G"),
    Variable("PIPELINE_CACHE", "a cache of code that machines share: s3://bucket/prefix or a folder", "none"),
    Variable("PIPELINE_CACHE_READ_ONLY", "1: put nothing into the shared cache", "it is written to"),
    Variable("PIPELINE_CACHE_KEY", "file with the builders' common key: what has no seal of it is not believed", "none"),
    Variable("PIPELINE_KEYS", "where the keys are that sign a store: folders, and ROLE=URI", "keys in the user's settings", True),
    Variable("PIPELINE_WITNESSES", "machines that verify too: ssh://host with commas between, or dask", "none"),
    Variable("PIPELINE_WITNESS_TIMEOUT", "seconds that a witness may take", "600"),
    Variable(
        "PIPELINE_RUNTIMES",
        "releases of IREE's runtime that files are tried in, or none",
        "the compiler's, two before it, the newest",
    ),
    Variable("PIPELINE_SCHEDULER", "a Dask scheduler, whose workers generate code", "code is generated here"),
    Variable("PIPELINE_SCHEDULER_TIMEOUT", "seconds without a worker after which code is generated here", "60"),
    Variable("PIPELINE_KERNEL_TIMEOUT", "seconds that the compiler may take for one kernel", "300"),
    Variable("PIPELINE_BUILDER", "URI by which provenance calls this builder", "urn:vmfb-pipeline:builder"),
)
# Those of others, which mean here what they mean there.
COMMON = (
    Variable(
        "AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3",
        "credentials, region and server for s3://…, as others of AWS's are",
        "AWS's usual chain",
        True,
    ),
    Variable("AWS_ENDPOINT_URL", "server for s3://…, where AWS_ENDPOINT_URL_S3 is not set", "AWS", consumer=True),
    Variable(
        "HF_TOKEN, HF_ENDPOINT", "login and server of the Hugging Face hub", "`hf auth login`, huggingface.co", consumer=True
    ),
    Variable("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "the way to the web", "none", consumer=True),
    Variable(
        "REQUESTS_CA_BUNDLE, SSL_CERT_FILE, CURL_CA_BUNDLE", "certificates of oci:// registries", "the system's", consumer=True
    ),
    Variable("DOCKER_CONFIG", "folder of logins to oci:// registries", "~/.docker", consumer=True),
    Variable("XDG_CACHE_HOME, XDG_CONFIG_HOME, XDG_RUNTIME_DIR", "the user's folders", "~/.cache, ~/.config", consumer=True),
    Variable("LOCALAPPDATA, APPDATA", "the user's folders on Windows", "", consumer=True),
    Variable("GITHUB_STEP_SUMMARY", "file for the page of a CI job: what was built goes there, too", "none"),
    Variable("NO_COLOR, FORCE_COLOR", "no colours on terminals; colours in files too", "colours on terminals", consumer=True),
    Variable("TERM, WT_SESSION", "whether a terminal can have colours", "yes; on Windows: no", consumer=True),
    Variable("CI", "`doit` prints plain lines on a terminal too", "a status line on terminals"),
)
INTERNAL = ("VMFB_RUN", "OPENBLAS_NUM_THREADS", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")  # given to the programs that are started


def told() -> str:
    """The own variables that everybody who uses a release may want, for the foot of the help."""
    names = [variable.name for variable in OWN if variable.consumer and variable.name.startswith("VMFB_")]
    return f"variables: PIPELINE_STORE, {', '.join(names)}; the documentation, which `doit site` makes, has all of it"
