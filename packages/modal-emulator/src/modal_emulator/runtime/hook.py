"""Installed as `sitecustomize` of containers in plain directories: translates paths, then runs the image's own."""


def _start() -> None:
    import json
    import os
    import sys

    described = os.environ.get("MODAL_EMULATOR_PATHS")
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    if described:
        from importlib import import_module

        module = import_module("_modal_emulator_paths")  # a copy of paths.py, beside this file's copy
        root, local, real = json.loads(described)
        paths = module.Paths(root, local, [*real, own])
        module.install(paths)
    sys.path[:] = [each for each in sys.path if each != own]
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    found = PathFinder.find_spec("sitecustomize", sys.path)
    if found is not None and found.loader is not None:
        module = module_from_spec(found)
        sys.modules["sitecustomize"] = module
        found.loader.exec_module(module)
    if described:
        sys.path[:] = [paths(each) for each in sys.path]


_start()
