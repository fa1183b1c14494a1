//! A pod on a node, made of namespaces: the network that a pod has, gatepost with the configuration that kubectl rendered, on the ports that stand in it, as
//! the user that its security context names, and an MTA on the pod's loopback. The node asks what the kubelet would ask.
//!
//! No cluster is here, so no NetworkPolicy and no Service: docs/kubernetes.md says how to see those.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::container::{copy_binary, namespaces_are_allowed, unshare};
use crate::kubernetes::{TOKEN, rendered, root};
use crate::manifests::pod::{Pod, numbered, probes};
use crate::manifests::{Objects, mount};

/// The node. `$PROBES` are lines of name, port and path.
const NODE: &str = include_str!("kubernetes/node.sh");

/// The probes of gatepost, and then those of the MTA, as the script reads them.
fn lines(pod: &Pod<'_>) -> String {
    let mut lines = String::new();
    for container in pod.containers() {
        for (kind, probe) in probes(container) {
            let name = container["name"].as_str().unwrap();
            let path = probe["httpGet"]["path"].as_str().unwrap();
            let port = numbered(container, &probe["httpGet"]["port"]).unwrap();
            lines += &format!("{name}/{kind} {port} {path}\n");
        }
    }
    lines
}

/// What the script says, by names.
fn run(folder: &Path, probes: &str) -> BTreeMap<String, String> {
    let (mut command, becoming) = unshare();
    command.extend(["--net", "sh", "-c", NODE, "node"]);
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(folder)
        .arg(root().join("tests/integration/kubernetes/mta.py"))
        .env("AS", becoming.replace("65534", "65532"))
        .env("PROBES", probes)
        .env("TOKEN", TOKEN)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let lines = out.lines().filter_map(|it| it.split_once('='));
    let said = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));
    said.collect()
}

/// The whole life of a pod with a sidecar. It starts before the MTA; the node's probes are answered, those of the MTA through the gate; the MTA is
/// reached by no other way; killed, gatepost comes up again on the same ports; and at the end the MTA goes first.
#[test]
fn a_pod_with_a_sidecar_lives_as_its_manifest_says() {
    if !namespaces_are_allowed() {
        return;
    }
    let rendered = rendered("sidecar");
    let objects = Objects::parse(&rendered);
    let pod = objects.gated();
    let context = &pod.gatepost().unwrap()["securityContext"];
    assert_eq!(context["runAsUser"], 65532);
    let folder = tempfile::tempdir().unwrap();
    copy_binary(folder.path());
    let mounted = folder.path().join("etc");
    fs::create_dir(&mounted).unwrap();
    fs::set_permissions(&mounted, fs::Permissions::from_mode(0o755)).unwrap();
    mount(&mounted, &pod.folder(&objects).unwrap());
    let said = run(folder.path(), &lines(&pod));
    for (name, value) in [
        ("before the MTA: gatepost/startupProbe", "200"),
        ("before the MTA: gatepost/readinessProbe", "200"),
        ("before the MTA: gatepost/livenessProbe", "200"),
        // Not ready before it is there.
        ("before the MTA: mta/readinessProbe", "502"),
        ("with the MTA: mta/readinessProbe", "200"),
        ("with the MTA: gatepost/livenessProbe", "200"),
        ("scott", "200"),
        ("a wrong password", "401"),
        ("nobody", "401"),
        // With the name of somebody else in the header that the MTA believes.
        ("a forged identity", "200"),
        ("another path", "404"),
        // curl's word for a connection that is refused.
        ("around the gate", "7"),
        ("metrics", "401"),
        ("metrics with the token", "200"),
        ("a reload", "401"),
        ("user", "65532"),
        ("killed: gatepost/startupProbe", "200"),
        ("killed: mta/readinessProbe", "200"),
        ("killed: scott", "200"),
        // The MTA has ended, and gatepost has not been told yet.
        ("at the end: scott", "502"),
        ("gatepost ends with", "0"),
        ("the MTA was told", "scott scott scott"),
    ] {
        let found = said.get(name).map(String::as_str);
        // Who is not root here is mapped to one user.
        if name == "user" && !rustix::process::getuid().is_root() {
            continue;
        }
        assert_eq!(found, Some(value), "{name}: {said:#?}");
    }
    let seconds: f64 = said["gatepost ends within"].parse().unwrap();
    assert!(seconds < 5.0, "it has less than that left: {seconds} s");
}
