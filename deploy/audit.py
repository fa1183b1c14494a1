#!/usr/bin/env python3
"""Holds what is in a release against the advisories that are known by now, by its bill of materials: also one of long ago, of which only its
files are there.

    deploy/audit.py target/dist/gatepost-VERSION-MACHINE-linux.cdx.json [what else cargo-audit is to be told]

cargo-audit reads lock files, so one is made of the bill. The status is that of cargo-audit: 1 where something was found.
"""

import json
import os
import subprocess
import sys
import tempfile


def crate(component):
    """`SOURCE#NAME@VERSION`; what has no source is ours."""
    source, _, _ = component["bom-ref"].partition("#")
    return component["name"], component["version"], source if source.startswith("registry+") else None


def lock(bill):
    """The same crates as a lock file, with who needs whom."""
    components = [bill["metadata"]["component"], *bill["components"]]
    by_ref = {it["bom-ref"]: crate(it) for it in components}
    needs = {it["ref"]: it.get("dependsOn", []) for it in bill["dependencies"]}
    lines = ["version = 4"]
    for ref, (name, version, source) in sorted(by_ref.items(), key=lambda it: it[1][:2]):
        lines += ["", "[[package]]", f'name = "{name}"', f'version = "{version}"']
        if source:
            lines.append(f'source = "{source}"')
        needed = sorted(by_ref[it][:2] for it in needs.get(ref, []) if it in by_ref)
        if needed:
            lines += ["dependencies = [", *(f' "{name} {version}",' for name, version in needed), "]"]
    return "\n".join(lines) + "\n"


def main(path, *options):
    with open(path, encoding="utf-8") as file:
        bill = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "Cargo.lock")
        with open(made, "w", encoding="utf-8") as file:
            file.write(lock(bill))
        return subprocess.run(["cargo", "audit", "--file", made, *options], check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
