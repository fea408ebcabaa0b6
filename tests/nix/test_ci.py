"""What docs/ci.md has for pasting, run: its workflows' commands, with a registry and a cache."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

from docker_registry import run_registry
from nix import ROOT, Nix, run

WORKFLOWS = re.findall("```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)


def github_commands(workflow: str) -> str:
    """Return the text of all `run: |` of a workflow."""
    blocks = re.findall(r"run: \|\n((?: {10}.*\n)+)", workflow)
    return "".join(map(textwrap.dedent, blocks))


def gitlab_commands(workflow: str) -> str:
    """Return the `script` of a job; an item's further lines are joined to its first."""
    script = workflow.partition("  script:\n")[2]
    return re.sub(r"\n {6}", " ", script).replace("    - ", "")


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_commands_of_a_workflow_push_the_image_and_fill_the_cache(
    nix: Nix, tmp_path: Path, service: str
) -> None:
    commands = (
        github_commands(WORKFLOWS[0]) if service == "github" else gitlab_commands(WORKFLOWS[1])
    )
    (tmp_path / "default.nix").write_text(
        f'let pkgs = import {nix.package_set} {{ }}; in {{ image = (import "{ROOT}" '
        '{ inherit pkgs; }).buildImage { name = "app"; contents = [ pkgs.hello ]; }; }'
    )
    key = tmp_path / "key"
    run("nix-store", "--generate-binary-cache-key", "example-1", key, tmp_path / "public")
    (tmp_path / "htpasswd").write_text(
        "user:$2b$05$.VzdPS/aqJ9rwnTZfX8VMOh1FmUo7wBsp3JHyFKeftCZHlSsyCrzC\n"  # pass
    )
    wanted = f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/htpasswd}}}}\n"
    with run_registry(tmp_path, wanted) as registry:
        settings = tmp_path / ".config" / "containers"
        settings.mkdir(parents=True)
        (settings / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n'
        )
        environment = {
            **os.environ,
            "NIX_CONFIG": os.environ["NIX_CONFIG"] + "\nexperimental-features = nix-command",
            "HOME": str(tmp_path),
            "CACHE": f"file://{tmp_path}/cache?compression=zstd",
            # GitHub's
            "NAME": registry.reference("Group/App"),
            "GITHUB_SHA": "1234567",
            "CREDENTIALS": "user:pass",
            "RUNNER_TEMP": str(tmp_path),
            "SIGNING_KEY": key.read_text() if service == "github" else str(key),
            # GitLab's
            "CI_REGISTRY_IMAGE": f"{registry.address}/group/app",
            "CI_COMMIT_SHA": "1234567",
            "CI_REGISTRY_USER": "user",
            "CI_REGISTRY_PASSWORD": "pass",
        }
        done = run("bash", "-e", "-c", commands, env=environment, cwd=tmp_path)
        digest, other = done.stdout.splitlines()
        inspect = ["skopeo", "inspect", "--no-tags", "--tls-verify=false", "--creds", "user:pass"]
        for tag in "1234567", "latest":
            there = registry.reference(f"group/app:{tag}")
            found = run(*inspect, "--format", "{{.Digest}}", there).stdout.strip()
            assert found == digest == other
    cached = [file.read_text() for file in (tmp_path / "cache").glob("*.narinfo")]
    layers = [text for text in cached if "-layer-hello-" in text.splitlines()[0]]
    # The blob and its description
    assert len(layers) == 2 and all("\nSig: example-1:" in text for text in cached)
