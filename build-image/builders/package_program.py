"""Package a Python program: a command, and modules for builders that call its functions.

The modules are compiled here, since nothing else may write into the store, and compiling takes a
good part of the time of a program that soon ends. Files in the store do not change, so Python is
told not to compare bytecode and source.

The attributes are those of package_program.nix. Writes `bin` and `lib` below the folder `out`.
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
    command, lib = os.path.join(out, "bin", attributes["name"]), os.path.join(out, "lib")
    os.umask(0o022)
    os.makedirs(lib)
    os.makedirs(os.path.dirname(command))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for folder, _, names in os.walk(attributes["source"]):
        for name in names:
            copy = shutil.copyfile(os.path.join(folder, name), os.path.join(lib, name))
            py_compile.compile(copy, doraise=True, invalidation_mode=unchecked)
    with open(command, "w", encoding="utf-8") as file:
        file.write(COMMAND.format(python=attributes["python"], lib=lib, module=module))
    os.chmod(command, 0o755)


if __name__ == "__main__":
    main()
