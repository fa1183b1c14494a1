//! What has to hold of a set of Kubernetes objects that deploys gatepost, so that what is wrong is found here and not in a cluster: ports that
//! do not meet, names that nobody has, a way around the gate, rights that nobody needs.
//!
//! Schemas are somebody else's business (kubernetes-validate); an object that keeps its schema may still point nowhere.

pub(crate) mod pod;
mod pod_security;
mod references;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use pod::Pod;

/// As they were rendered.
#[derive(Clone)]
pub(crate) struct Objects(Vec<Value>);

/// A folder, by paths.
pub(crate) type Folder = BTreeMap<String, Vec<u8>>;

impl Objects {
    /// Several documents in one text; those that hold nothing are left out.
    pub(crate) fn parse(yaml: &str) -> Self {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
        Self(all.into_iter().filter(|it| !it.is_null()).collect())
    }

    /// All of a kind.
    pub(crate) fn of<'a>(&'a self, kind: &str) -> Vec<&'a Value> {
        self.0.iter().filter(|it| it["kind"] == kind).collect()
    }

    pub(crate) fn named<'a>(&'a self, kind: &str, name: &str) -> Option<&'a Value> {
        let all = self.of(kind);
        all.into_iter().find(|it| it["metadata"]["name"] == name)
    }

    /// What pods there will be.
    pub(crate) fn pods(&self) -> Vec<Pod<'_>> {
        self.0.iter().filter_map(Pod::of).collect()
    }

    /// The one workload with gatepost in it.
    pub(crate) fn gated(&self) -> Pod<'_> {
        let mut gated = self.pods();
        gated.retain(|it| it.gatepost().is_some());
        assert_eq!(gated.len(), 1, "one workload has gatepost in it");
        gated.remove(0)
    }

    /// Everything that is wrong, a line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for object in &self.0 {
            let name = named(object);
            if !seen.insert(name.clone()) {
                faults.push(format!("{name} is there twice"));
            }
        }
        let pods = self.pods();
        if !pods.iter().any(|it| it.gatepost().is_some()) {
            faults.push("no pod has gatepost in it".to_owned());
        }
        for pod in &pods {
            faults.extend(pod_security::faults(pod));
            faults.extend(pod.faults(self));
        }
        faults.extend(references::faults(self));
        faults
    }
}

/// `Kind/name`.
pub(crate) fn named(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "{}/{}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

/// The items of a list; none where it is not there.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether all of these labels are among those. Nothing matches everything in Kubernetes; here that is nobody's intention.
fn matches(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .is_some_and(|it| !it.is_empty() && it.iter().all(|(key, value)| labels[key] == *value))
}

/// The same configuration on free ports, before this upstream.
pub(crate) fn moved(mut folder: Folder, upstream: SocketAddr) -> Folder {
    let text = String::from_utf8(folder["gatepost.yaml"].clone()).unwrap();
    let mut section = String::new();
    let mut moved = Vec::new();
    let lines = text.lines().map(|line| {
        if !line.starts_with([' ', '#', '-']) && !line.is_empty() {
            line.split(':').next().unwrap().clone_into(&mut section);
        }
        let Some((key, _)) = line.split_once(": ") else {
            return line.to_owned();
        };
        let value = match (section.as_str(), key.trim_start_matches([' ', '-'])) {
            ("listeners" | "admin", "listen") => "127.0.0.1:0".to_owned(),
            ("upstream", "address") => upstream.to_string(),
            _ => return line.to_owned(),
        };
        moved.push(section.clone());
        format!("{key}: {value}")
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    moved.sort();
    assert_eq!(moved, ["admin", "listeners", "upstream"], "{text}");
    folder.insert("gatepost.yaml".to_owned(), text.into_bytes());
    folder
}

/// Lays a folder out as the kubelet does with a volume of files, for the first time or to change it: the files are in a folder of their own, what
/// is seen are links by way of `..data`, and that link is swapped.
pub(crate) fn mount(at: &Path, files: &Folder) {
    static GENERATIONS: AtomicUsize = AtomicUsize::new(0);
    let generation = GENERATIONS.fetch_add(1, Ordering::SeqCst);
    let generation = format!("..2026_11_27_00_00_00.{generation}");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at.join(name));
    for (path, content) in files {
        let path = at.join(&generation).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir_all(at.join(&generation)).unwrap();
    let old = std::fs::read_link(at.join("..data"));
    link(&generation, "..data_tmp").unwrap();
    std::fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    let top = files.keys().map(|it| it.split('/').next().unwrap());
    let top: BTreeSet<&str> = top.collect();
    for name in &top {
        if at.join(name).symlink_metadata().is_err() {
            link(&format!("..data/{name}"), name).unwrap();
        }
    }
    for entry in std::fs::read_dir(at).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("..") && !top.contains(name.as_str()) {
            std::fs::remove_file(at.join(name)).unwrap();
        }
    }
    if let Ok(old) = old {
        std::fs::remove_dir_all(at.join(old)).unwrap();
    }
}
