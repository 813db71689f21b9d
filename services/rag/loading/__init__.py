"""Files to documents: one file a format. Runs in worker processes, never on the event loop."""

from services.rag.loading.limits import LOAD_CODES, Limits, LoadCode, LoadError
from services.rag.loading.loaders import load
from services.rag.loading.names import clean_name

__all__ = ["LOAD_CODES", "Limits", "LoadCode", "LoadError", "clean_name", "load"]
