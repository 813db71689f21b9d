"""Model files that come inside a Python package."""

from importlib import metadata
from pathlib import Path

from services.engines.recipes import PackageSource, RecipeError


def locate(source: PackageSource) -> Path:
    """Return the path of a packaged model's file, having checked its size.

    Raises:
        RecipeError: when the package isn't installed, or holds another file.
    """
    try:
        installed = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise RecipeError(
            f"the package {source.package} {source.revision}, which holds the model, is not installed; "
            "`make up` installs it. Or serve a file of your own: GGUF=/path/to/model.gguf make up"
        ) from None
    path = Path(str(installed.locate_file(source.file)))
    size = path.stat().st_size if path.is_file() else 0
    if size != source.size_bytes:
        raise RecipeError(
            f"{path} has {size:,} bytes, {source.package} {source.revision} has {source.size_bytes:,} there; "
            "remove the .venv folder and run `make up` to install it again"
        )
    return path
