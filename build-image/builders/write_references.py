"""Write the references of an image's configuration, and check the program that it starts.

The attributes are those of write_references.nix. Only here the store paths are known that the
configuration names. Where the first word of the command is in one of them and is no program, the
container could only fail.
"""

from __future__ import annotations

import json
import os
import stat

from attributes import Caller, fail, read_attributes, read_json


def find_program(config: dict, inherited: dict) -> tuple[str, str]:
    """Return which key has the program that a container starts, and the program; "" if unknown.

    >>> find_program({"Cmd": ["a"]}, {}), find_program({"Entrypoint": ["b"], "Cmd": ["a"]}, {})
    (('Cmd', 'a'), ('Entrypoint', 'b'))
    >>> find_program({"Cmd": ["a"]}, {"Entrypoint": ["b"]})
    ('', '')
    """
    if config.get("Entrypoint"):
        return "Entrypoint", config["Entrypoint"][0]
    has_entrypoint = "Entrypoint" not in config and inherited.get("Entrypoint")
    if config.get("Cmd") and not has_entrypoint:
        return "Cmd", config["Cmd"][0]
    return "", ""


def check_program(key: str, program: str, store_dir: str) -> None:
    """End the build with one line if a program of the store is none."""
    store_path = "/".join(program.split("/")[: store_dir.count("/") + 2])
    if not program.startswith(store_dir + "/") or not os.path.lexists(store_path):
        return
    try:
        mode = os.stat(program).st_mode
    except OSError:
        problem = "there is no such file"
    else:
        if stat.S_ISREG(mode) and mode & 0o111:
            return
        problem = "that is a folder" if stat.S_ISDIR(mode) else "that is not a program"
    folder = os.path.join(store_path, "bin")
    programs = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    hint = f"; it has bin/{', bin/'.join(programs[:5])}" if programs else ""
    fail(f"config.{key} starts {program}, and {problem}{hint}")


def main() -> None:
    attributes = read_attributes()
    inherited = read_json(attributes["baseImage"])["config"] if attributes["baseImage"] else {}
    config = json.loads(attributes["text"])
    with Caller(attributes["caller"]):
        check_program(*find_program(config, inherited), attributes["storeDir"])
    with open(attributes["outputs"]["out"], "w", encoding="utf-8") as file:
        file.write(attributes["text"])


if __name__ == "__main__":
    main()
