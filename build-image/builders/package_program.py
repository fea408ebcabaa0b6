"""Package a Python program: a command, and a module for builders that call its functions.

The module is compiled here: for group_layers.py, compiling takes longer than planning 50 store
paths. Files in the store do not change, so Python is told not to compare bytecode and source.

Attributes: `program`, the file; `command`, its name as a command; `module`, its name as a module;
`python`, the program that runs it. Writes `bin` and `lib` below the folder `out`.
"""

from __future__ import annotations

import os
import py_compile
import shutil

from attributes import read_attributes

COMMAND = """\
#!{python} -BEsS
import sys

sys.path[0] = "{lib}"
from {module} import main

sys.exit(main())
"""


def main() -> None:
    attributes = read_attributes()
    out, module = attributes["outputs"]["out"], attributes["module"]
    command, lib = os.path.join(out, "bin", attributes["command"]), os.path.join(out, "lib")
    os.umask(0o022)
    os.makedirs(lib)
    os.makedirs(os.path.dirname(command))
    source = os.path.join(lib, f"{module}.py")
    shutil.copyfile(attributes["program"], source)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(source, doraise=True, invalidation_mode=unchecked)
    with open(command, "w", encoding="utf-8") as file:
        file.write(COMMAND.format(python=attributes["python"], lib=lib, module=module))
    os.chmod(command, 0o755)


if __name__ == "__main__":
    main()
