"""What can go wrong, as one tree.

LongtakeError
|-- VideoError        the input cannot be opened or holds no picture           (ValueError)
|-- CheckpointError   a model folder is unreadable, unknown or does not match  (ValueError)
|-- PromptError       placeholders and visuals disagree, or a prompt is empty  (ValueError)
|-- CapacityError     more bytes than the device has free                      (MemoryError)
|-- OptionError       an option has a value that means nothing                 (ValueError)
|-- StoreError        a saved memory cannot be written or read back            (OSError)
|   |-- DamagedError  its file is proved not to be whole; no reader can use it
|   `-- NewerError      a newer longtake wrote its file, which is whole
`-- AnnotationError   the annotations of a benchmark cannot be used            (ValueError)

Every message is one line: what was found, what was expected, what to do.
"""


class LongtakeError(Exception):
    """Base of every error a user can cause; the command line exits with `exit_code`."""

    exit_code = 1


class VideoError(LongtakeError, ValueError):
    """The video or image cannot be used."""

    exit_code = 3


class CheckpointError(LongtakeError, ValueError):
    """The model folder cannot be used."""

    exit_code = 4


class PromptError(LongtakeError, ValueError):
    """The prompt and its visuals do not fit together."""

    exit_code = 5


class CapacityError(LongtakeError, MemoryError):
    """It does not fit the memory of the device."""

    exit_code = 6


class OptionError(LongtakeError, ValueError):
    """An option was given a value that cannot be used."""

    exit_code = 2


class StoreError(LongtakeError, OSError):
    """A memory could not be saved or loaded."""

    exit_code = 7


class DamagedError(StoreError):
    """A memory's file has another checksum than it should, or is not built as it should be."""


class NewerError(StoreError):
    """A memory's file is of a format that only a newer longtake reads."""


class AnnotationError(LongtakeError, ValueError):
    """The annotations or videos of a benchmark cannot be used."""

    exit_code = 8
