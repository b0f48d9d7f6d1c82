"""CALM; `calm.CALM` and `calm.attach` are the library, fetched when they are asked for."""

from typing import Any

__all__ = ["CALM", "attach"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from calm import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
