"""Change who signs: other keys for a role, more or fewer of them, a role of its own for a model.

Every state that a consumer can see on the way is signed as the root asks that it sees then: first the root takes the new keys
beside the old ones, then the new ones sign what the role says, then the root drops the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, Targets

from pipeline.errors import PipelineError
from pipeline.files import expanded, is_file, write
from pipeline.names import RULE, did_you_mean, is_name
from pipeline.store.base import Store
from pipeline.trust.anchors import Anchor, TrustError
from pipeline.trust.client import root_lines, trust_errors
from pipeline.trust.keys import ONLINE, ONLINE_ROLES, Keys, find_keys, key_folder, make_key, public_key_of, read_public_key
from pipeline.trust.repository import DAYS, TOP, Repository, change, metadata_key, newest_root, read, sign
from pipeline.trust.view import EVIDENCE, TARGETS, Delegation

MODEL_PATHS = ("releases/{}/*/*", "channels/{}/*", "yanked/{}/*", "evidence/{}/*/*")


@dataclass(frozen=True)
class Rotation:
    """What is to change of a `role`, which may be new if it is that of a `model`.

    `key` is the file or URI of a new key (empty: one is made, if nothing else is asked for). `add`: the old ones stay. `remove`:
    the beginning of the id of one that goes. `threshold`: how many have to sign (0: as before).
    """

    role: str
    key: str = ""
    add: bool = False
    remove: str = ""
    threshold: int = 0
    days: tuple[tuple[str, int], ...] = ()
    model: bool = False

    def __post_init__(self) -> None:
        if not is_name(self.role):
            hint = f"role={ONLINE}, role={', role='.join((*TOP, EVIDENCE))}, or model=NAME: {RULE}"
            raise PipelineError(f"role={self.role:.60} is no role", hint=hint)
        if self.model and self.role in (*TOP, EVIDENCE, ONLINE):
            raise PipelineError(f"model={self.role} can have no role of its own: another role is called so")

    @property
    def makes(self) -> bool:
        """Whether a key is to be made."""
        return not (self.key or self.add or self.remove or self.threshold or self.days)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that this is about: the key that is online has several."""
        return ONLINE_ROLES if self.role == ONLINE else (self.role,)


def rotate(store: Store, anchor: Anchor, rotation: Rotation) -> list[str]:
    """Do it. What is to be told. Raises PipelineError where keys are not here, or too few would be left; TrustError for a store
    that is not signed as it must be."""
    with trust_errors(anchor.store):
        repository = read(store, anchor, find_keys())
        _require_possible(repository, rotation)
        new = _new_keys(rotation)
        keys = find_keys()  # with those that were just made
        top = [role for role in rotation.roles if role in TOP]
        before = repository.root.signed
        wanted = {role: _wanted(before.roles[role], new, rotation) for role in top}
        _require_signers(wanted, before, new, keys)
        if "root" in top or rotation.days:
            _next_root(store, anchor, keys, wanted, rotation, new)
        elif top:
            both = {role: _both(before.roles[role], wanted[role]) for role in top}
            _next_root(store, anchor, keys, both, rotation, new)
        _sign_again(store, anchor, keys, rotation, new, before.roles[TARGETS].keyids)
        if top and "root" not in top:
            _settle(store, anchor, keys, wanted, rotation)
        root = newest_root(store, anchor)
    data = root.to_bytes()
    write(key_folder() / "root.json", data)
    return [
        f"{anchor.store}: {' and '.join(rotation.roles)} changed",
        *root_lines(data, "root.json"),
        *_roles(store, anchor, keys),
    ]


def _roles(store: Store, anchor: Anchor, keys: Keys) -> list[str]:
    repository = read(store, anchor, keys)
    lines = []
    for one in repository.delegations():
        found, threshold = repository.keys_of(one.role)
        lines.append(f"  {one.role}: {threshold} of {len(found)}: {', '.join(key.keyid for key in found)}, for {one.paths[0]}, …")
    return lines


def _require_possible(repository: Repository, rotation: Rotation) -> None:
    """Raise PipelineError, before any key is made, where those are not here who have to sign."""
    names = [one.role for one in repository.delegations()]
    roles = rotation.roles
    is_new = roles[0] not in (*TOP, *names)
    if is_new and not rotation.model:
        hint = did_you_mean(roles[0], {*TOP, ONLINE, *names})
        raise PipelineError(f"role={roles[0]}: there is no such role", hint=f"{hint} A model gets one by model=NAME")
    if any(role in TOP for role in roles) or rotation.days:
        repository.require("root")
    if is_new or any(role in names for role in roles):
        repository.require("targets")
    if is_new and not (rotation.makes or rotation.key):
        raise PipelineError(f"{roles[0]} has no keys yet", hint="leave out add=, remove= and threshold=, or give key=FILE")
    if roles != ("root",):
        repository.require(*(role for role in ("snapshot", "timestamp") if role not in roles))
    if rotation.remove:
        ids = [key.keyid for role in roles if role in (*TOP, *names) for key in repository.keys_of(role)[0]]
        if not any(keyid.startswith(rotation.remove) for keyid in ids):
            raise PipelineError(f"remove={rotation.remove:.80} is no key of {rotation.role}", hint=f"keys: {', '.join(ids)}")


def _new_keys(rotation: Rotation) -> list[Key]:
    if rotation.makes:
        return [make_key(key_folder(), rotation.role).public_key]
    if not rotation.key:
        return []
    path = expanded(rotation.key)
    if ":" in rotation.key and not is_file(str(path)):
        return [public_key_of(rotation.key)]
    return [read_public_key(path)]


def _wanted(role: Role, new: Sequence[Key], rotation: Rotation) -> Role:
    """The role as it is to be in the end."""
    stays = [] if new and not (rotation.add or rotation.remove) else role.keyids
    ids = [keyid for keyid in stays if not rotation.remove or not keyid.startswith(rotation.remove)]
    ids = list(dict.fromkeys([*ids, *(key.keyid for key in new)]))
    threshold = rotation.threshold or (min(role.threshold, len(ids)) if not rotation.remove else role.threshold)
    if not 1 <= threshold <= len(ids):
        hint = "add a key first, or give threshold= too"
        raise PipelineError(f"{threshold} of {len(ids)} keys cannot sign as {rotation.role}", hint=hint)
    return Role(ids, threshold)


def _require_signers(wanted: dict[str, Role], root: Root, new: Sequence[Key], keys: Keys) -> None:
    """Raise PipelineError where what the roles say could not be signed here, as it has to be in the end."""
    known = {**root.keys, **{key.keyid: key for key in new}}
    for name, role in wanted.items():
        here = len(keys.of(name, [known[keyid] for keyid in role.keyids]))
        if name != "root" and here < role.threshold:
            hint = "put the private key into a folder of PIPELINE_KEYS, or add the public one beside those that are here: add=yes"
            raise PipelineError(f"{role.threshold} of the keys of {name} have to sign, and {here} of them are here", hint=hint)


def _both(old: Role, wanted: Role) -> Role:
    return Role(list(dict.fromkeys([*old.keyids, *wanted.keyids])), min(old.threshold, wanted.threshold))


def _next_root(
    store: Store, anchor: Anchor, keys: Keys, roles: dict[str, Role], rotation: Rotation, new: Sequence[Key]
) -> Metadata[Root]:
    """Write the root that follows, with these roles; signed by enough keys of the root before it, and of itself."""
    before = newest_root(store, anchor).signed
    root = deepcopy(before)
    root.version += 1
    known = {**root.keys, **{key.keyid: key for key in new}}
    root.roles.update(roles)
    used = {keyid for role in root.roles.values() for keyid in role.keyids}
    root.keys = {keyid: key for keyid, key in known.items() if keyid in used}
    days = {**root.unrecognized_fields.get(DAYS, {}), **dict(rotation.days)}
    root.unrecognized_fields[DAYS] = days
    metadata = Metadata(root)
    signers = [one.get_key(keyid) for one in (before, root) for keyid in one.roles["root"].keyids]
    sign(metadata, int(days.get("root", 365)), keys, "root", list({key.keyid: key for key in signers}.values()))
    for one, which in ((before, "present"), (root, "new")):
        result = one.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
        if not result:
            what = f"{result.threshold} of the {which} root keys have to sign, and {len(result.signed)} of them are here"
            hint = "PIPELINE_KEYS names all folders that they are in, separated by commas"
            raise PipelineError(what, where=anchor.store, hint=hint)
    if not store.create(metadata_key("root", root.version), metadata.to_bytes()):
        raise PipelineError("another changed the root meanwhile", where=anchor.store, hint="run the same command again")
    return metadata


def _sign_again(store: Store, anchor: Anchor, keys: Keys, rotation: Rotation, new: Sequence[Key], before: Sequence[str]) -> None:
    """Let the new keys sign what the roles say, and the top targets name those of the roles that they delegate. `before` are the
    ids of the keys that the top had."""
    if rotation.role == "root":
        return

    def edit(repository: Repository) -> bool:
        for role in rotation.roles:
            if role not in TOP:
                _delegate(repository, role, rotation, new)
            elif role != "timestamp":
                repository.changed.add(role)
            if role == TARGETS:
                _follow(repository, rotation, new, before)
        return True

    change(store, anchor, keys, edit)


def _follow(repository: Repository, rotation: Rotation, new: Sequence[Key], before: Sequence[str]) -> None:
    """Give the roles of models the new keys of the top targets, in the place of those that the top had."""
    delegations = repository.targets.delegations
    for one in repository.delegations():
        if one.role == EVIDENCE or delegations is None or delegations.roles is None:
            continue
        role = delegations.roles[one.role]
        own = [keyid for keyid in role.keyids if keyid not in before]
        role.keyids = [*own, *_wanted(Role([k for k in role.keyids if k in before] or [*before], 1), new, rotation).keyids]
        repository.changed.add(one.role)
    _name_keys(repository, new)


def _name_keys(repository: Repository, new: Sequence[Key]) -> None:
    """Have the keys in the top targets that roles have there, and no others."""
    delegations = repository.targets.delegations
    if delegations and delegations.roles:
        known = {**repository.root.signed.keys, **delegations.keys, **{key.keyid: key for key in new}}
        used = {keyid for one in delegations.roles.values() for keyid in one.keyids}
        delegations.keys = {keyid: key for keyid, key in known.items() if keyid in used}


def _delegate(repository: Repository, role: str, rotation: Rotation, new: Sequence[Key]) -> None:
    """Give a role of the top targets its keys; a new one, for a model, what the top said of that model, too.

    The keys of the top may sign for a model as well: what they sign themselves is believed before it anyway.
    """
    delegations = repository.targets.delegations
    if delegations is None or delegations.roles is None:
        raise TrustError("has metadata of another program, without delegations", where=repository.anchor.store)
    roles = delegations.roles
    if role in roles:
        top = repository.root.signed.roles[TARGETS].keyids if role != EVIDENCE else []
        own = Role([keyid for keyid in roles[role].keyids if keyid not in top], roles[role].threshold)
        wanted = _wanted(own, new, rotation)
        wanted.keyids += top
        roles[role].keyids, roles[role].threshold = wanted.keyids, wanted.threshold
    else:
        wanted = _wanted(Role([], 1), new, rotation)
        wanted.keyids += repository.root.signed.roles[TARGETS].keyids
        paths = [path.format(role) for path in MODEL_PATHS]
        made = DelegatedRole(role, wanted.keyids, wanted.threshold, False, paths)
        last = roles.pop(EVIDENCE, None)  # what publishers say comes before
        roles.update({role: made, **({EVIDENCE: last} if last else {})})
        mine, fits = Metadata(Targets()), Delegation(role, tuple(paths)).fits
        mine.signed.version = 0
        mine.signed.targets = {key: target for key, target in repository.targets.targets.items() if fits(key)}
        for key in mine.signed.targets:
            del repository.targets.targets[key]
        repository.roles[role] = mine
    _name_keys(repository, new)
    repository.changed |= {role, TARGETS}


def _settle(store: Store, anchor: Anchor, keys: Keys, wanted: dict[str, Role], rotation: Rotation) -> None:
    """Drop the old keys from the root; if another signed with one of them meanwhile, that is signed anew."""
    last = newest_root(store, anchor).signed.version
    root = _next_root(store, anchor, keys, wanted, rotation, [])
    while True:
        try:
            read(store, anchor, keys)
            return
        except TrustError:
            repository = read(store, anchor, keys, last)
            repository.root = root
            repository.changed |= {role for role in wanted if role != "timestamp"}
            repository.commit() if repository.changed else repository.touch()
