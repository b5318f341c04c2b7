"""The errors that emsynth raises: one small family, each message for a reader at midnight.

A message names the place, the value, what is allowed and the way out.
"""


class EmsynthError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class RecipeError(EmsynthError, ValueError):
    """A recipe, an override or a value in it is not what emsynth understands."""


class StructureError(EmsynthError, ValueError):
    """A structure cannot be turned into a specimen."""


class FieldError(EmsynthError, ValueError):
    """A field cannot be simulated, or a window does not fit into it."""


class StoreError(EmsynthError, OSError):
    """A store cannot be created, read or written, or does not hold what it should."""


class StreamError(EmsynthError, ValueError):
    """A data set cannot be streamed in the way that was asked for."""


class SuiteError(EmsynthError, ValueError):
    """A suite is not what it was frozen as, or is asked for what it does not hold."""


class RestorerError(EmsynthError, ValueError):
    """A restorer cannot be had, or does not return an image of the shape that it was given."""


class NetworkError(EmsynthError, ValueError):
    """A network cannot be made, or a file of weights is not one."""


class TrainingError(EmsynthError, RuntimeError):
    """A training cannot go on."""


class StoreExistsError(StoreError, FileExistsError):
    """The output is already there and neither ``--resume`` nor ``--overwrite`` was given."""


class IntegrityError(StoreError):
    """Bytes in a store are not the ones that its manifest promises."""
