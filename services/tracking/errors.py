"""The errors that only the tracking service has; they stand in the tree of services/kit/errors.py."""

from services.kit.errors import NotFound, Overloaded


class RequestNotFound(NotFound):
    """No request with this id or trace id is kept: it is too old, was deleted, or was another key's."""

    code = "request_not_found"


class RecordsUnavailable(Overloaded):
    """The file with the records can't be read or written; the message says why. Models are not affected."""

    code = "records_unavailable"


class DriftNotFound(NotFound):
    """No window, reference or report of drift has this name; the message says where they are listed."""

    code = "drift_not_found"
