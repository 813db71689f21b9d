"""Files to chunks, in this process or in processes of their own."""

from services.rag.reading.cutting import Cut, read_and_cut
from services.rag.reading.pool import Readers
from services.rag.reading.worker import AsyncEmbed, ReadersBroken

__all__ = ["AsyncEmbed", "Cut", "Readers", "ReadersBroken", "read_and_cut"]
