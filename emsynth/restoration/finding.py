"""Finding a restorer by what a user writes: the name of a baseline or a network, ``module:function``, or a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsynth.errors import RestorerError
from emsynth.restoration.baselines import BASELINES
from emsynth.restoration.network import Network
from emsynth.restoration.neural import NeuralRestorer
from emsynth.restoration.protocol import Baseline, Floats, Restorer
from emsynth.restoration.shipped import shipped

_NAMED = 5  # callables of a module in a message
_PICKLES = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Imported:
    """A function of somebody else's module; what is sent to another process is its name.

    Attributes
    ----------
    name : str
        ``module:function``.
    function : callable
        image -> image.
    """

    name: str
    function: Callable[[Floats], Any]

    def __call__(self, image: Floats, /) -> Any:
        """Restore one image."""
        return self.function(image)

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.name,)


def find(spec: str) -> Baseline | Restorer:
    """A baseline or a restorer by its name.

    Parameters
    ----------
    spec : str
        Name of a baseline, which has yet to be tuned, or of a network that is shipped; ``module:function``, the module
        being importable from the current directory; or the path of a ``.safetensors`` file that emsynth wrote, or of an
        ONNX file.

    Returns
    -------
    Baseline or Restorer

    Raises
    ------
    RestorerError
        There is no such thing, or it cannot be loaded.
    """
    if spec in BASELINES:
        return BASELINES[spec]
    suffix = Path(spec).suffix.lower()
    if suffix == ".onnx":
        return Network(spec)
    if suffix == ".safetensors" or spec in shipped():
        return NeuralRestorer(spec)
    if suffix in _PICKLES:
        raise RestorerError(f"{spec}: is a pickle, which can run anything when it is read; give the .safetensors file "
                            "that emsynth wrote, export the network as .onnx, or wrap it in a function image -> image "
                            "and name that as module:function")
    module, colon, function = spec.partition(":")
    if colon:
        _check_written(spec, module, function)
        return Imported(spec, _imported(spec, module, function))
    script = Path(f"{spec.removesuffix('.py')}.py")
    if script.is_file():
        raise RestorerError(f"{spec}: is a module; name a function in it: {script.stem}:FUNCTION")
    known = [*BASELINES, *shipped()]
    near = difflib.get_close_matches(spec, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RestorerError(f"{spec!r} is not a restorer; {hint}(allowed: {', '.join(known)}, module:function, "
                        "a path that ends in .safetensors or .onnx)")


def _check_written(spec: str, module: str, function: str) -> None:
    """RestorerError where this cannot be the name of a module and of something in it."""
    if not (module and function):
        raise RestorerError(f"{spec}: write module:function, such as my_package.denoise:restore")
    if module.endswith(".py") or os.sep in module:
        folder, name = os.path.split(module.removesuffix(".py"))
        where = f" and run from {folder}, or install it" if folder not in ("", ".") else ""
        raise RestorerError(f"{spec}: a module is named without folder and .py; write {name}:{function}{where}")


def _imported(spec: str, module: str, function: str) -> Callable[[Floats], Any]:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise RestorerError(f"{spec}: there is no module {error.name!r} on Python's path or in {here}; "
                                "run from its directory or install it") from error
        raise RestorerError(f"{spec}: module {module!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise RestorerError(f"{spec}: module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    return _attribute(spec, found, function)


def _attribute(spec: str, module: Any, function: str) -> Callable[[Floats], Any]:
    found = module
    for part in function.split("."):
        if not hasattr(found, part):
            known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            near = difflib.get_close_matches(function, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RestorerError(f"{spec}: module {module.__name__!r} has no {function!r}{hint} "
                                f"(callable there: {_some(known)})")
        found = getattr(found, part)
    if not callable(found):
        raise RestorerError(f"{spec}: {function!r} is {type(found).__name__}, which cannot be called; name a function "
                            "image -> image")
    if inspect.isclass(found):
        raise RestorerError(f"{spec}: {function!r} is a class; name an instance or a function image -> image")
    return found  # type: ignore[no-any-return]


def _some(names: list[str]) -> str:
    listed = ", ".join(sorted(names)[:_NAMED]) or "nothing"
    return listed if len(names) <= _NAMED else f"{listed} and {len(names) - _NAMED} more"
