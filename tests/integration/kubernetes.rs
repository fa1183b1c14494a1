//! What is deployed into Kubernetes, as kubectl renders it: it keeps the schemas of the oldest and the newest Kubernetes that it is for, everything in it
//! meets, and gatepost runs with what is in its ConfigMap. And whatever is wrong with it is found here: each test of that changes one thing.
//!
//! `helm.rs` does the same with the chart, `pod.rs` runs a pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Connection, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, run};
use crate::manifests::pod::{Pod, ports, probes};
use crate::manifests::{Objects, items, mount, moved};

/// Native sidecars with a sleeping preStop hook, and what is newest.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Where the repository is.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// A program that `make kubernetes` installs.
pub(crate) fn tool(name: &str) -> Command {
    let path = root().join("target/kubernetes/bin").join(name);
    assert!(path.exists(), "{name} is installed by `make integration`");
    Command::new(path)
}

/// What a command printed, or its complaint.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr) + &text(&output.stdout))
    }
}

/// A copy of a folder of the repository, with links followed.
pub(crate) fn copy(from: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut command = Command::new("cp");
    command.args(["-rL", "--"]).arg(root().join(from).join("."));
    said(command.arg(copy.path())).unwrap();
    copy
}

/// The overlays, with what an operator adds to them.
fn overlays() -> tempfile::TempDir {
    let folder = copy("deploy/kubernetes");
    for form in ["sidecar", "standalone"] {
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(form).join(name), text).unwrap();
        };
        write("users.htpasswd", &htpasswd());
        write("admin.env", &format!("token={TOKEN}\n"));
    }
    folder
}

/// scott, whose password is `tiger`.
pub(crate) fn htpasswd() -> String {
    said(Command::new("htpasswd").args(["-nbB", "scott", "tiger"])).unwrap()
}

/// An overlay as an operator has it.
pub(crate) fn rendered(form: &str) -> String {
    kustomize(&overlays().path().join(form)).unwrap()
}

fn kustomize(folder: &Path) -> Result<String, String> {
    said(tool("kubectl").arg("kustomize").arg(folder))
}

/// Everything that is wrong with what was rendered: with its schemas, with what points at what, and with what gatepost would find.
pub(crate) fn faults(rendered: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rendered.yaml");
    std::fs::write(&file, rendered).unwrap();
    for version in VERSIONS {
        let mut command = tool("kubernetes-validate");
        command.args(["--strict", "-k", version]).arg(&file);
        let said = said(&mut command).unwrap_or_else(|it| it);
        assert!(
            said.contains("rendered.yaml"),
            "it looked at nothing: {said}"
        );
        let lines = said.lines().filter(|it| !it.starts_with("INFO "));
        // The Prometheus operator's. `manifests/references.rs` looks at it.
        let lines = lines.filter(|it| !it.contains("schema for kind PodMonitor"));
        faults.extend(lines.map(str::to_owned));
    }
    let objects = Objects::parse(rendered);
    faults.extend(objects.faults());
    for pod in objects.pods() {
        if pod.gatepost().is_some() {
            faults.extend(check(&pod, &objects));
        }
    }
    faults
}

/// What `gatepost check` says of the folder that the pod will have.
fn check(pod: &Pod<'_>, objects: &Objects) -> Option<String> {
    let files = match pod.folder(objects) {
        Ok(files) => files,
        Err(fault) => return Some(fault),
    };
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), &files);
    let (_, out, err) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    let said = out + &err;
    (said != "gatepost.yaml: ok\n").then_some(said)
}

/// Starts gatepost with what was rendered, before an upstream of the test's own: every probe that asks it gets a good answer, whose
/// user is right gets through, nobody else does.
pub(crate) fn serves(rendered: &str) {
    let objects = Objects::parse(rendered);
    let pod = objects.gated();
    let (upstream, folder) = (Recorder::start(), tempfile::tempdir().unwrap());
    let files = moved(pod.folder(&objects).unwrap(), upstream.address);
    mount(folder.path(), &files);
    let gate = Setup::demo().start_with(&folder.path().join("gatepost.yaml"));
    let own: Vec<_> = ports(pod.gatepost().unwrap()).collect();
    let mut asked = 0;
    for container in pod.containers() {
        for (kind, probe) in probes(container) {
            let probe = &probe["httpGet"];
            let port =
                |it: &&(Option<&str>, u64)| it.0 == probe["port"].as_str() || probe["port"] == it.1;
            let (name, _) = own.iter().find(port).unwrap();
            let admin = *name == Some("gatepost-admin");
            let address = if admin { gate.admin } else { gate.address };
            let mut connection = Connection::open(address, STRANGER);
            connection.write(get(probe["path"].as_str().unwrap()));
            assert_eq!(connection.reply().unwrap().status, 200, "{kind} {probe}");
            asked += 1;
        }
    }
    assert_eq!(asked, if pod.is_sidecar() { 4 } else { 3 });
    let ask = |password: &str| {
        let request = inject(&basic("scott", password));
        gate.send(STRANGER, request).unwrap().status
    };
    assert_eq!((ask("tiger"), ask("lion")), (200, 401));
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 401);
    let told = upstream.text().to_ascii_lowercase();
    assert_eq!(told.matches("x-http-auth: scott\r\n").count(), 1, "{told}");
}

/// Turns the comment that brings the PodMonitor into what it says.
fn monitored(overlays: &Path, form: &str) {
    let path = overlays.join(form).join("kustomization.yaml");
    change(
        &path,
        "# components: [../components",
        "components: [../components",
    );
}

/// Replaces a text that has to be there.
pub(crate) fn change(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}: {from}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_overlays_are_without_fault_and_serve() {
    for form in ["sidecar", "standalone"] {
        let folder = overlays();
        let plain = kustomize(&folder.path().join(form)).unwrap();
        assert_eq!(faults(&plain), [""; 0], "{form}");
        monitored(folder.path(), form);
        let rendered = kustomize(&folder.path().join(form)).unwrap();
        assert_eq!(faults(&rendered), [""; 0], "{form}");
        assert!(!plain.contains("PodMonitor") && rendered.contains("PodMonitor"));
        serves(&rendered);
        let objects = Objects::parse(&rendered);
        let mut kinds = vec![
            "Service",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "PodMonitor",
            "ConfigMap",
            "Secret",
        ];
        if form == "standalone" {
            kinds.push("HorizontalPodAutoscaler");
        }
        for kind in kinds {
            assert!(!objects.of(kind).is_empty(), "{form}: {kind}");
        }
        // Changed files count without new pods, so no name may hold a hash of them.
        for kind in ["ConfigMap", "Secret"] {
            for object in objects.of(kind) {
                let name = object["metadata"]["name"].as_str().unwrap();
                assert!(["gatepost", "gatepost-users", "gatepost-admin"].contains(&name));
            }
        }
    }
}

/// Each line of a section of overlays.yaml.
fn all_spoilt(section: &str) {
    let lines: BTreeMap<String, Vec<[String; 5]>> =
        serde_saphyr::from_str(include_str!("kubernetes/overlays.yaml")).unwrap();
    for [form, file, from, to, words] in &lines[section] {
        let folder = overlays();
        monitored(folder.path(), form);
        change(&folder.path().join(file), from, to);
        let found = match kustomize(&folder.path().join(form)) {
            Ok(rendered) => faults(&rendered),
            Err(complaint) => vec![complaint],
        };
        let told = found.iter().any(|it| it.contains(words));
        assert!(told, "{file}: {from} -> {to}: {words}: {found:#?}");
    }
}

#[test]
fn ports_that_do_not_meet_are_found() {
    all_spoilt("ports");
}

#[test]
fn missing_values_and_policies_that_do_not_load_are_found() {
    all_spoilt("values");
}

#[test]
fn ways_around_the_gate_are_found() {
    all_spoilt("gate");
}

#[test]
fn pods_that_would_lose_requests_at_their_end_are_found() {
    all_spoilt("end");
}

/// The README's commands, as a new user types them. What is different: the password comes from a pipe, and what would be applied is shown.
#[test]
fn the_commands_of_the_readme_deploy_the_sidecar() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let commands = block(&readme, "kubectl apply -k deploy/kubernetes/sidecar");
    assert_eq!(commands.len(), 4, "{commands:?}");
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    assert_eq!(
        commands,
        block(&page, "kubectl apply -k deploy/kubernetes/sidecar")
    );
    let (folder, copied) = (tempfile::tempdir().unwrap(), copy("deploy"));
    let here = folder.path().join("deploy");
    std::fs::rename(copied.path(), &here).unwrap();
    let mut script = "set -e\n".to_owned();
    for command in commands {
        let command = command
            .replace("htpasswd -nB scott", "echo tiger | htpasswd -niB scott")
            .replace("kubectl apply -k", "\"$KUBECTL\" kustomize");
        script += &(command + "\n");
    }
    let kubectl = root().join("target/kubernetes/bin/kubectl");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).env("KUBECTL", kubectl);
    let rendered = said(shell.current_dir(folder.path())).unwrap();
    assert_eq!(faults(&rendered), [""; 0]);
    serves(&rendered);
    let placeholders = rendered.matches("registry.example").count();
    assert_eq!(placeholders, 0, "both images were named: {rendered}");
    let objects = Objects::parse(&rendered);
    assert_eq!(items(&objects.gated().spec["initContainers"]).len(), 1);
}

/// The commands of the block of a page that has this one in it.
pub(crate) fn block(page: &str, with: &str) -> Vec<String> {
    let blocks = page.split("```console\n").skip(1);
    let blocks = blocks.map(|it| it.split("```").next().unwrap());
    let mut blocks = blocks.filter(|it| it.contains(with));
    let block = blocks
        .next()
        .unwrap_or_else(|| panic!("no block with {with}"));
    let lines = block.lines().filter_map(|it| it.strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}
