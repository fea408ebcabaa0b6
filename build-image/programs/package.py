"""Package a Python program: package.py OUT NAME MODULE FILE ..., modules in the Nix store.

Writes the command bin/NAME, which calls the module's `main`, and the modules in lib/, below the
folder OUT. They are compiled here, since nothing else may write into the store, and compiling
takes a good part of the time of a program that soon ends. Files in the store do not change, so
Python is told not to compare bytecode and source.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import sys

COMMAND = """\
#!{python} -BEsS
import sys

sys.path[0] = "{lib}"
try:
    from {module} import main

    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
"""


def main() -> None:
    out, name, module, *files = sys.argv[1:]
    command, lib = os.path.join(out, "bin", name), os.path.join(out, "lib")
    os.umask(0o022)
    os.makedirs(lib)
    os.makedirs(os.path.dirname(command))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in files:
        copy = shutil.copyfile(file, os.path.join(lib, os.path.basename(file)[33:]))
        py_compile.compile(copy, doraise=True, invalidation_mode=unchecked)
    with open(command, "w", encoding="utf-8") as script:
        script.write(COMMAND.format(python=sys.executable, lib=lib, module=module))
    os.chmod(command, 0o755)


if __name__ == "__main__":
    main()
