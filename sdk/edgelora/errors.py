"""Every error edgelora raises on purpose.

Each class has a stable ``id`` (printed, and in ``--json``) and an ``exit_code``, which is the class of
failure a script can branch on. An instance demands a ``fix``: the next thing to type or change.

| exit code | class |
|---|---|
| 1 | a bug in edgelora or a plugin |
| 2 | usage (click) |
| 3 | bad recipe, options, data or files |
| 4 | not found |
| 5 | digest mismatch |
| 6 | not trusted: a signature, or a release its publisher withdrew |
| 7 | incompatible base, derivative or version |
| 8 | over a budget: memory, disk or time |
| 9 | offline and not cached, or not reachable |
| 10 | an evaluation gate failed |
| 11 | export not supported |
| 130 | interrupted, checkpoint saved |
"""

from __future__ import annotations

from typing import ClassVar


class EdgeloraError(Exception):
    """A failure with a stable id, an exit code, and what to do next.

    Args:
        problem: What happened to which named thing and why, with the values.
        fix: The next thing to type or change.
    """

    id: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.fix)


def _rebuild(kind: type[EdgeloraError], problem: str, fix: str) -> EdgeloraError:
    return kind(problem, fix=fix)


class EdgeloraWarning(UserWarning):
    """What edgelora itself warns of, for ``warnings.warn``; ``--quiet`` leaves it in."""


# 1: bugs


class PluginBug(EdgeloraError):
    """A part broke the protocol of its hook."""

    id = "plugin-bug"


# 3: bad recipe, options, data or files


class RecipeError(EdgeloraError):
    """The recipe is not valid YAML, or holds a wrong or unknown key."""

    id = "recipe-invalid"
    exit_code = 3


class OptionsError(EdgeloraError):
    """A part refuses its options."""

    id = "options-invalid"
    exit_code = 3


class PlanError(EdgeloraError):
    """The recipe is well formed but cannot be carried out."""

    id = "plan-invalid"
    exit_code = 3


class AmbiguousPart(EdgeloraError):
    """Two plugins offer a part of this name."""

    id = "part-ambiguous"
    exit_code = 3


class DataError(EdgeloraError):
    """A data file cannot be read, or a row of it cannot be used."""

    id = "data-invalid"
    exit_code = 3


class ModelError(EdgeloraError):
    """A model folder is incomplete, unsafe or of a form that cannot be loaded."""

    id = "model-invalid"
    exit_code = 3


class ManifestError(EdgeloraError):
    """``edgelora.json`` breaks a rule of the manifest specification."""

    id = "manifest-invalid"
    exit_code = 3


class TensorFileError(EdgeloraError):
    """A safetensors file is malformed."""

    id = "tensors-invalid"
    exit_code = 3


class PathError(EdgeloraError):
    """A file name is not allowed in an adapter."""

    id = "path-invalid"
    exit_code = 3


class UnusableFile(EdgeloraError):
    """The operating system refuses to read or write a file or directory."""

    id = "file-unusable"
    exit_code = 3


class UnsafeFile(EdgeloraError):
    """A file could run code when it is loaded, or is a link or a device."""

    id = "file-unsafe"
    exit_code = 3


class ReferenceFormError(EdgeloraError):
    """A reference to an adapter is not of the form ``ns/name[@version]``."""

    id = "reference-invalid"
    exit_code = 3


class StoreError(EdgeloraError):
    """A store is of an unknown kind, or its directory is not one of a store."""

    id = "store-invalid"
    exit_code = 3


class BundleError(EdgeloraError):
    """A file is no bundle, or not a whole one."""

    id = "bundle-invalid"
    exit_code = 3


class VersionExists(EdgeloraError):
    """This version was published before with other content."""

    id = "version-exists"
    exit_code = 3


class PublishRaced(EdgeloraError):
    """Someone else published to the same adapter at the same time, again and again."""

    id = "publish-raced"
    exit_code = 3


class TargetExists(EdgeloraError):
    """A directory that would be replaced holds something that was not pulled."""

    id = "target-exists"
    exit_code = 3


class KeyFileError(EdgeloraError):
    """A file holds no key that edgelora can use, or it cannot be opened."""

    id = "key-invalid"
    exit_code = 3


class TrustPolicyError(EdgeloraError):
    """The trust policy is not valid YAML, or holds a wrong or unknown key."""

    id = "trust-policy-invalid"
    exit_code = 3


class RunLocked(EdgeloraError):
    """Another process is training into this directory."""

    id = "run-locked"
    exit_code = 3


class RunExists(EdgeloraError):
    """The output directory already holds a run."""

    id = "run-exists"
    exit_code = 3


class NonFiniteLoss(EdgeloraError):
    """The loss became NaN or infinite."""

    id = "loss-not-finite"
    exit_code = 3


class CheckpointError(EdgeloraError):
    """A checkpoint is damaged."""

    id = "checkpoint-invalid"
    exit_code = 3


# 4: not found


class PartNotFound(EdgeloraError):
    """No installed plugin offers this part or derivative."""

    id = "part-not-found"
    exit_code = 4


class BaseNotFound(EdgeloraError):
    """The base model is neither a folder, nor cached, nor known by name."""

    id = "base-not-found"
    exit_code = 4


class AdapterNotFound(EdgeloraError):
    """The store holds no such adapter or version."""

    id = "adapter-not-found"
    exit_code = 4


class StoreNotFound(EdgeloraError):
    """No store of this name is configured, or its directory is gone."""

    id = "store-not-found"
    exit_code = 4


class KeyNotFound(EdgeloraError):
    """No key of this name or fingerprint is known here."""

    id = "key-not-found"
    exit_code = 4


class MissingFile(EdgeloraError):
    """A file or directory named by the user does not exist."""

    id = "file-not-found"
    exit_code = 4


class CheckpointNotFound(EdgeloraError):
    """There is nothing to resume from."""

    id = "checkpoint-not-found"
    exit_code = 4


# 5: digest mismatch


class DigestMismatch(EdgeloraError):
    """Bytes differ from what the manifest or the store says."""

    id = "digest-mismatch"
    exit_code = 5


class FileSetMismatch(EdgeloraError):
    """A directory lacks a listed file or holds one that is not listed."""

    id = "file-set-mismatch"
    exit_code = 5


class ReplyRefused(EdgeloraError):
    """A remote store's reply breaks the protocol, so nothing of it was used."""

    id = "reply-refused"
    exit_code = 5


# 6: not trusted


class Unsigned(EdgeloraError):
    """A signature is required, and there is none."""

    id = "unsigned"
    exit_code = 6


class SignatureInvalid(EdgeloraError):
    """A signature file is malformed, of another manifest, or a signature in it is wrong."""

    id = "signature-invalid"
    exit_code = 6


class SignatureUntrusted(EdgeloraError):
    """Too few trusted keys signed."""

    id = "signature-untrusted"
    exit_code = 6


class KeyRevoked(EdgeloraError):
    """A key that was revoked signed, and too few others did."""

    id = "key-revoked"
    exit_code = 6


class SignedManifest(EdgeloraError):
    """The manifest is signed, and what was asked for would change it."""

    id = "signed-manifest"
    exit_code = 6


class ChannelRefused(EdgeloraError):
    """The release is of a channel that the trust policy does not allow, or that is not followed."""

    id = "channel-refused"
    exit_code = 6


class Rollback(EdgeloraError):
    """An older release is offered as the latest."""

    id = "rollback"
    exit_code = 6


class Equivocation(EdgeloraError):
    """Two releases have the same sequence number and different content."""

    id = "equivocation"
    exit_code = 6


class Expired(EdgeloraError):
    """The release is past the date its publisher gave it."""

    id = "expired"
    exit_code = 6


class CreatedInFuture(EdgeloraError):
    """The release states a date that is yet to come, by more than clocks differ."""

    id = "created-in-future"
    exit_code = 6


class Freeze(EdgeloraError):
    """A mirror does not prove that what it offers is current."""

    id = "freeze"
    exit_code = 6


class MixAndMatch(EdgeloraError):
    """A mirror puts together what its owner did not sign together."""

    id = "mix-and-match"
    exit_code = 6


class Yanked(EdgeloraError):
    """The publisher withdrew this version."""

    id = "yanked"
    exit_code = 6


# 7: incompatible base, derivative or version


class WrongBase(EdgeloraError):
    """The adapter was trained on another base model."""

    id = "wrong-base"
    exit_code = 7


class NoEffect(EdgeloraError):
    """The adapter changes nothing."""

    id = "no-effect"
    exit_code = 7


class NotAdoptable(EdgeloraError):
    """An adapter made elsewhere computes something that edgelora cannot compute exactly."""

    id = "not-adoptable"
    exit_code = 7


class SpecVersionUnsupported(EdgeloraError):
    """The manifest is of a major version this edgelora cannot read."""

    id = "spec-version"
    exit_code = 7


class FeatureRequired(EdgeloraError):
    """The manifest requires a feature this edgelora does not know."""

    id = "feature-required"
    exit_code = 7


class PluginMissing(EdgeloraError):
    """The adapter needs a plugin that is not installed or did not load."""

    id = "plugin-missing"
    exit_code = 7


class CombinationError(EdgeloraError):
    """The chosen parts cannot work together."""

    id = "combination-refused"
    exit_code = 7


class TensorsMismatch(EdgeloraError):
    """The adapter's tensors do not fit the model they are loaded into."""

    id = "tensors-mismatch"
    exit_code = 7


class ResumeMismatch(EdgeloraError):
    """The run to resume was started under other conditions."""

    id = "resume-mismatch"
    exit_code = 7


class DependencyMissing(EdgeloraError):
    """A package of an optional extra is not installed."""

    id = "dependency-missing"
    exit_code = 7


# 8: over a budget


class DiskFull(EdgeloraError):
    """No space left on the device."""

    id = "disk-full"
    exit_code = 8


class MemoryBudgetExceeded(EdgeloraError):
    """No placement of the base is predicted to keep the run within the recipe's memory budget."""

    id = "memory-budget-exceeded"
    exit_code = 8


class OutOfMemory(EdgeloraError):
    """The system killed a process that edgelora had started, for its memory."""

    id = "out-of-memory"
    exit_code = 8


# 9: offline


class OfflineNotCached(EdgeloraError):
    """The thing asked for is on a network and not in the local cache."""

    id = "offline-not-cached"
    exit_code = 9


class StoreUnreachable(EdgeloraError):
    """A remote store does not answer, or breaks off again and again."""

    id = "store-unreachable"
    exit_code = 9


# 10: gates


class GateFailed(EdgeloraError):
    """A measurement is below the bar it had to reach."""

    id = "gate-failed"
    exit_code = 10


# 11: export


class ExportUnsupported(EdgeloraError):
    """This adapter cannot be written in that format without changing what it computes."""

    id = "export-unsupported"
    exit_code = 11


# 130


class Interrupted(EdgeloraError):
    """SIGINT or SIGTERM arrived; the run was saved."""

    id = "interrupted"
    exit_code = 130


def every_error() -> tuple[type[EdgeloraError], ...]:
    """All concrete error classes, sorted by exit code, then id."""
    return tuple(sorted(EdgeloraError.__subclasses__(), key=lambda kind: (kind.exit_code, kind.id)))
