"""What every step is: options that are checked when a preset is read, and one thing that it does."""

from abc import abstractmethod

from pydantic import BaseModel, ConfigDict

from services.rag.retrieving.state import State, Tools


class Step(BaseModel):
    """A step's fields are its options in a preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str

    @abstractmethod
    async def run(self, state: State, tools: Tools) -> str:
        """Change `state`, and return what was done in a few words."""
