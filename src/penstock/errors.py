"""Every error Penstock raises on purpose.

::

    PenstockError
    ├── SettingsError           a setting is missing or has a bad value
    ├── StorageError            the database refused or could not be used
    │   ├── StorageFull         the disk is full
    │   ├── StorageUnavailable  the database cannot be reached
    │   ├── DataDirInUse        another process owns the data folder
    │   ├── BadData             the database refused one value
    │   ├── ConstraintViolated  a unique, check or foreign key said no
    │   └── SchemaNewer         the database was written by a newer Penstock
    ├── SecretBoxError          a secret cannot be sealed or opened
    ├── JobError                a job was declared or called wrongly
    │   ├── UnknownJob          no function of that name is registered
    │   └── BadArguments        the arguments do not fit the function
    ├── BackupRefused           a backup cannot be made or restored
    ├── NotFound                there is no such thing, or it belongs to another account
    ├── Conflict                the request contradicts what is stored
    ├── Refused                 a request that is understood cannot be carried out
    ├── ApiError                a server refused a client's call (penstock.client)
    └── Unreachable             no server answered a client's call (penstock.client)

An error raised without a message says the first line of its class's docstring.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Something in Penstock went wrong."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])


class SettingsError(PenstockError):
    """A setting is missing or has a bad value."""


class StorageError(PenstockError):
    """The database refused the request or could not be used."""


class StorageFull(StorageError):
    """The disk that holds the database is full; nothing was written."""


class StorageUnavailable(StorageError):
    """The database cannot be reached."""


class DataDirInUse(StorageError):
    """Another Penstock process owns this data folder."""


class BadData(StorageError):
    """The database refused one of the values, such as a NUL byte in a text."""


class ConstraintViolated(StorageError):
    """A constraint of the database refused the row: a key that is taken, a missing parent."""


class SchemaNewer(StorageError):
    """The database was written by a newer version of Penstock; run that version."""


class SecretBoxError(PenstockError):
    """The secret cannot be sealed or opened with the configured keys."""


class JobError(PenstockError):
    """The job was declared or called wrongly."""


class UnknownJob(JobError):
    """No job of that name is registered in this process."""


class BadArguments(JobError):
    """The arguments do not fit the job's parameters."""


class BackupRefused(PenstockError):
    """A backup cannot be made or restored."""


class NotFound(PenstockError):
    """There is no such thing."""


class Conflict(PenstockError):
    """The request contradicts what is already stored."""


class Refused(PenstockError):
    """A request that is understood cannot be carried out.

    `code` is the stable code of the problem that the API tells; `pointer` names the field at fault
    (RFC 6901).
    """

    def __init__(self, code: str, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pointer = pointer
