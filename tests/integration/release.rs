//! What `make release` lays out, of the binary under test: `make` builds another profile, and the rest is the same script.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::BINARY;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// With what another build learned, as a file of any bytes: which binary it is for is up to whoever names both.
fn release(target: &Path) {
    let profile = target.join("profile");
    fs::write(&profile, "counts").unwrap();
    let made = Command::new("deploy/release.sh")
        .current_dir(TOP)
        .env("BINARY", BINARY)
        .env("PGO", &profile)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// Every file by its name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let all = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = all
        .map(|it| it.unwrap())
        .map(|it| {
            (
                it.file_name().into_string().unwrap(),
                fs::read(it.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// Made twice it is the same; the sums are those of the files, the profile that it was built with is there, the binary runs and is small, and the
/// bill of materials has every crate that the lock file brings into the binary, and no place of this machine.
#[test]
fn a_release_is_whole_and_the_same_each_time() {
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    release(first.path());
    release(second.path());
    let dist = first.path().join("dist");
    let made = files(&dist);
    assert!(made == files(&second.path().join("dist")), "not the same");
    let summed = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(&dist)
        .output()
        .unwrap();
    assert!(summed.status.success(), "{summed:?}");
    let named: BTreeSet<_> = made.iter().map(|(name, _)| name.as_str()).collect();
    let name = format!(
        "gatepost-{}-{}-linux",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let suffix = |it: &str| format!("{name}{it}");
    let all = [
        suffix(""),
        suffix(".build.txt"),
        suffix(".cdx.json"),
        suffix(".debug"),
        suffix(".profdata"),
    ];
    let wanted: BTreeSet<_> = all
        .iter()
        .map(String::as_str)
        .chain(["SHA256SUMS"])
        .collect();
    assert_eq!(named, wanted);
    assert_eq!(fs::read(dist.join(suffix(".profdata"))).unwrap(), b"counts");
    let how = fs::read_to_string(dist.join(suffix(".build.txt"))).unwrap();
    let again = format!("`make release PGO={name}.profdata`");
    assert!(how.contains(&again), "{how}");
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), all.len(), "{sums}");
    let version = Command::new(dist.join(&name))
        .arg("--version")
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(
        version.starts_with(concat!("gatepost ", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
    assert!(fs::metadata(dist.join(&name)).unwrap().len() < fs::metadata(BINARY).unwrap().len());
    let bill = dist.join(suffix(".cdx.json"));
    let linked = linked();
    holds_every_crate(&fs::read_to_string(&bill).unwrap(), &linked);
    every_crate_is_audited(&bill, &linked);
}

/// cargo-audit is given a lock file with all of them, from the bill alone, and its status is what counts.
fn every_crate_is_audited(bill: &Path, linked: &BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    // Stands for cargo: shows what it is given, and finds something.
    let stand_in = folder.path().join("cargo");
    fs::write(
        &stand_in,
        "#!/bin/sh\necho \"$1 $2 $4\"\ncat \"$3\"\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let audited = Command::new("deploy/audit.py")
        .arg(bill)
        .arg("--no-fetch")
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .current_dir(TOP)
        .output()
        .unwrap();
    assert_eq!(audited.status.code(), Some(1), "{audited:?}");
    let said = String::from_utf8(audited.stdout).unwrap();
    let (told, lock) = said.split_once('\n').unwrap();
    assert_eq!(told, "audit --file --no-fetch");
    let lock: toml::Table = lock.parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let text = |it: &toml::Value, key: &str| it[key].as_str().unwrap().to_owned();
    let named: BTreeSet<_> = packages
        .iter()
        .map(|it| format!("{} {}", text(it, "name"), text(it, "version")))
        .collect();
    let missing: Vec<_> = linked.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Ours are nobody else's of the same name.
    for package in packages {
        let ours = text(package, "name").starts_with("gatepost");
        assert_eq!(package.get("source").is_none(), ours, "{package}");
        for needed in package
            .get("dependencies")
            .into_iter()
            .flat_map(|it| it.as_array().unwrap())
        {
            assert!(named.contains(needed.as_str().unwrap()), "{package}");
        }
    }
}

fn holds_every_crate(bom: &str, linked: &BTreeSet<String>) {
    let bom: Value = serde_json::from_str(bom).unwrap();
    assert_eq!(bom["bomFormat"], "CycloneDX");
    assert_eq!(bom["metadata"]["component"]["name"], "gatepost");
    let text = bom.to_string();
    let top = fs::canonicalize(TOP).unwrap().display().to_string();
    for place in [top.as_str(), "/tmp/"] {
        assert!(!text.contains(place), "{place} is in the bill of materials");
    }
    let components = bom["components"].as_array().unwrap();
    let listed: BTreeSet<_> = components
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it["name"].as_str().unwrap(),
                it["version"].as_str().unwrap()
            )
        })
        .collect();
    let missing: Vec<_> = linked.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What the lock file brings into the binary.
fn linked() -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "gatepost",
            "--edges",
            "normal",
        ])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .current_dir(TOP)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let linked: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap()))
        .filter(|it| *it != concat!("gatepost ", env!("CARGO_PKG_VERSION")))
        .collect();
    assert!(linked.len() > 200, "{}", linked.len());
    linked
}
