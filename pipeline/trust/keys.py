"""The keys of those who sign: files in folders, key services and hardware. All signing is done by securesystemslib.

PIPELINE_KEYS names where they are, separated by commas: folders of `*.pem`, and `ROLE=URI` for what has no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3  # noqa: F401  # before securesystemslib, which else does without AWS
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, AWSSigner, CryptoSigner, GCPSigner, HSMSigner, Key, Signer, SSlibKey

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, staged
from pipeline.names import RULE, is_name
from pipeline.trust.anchors import folder as trust_folder

VARIABLE = "PIPELINE_KEYS"
ONLINE = "online"  # the name of the key that signs what has to be signed anew often
ONLINE_ROLES = ("snapshot", "timestamp", "evidence")
_PEM = ".pem"
_LONG = 1 << 16  # bytes of a file of a key


def _scheme(uri: str) -> str:
    """What a URI of a key begins with: the rest may be secret."""
    return f"{uri.partition(':')[0]}:…"


@dataclass(frozen=True)
class Keys:
    """What may sign here: signers of files by the ids of their keys, and the URIs that are given for roles."""

    files: Mapping[str, Signer]
    uris: Sequence[tuple[str, str]] = ()
    named: str = ""  # where they come from, for people

    def of(self, role: str, keys: Collection[Key]) -> list[Signer]:
        """Those that may sign as `role`, whose keys are these. Raises PipelineError where a URI is no use."""
        found = [self.files[key.keyid] for key in keys if key.keyid in self.files]
        for name, uri in self.uris:
            if name == role or (name == ONLINE and role in ONLINE_ROLES):
                found += [signer for key in keys if key.keyid not in self.files and (signer := signer_of(uri, key))]
        return found


def signer_of(uri: str, key: Key) -> Signer | None:
    """What signs by the URI of a private key; None for a file of another one."""
    with _uri_errors(uri):
        try:
            return Signer.from_priv_key_uri(uri, key)
        except ValueError:  # a file has another key: that alone is found out here
            if uri.startswith(f"{CryptoSigner.SCHEME}:"):
                return None
            raise


@contextmanager
def _uri_errors(uri: str) -> Iterator[None]:
    """Say whatever a key service raises as one of ours, with nothing of the URI but its scheme."""
    scheme, _, rest = uri.partition(":")
    if scheme not in SIGNER_FOR_URI_SCHEME:
        known = ", ".join(sorted(SIGNER_FOR_URI_SCHEME))
        raise PipelineError(f"there is no kind of keys {scheme:.40}:", where="keys", hint=f"known: {known}")
    try:
        yield
    except PipelineError:
        raise
    except (UnsupportedLibraryError, ImportError) as error:
        raise PipelineError(f"{error}", where=_scheme(uri), hint="install that package beside this one") from error
    except Exception as error:  # services have errors of many kinds
        told = str(error).replace(rest, "…") if rest else str(error)
        raise PipelineError(
            f"cannot be used: {told:.300}", where=_scheme(uri), hint="check the URI, and who may use it"
        ) from error


def default_folder() -> Path:
    """Where keys are made, and looked for, that nobody names another place for."""
    if (trust := trust_folder()) is None:
        raise PipelineError("you have no home folder, so no keys", hint=f"set {VARIABLE} to a folder")
    return trust.with_name("keys") if trust.name == "trust" else trust / "keys"


def places() -> tuple[list[Path], list[tuple[str, str]]]:
    """What PIPELINE_KEYS names: folders, and URIs with the roles that they are for."""
    folders, uris = list[Path](), list[tuple[str, str]]()
    for word in filter(None, os.environ.get(VARIABLE, "").split(",")):
        role, equals, uri = word.partition("=")
        if equals and is_name(role) and ":" in uri:
            uris.append((role, uri))
        elif equals:
            hint = f"write a folder, or ROLE=URI, where a role is a name: {RULE}"
            raise PipelineError("has a word that is neither a folder nor ROLE=URI", where=VARIABLE, hint=hint)
        else:
            folders.append(expanded(word))
    return folders or ([] if uris else [default_folder()]), uris


def key_folder() -> Path:
    """Where new keys go: the first folder that is named. Raises PipelineError where only URIs are."""
    folders, _ = places()
    if not folders:
        raise PipelineError("names no folder for new keys", where=VARIABLE, hint=f"{VARIABLE}=FOLDER,ROLE=URI,…")
    return folders[0]


def find_keys() -> Keys:
    """All that PIPELINE_KEYS names; folders that are not there have none. Raises PipelineError for what is no key, or not kept
    as one."""
    folders, uris = places()
    files: dict[str, Signer] = {}
    for folder in folders:
        with disk_errors(str(folder)):
            paths = sorted(folder.glob(f"*{_PEM}")) if folder.is_dir() else []
        for path in paths:
            if signer := read_key(path):
                files[signer.public_key.keyid] = signer
    return Keys(files, uris, ", ".join([*map(str, folders), *(f"{role}={_scheme(uri)}" for role, uri in uris)]))


def read_key(path: Path) -> CryptoSigner | None:
    """The private key in a file; None for a public one. Raises PipelineError for one that others may read, or that is no key."""
    with disk_errors(str(path)), path.open("rb") as file:
        is_private, data = platforms.is_private(file.fileno()), file.read(_LONG)
    if b"PRIVATE KEY" not in data:
        return None
    if not is_private:
        hint = "`chmod 600` it; and make new keys if anybody may have read it"
        raise PipelineError("may be read by others, and is a private key", where=str(path), hint=hint)
    try:
        return CryptoSigner(load_pem_private_key(data, None))
    except (ValueError, TypeError) as error:  # its text may tell of the key
        hint = "it must be PEM (PKCS #8), without a password"
        raise PipelineError("is no private key that can be used", where=str(path), hint=hint) from error


def read_public_key(path: Path) -> SSlibKey:
    """The public key in a file, that of a private one too."""
    if signer := read_key(path):
        return signer.public_key
    with disk_errors(str(path)), path.open("rb") as file:
        data = file.read(_LONG)
    try:
        return SSlibKey.from_crypto(load_pem_public_key(data))
    except (ValueError, TypeError) as error:
        raise PipelineError("is no public key", where=str(path), hint="it must be PEM") from error


_IMPORTS: Mapping[str, Callable[[str], tuple[str, Key]]] = {
    AWSSigner.SCHEME: lambda rest: AWSSigner.import_(rest),
    GCPSigner.SCHEME: lambda rest: GCPSigner.import_(rest),
    HSMSigner.SCHEME: lambda _: HSMSigner.import_(),
}


def public_key_of(uri: str) -> Key:
    """The public key that belongs to the URI of a private one, which its service tells."""
    scheme, _, rest = uri.partition(":")
    with _uri_errors(uri):
        if scheme == CryptoSigner.SCHEME:
            return read_public_key(Path(rest))
        if scheme not in _IMPORTS:
            raise PipelineError(f"{scheme}: tells no public key", where=VARIABLE, hint="give key=FILE, with the public key")
        return _IMPORTS[scheme](rest)[1]


def public_pem(signer: CryptoSigner) -> bytes:
    """The public half of a key, to be given to others."""
    public = load_pem_private_key(signer.private_bytes, None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_key(folder: Path, name: str) -> CryptoSigner:
    """A new key in the file `NAME.pem`, or `NAME-2.pem`, … where that is taken. Nobody but its owner can read it."""
    made = CryptoSigner.generate_ed25519()
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number, path = 1, folder / f"{name}{_PEM}"
        while path.exists():
            number += 1
            path = folder / f"{name}-{number}{_PEM}"
        with staged(path, mode=0o600) as temporary:  # which is made with that mode
            temporary.write_bytes(made.private_bytes)
    return made


def public_keys(name: str) -> list[Key]:
    """The keys that are named so: of files `NAME.pem` or `NAME-….pem`, private or public, and of URIs."""
    folders, uris = places()
    found: list[Key] = []
    for folder in folders:
        with disk_errors(str(folder)):
            paths = sorted(folder.glob(f"{name}*{_PEM}"))
        found += [read_public_key(path) for path in paths if path.stem == name or path.stem.startswith(f"{name}-")]
    return [*found, *(public_key_of(uri) for role, uri in uris if role == name)]
