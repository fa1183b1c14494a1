//! A pod that a workload makes: its containers, and gatepost among them.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::Value;

use super::{Folder, Objects, items, named};

/// Where the image looks for its configuration.
const FOLDER: &str = "/etc/gatepost";

/// What a cluster takes to tell every node of a pod that ends, in seconds.
const UNTIL_EVERY_NODE_KNOWS: u64 = 5;

/// A pod that a workload makes.
pub(crate) struct Pod<'a> {
    pub(crate) workload: &'a Value,
    pub(crate) labels: &'a Value,
    pub(crate) spec: &'a Value,
}

/// What gatepost's own configuration says that the pod has to keep to.
struct Configured {
    listeners: BTreeSet<u64>,
    admin: u64,
    upstream: String,
    /// `drain_delay`, in seconds.
    delay: u64,
    /// `drain_timeout`, in seconds.
    timeout: u64,
    faults: Vec<String>,
}

impl<'a> Pod<'a> {
    pub(super) fn of(workload: &'a Value) -> Option<Self> {
        let template = &workload["spec"]["template"];
        template.is_object().then(|| Self {
            workload,
            labels: &template["metadata"]["labels"],
            spec: &template["spec"],
        })
    }

    pub(crate) fn name(&self) -> String {
        named(self.workload)
    }

    pub(crate) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let (init, main) = (&self.spec["initContainers"], &self.spec["containers"]);
        items(init).iter().chain(items(main))
    }

    /// gatepost's container.
    pub(crate) fn gatepost(&self) -> Option<&'a Value> {
        self.containers().find(|it| it["name"] == "gatepost")
    }

    /// Whether gatepost is an init container that goes on.
    pub(crate) fn is_sidecar(&self) -> bool {
        items(&self.spec["initContainers"])
            .iter()
            .any(|it| it["name"] == "gatepost")
    }

    /// Names and numbers of all ports.
    pub(crate) fn ports(&self) -> Vec<(Option<&'a str>, u64)> {
        self.containers().flat_map(ports).collect()
    }

    /// What gatepost finds in its folder.
    ///
    /// # Errors
    ///
    /// Where the folder, or what it is made of, is not there.
    pub(crate) fn folder(&self, objects: &Objects) -> Result<Folder, String> {
        let gatepost = self.gatepost().ok_or("no container is called gatepost")?;
        let mounts = items(&gatepost["volumeMounts"]);
        let mount = mounts.iter().find(|it| it["mountPath"] == FOLDER);
        let mount = mount.ok_or(format!("nothing is mounted at {FOLDER}"))?;
        if mount.get("subPath").is_some() {
            return Err("a mount with subPath never changes".to_owned());
        }
        let volumes = items(&self.spec["volumes"]);
        let volume = volumes.iter().find(|it| it["name"] == mount["name"]);
        let volume = volume.ok_or(format!("there is no volume {}", mount["name"]))?;
        let mut folder = Folder::new();
        for source in items(&volume["projected"]["sources"]) {
            for (kind, field) in [("ConfigMap", "configMap"), ("Secret", "secret")] {
                if let Some(wanted) = source.get(field) {
                    add(&mut folder, objects, kind, wanted)?;
                }
            }
        }
        Ok(folder)
    }

    /// Where gatepost sends what it lets through, as its configuration says.
    ///
    /// # Errors
    ///
    /// Where there is no configuration.
    pub(super) fn upstream(&self, objects: &Objects) -> Result<String, String> {
        self.configured(objects).map(|it| it.upstream)
    }

    /// What is wrong with the pod itself.
    pub(super) fn faults(&self, objects: &Objects) -> Vec<String> {
        let mut faults = Vec::new();
        if self.workload["spec"]["selector"]["matchLabels"]
            .as_object()
            .is_none_or(|it| it.iter().any(|(key, value)| self.labels[key] != *value))
        {
            faults.push("its selector does not select its own pods".to_owned());
        }
        if self.spec["automountServiceAccountToken"] != false {
            faults.push("a token of the cluster is mounted that nobody needs".to_owned());
        }
        let known: Vec<&Value> = items(&self.spec["volumes"])
            .iter()
            .map(|it| &it["name"])
            .chain(
                items(&self.workload["spec"]["volumeClaimTemplates"])
                    .iter()
                    .map(|it| &it["metadata"]["name"]),
            )
            .collect();
        let mut names = BTreeSet::new();
        for container in self.containers() {
            let name = container["name"].as_str().unwrap_or("?");
            faults.extend(
                self.container_faults(container)
                    .map(|it| format!("{name}: {it}")),
            );
            for mount in items(&container["volumeMounts"]) {
                if !known.contains(&&mount["name"]) {
                    faults.push(format!("{name}: there is no volume {}", mount["name"]));
                }
            }
            for port in ports(container).filter_map(|(name, _)| name) {
                if !names.insert(port) {
                    faults.push(format!("two ports are called {port}"));
                }
            }
        }
        if self.gatepost().is_some() {
            match self.configured(objects) {
                Ok(configured) => faults.extend(self.held_against(configured)),
                Err(fault) => faults.push(fault),
            }
        }
        let name = self.name();
        faults.iter().map(|it| format!("{name}: {it}")).collect()
    }

    fn container_faults(&self, container: &Value) -> impl Iterator<Item = String> {
        let mut faults = Vec::new();
        let image = container["image"].as_str().unwrap_or_default();
        let version = image
            .rsplit('/')
            .next()
            .and_then(|it| it.split_once([':', '@']));
        if image.is_empty() || version.is_none_or(|(_, it)| it.is_empty() || it == "latest") {
            faults.push(format!("the image `{image}` names no version"));
        }
        for path in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            if container["resources"].pointer(path).is_none() {
                faults.push(format!("resources{path} is missing"));
            }
        }
        for (kind, probe) in probes(container) {
            let get = &probe["httpGet"];
            if get.get("host").is_some() {
                faults.push(format!("{kind} asks a host, which is not the pod"));
            }
            // By the container's own names, or by any number of the pod.
            let by_name = numbered(container, &get["port"]);
            let found = by_name.is_some_and(|it| self.ports().iter().any(|port| port.1 == it));
            if !found {
                faults.push(format!(
                    "{kind} asks port {}, which nobody has",
                    get["port"]
                ));
            }
        }
        faults.into_iter()
    }

    fn configured(&self, objects: &Objects) -> Result<Configured, String> {
        let folder = self.folder(objects)?;
        let text = |path: &str| {
            let content = folder.get(path).ok_or(format!("there is no file {path}"))?;
            String::from_utf8(content.clone()).map_err(|_| format!("{path} is no text"))
        };
        let config: Value = serde_saphyr::from_str(&text("gatepost.yaml")?)
            .map_err(|fault| format!("gatepost.yaml: {fault}"))?;
        text(config["policy"]["file"].as_str().unwrap_or_default())?;
        text(
            config["admin"]["token"]["file"]
                .as_str()
                .unwrap_or_default(),
        )?;
        let mut faults = Vec::new();
        let mut port = |address: &Value| {
            let address = address.as_str().unwrap_or_default();
            let (host, port) = address.rsplit_once(':').unwrap_or_default();
            if host.starts_with("127.") || host == "[::1]" {
                faults.push(format!("{address} is reached by nobody outside of the pod"));
            }
            port.parse().unwrap_or(0)
        };
        let listeners = items(&config["listeners"]);
        let listeners = listeners.iter().map(|it| port(&it["listen"])).collect();
        let admin = port(&config["admin"]["listen"]);
        let seconds = |key: &str, default: u64| match config[key].as_str() {
            Some(text) => text.trim_end_matches('s').parse().unwrap_or(u64::MAX / 4),
            None => default,
        };
        Ok(Configured {
            listeners,
            admin,
            upstream: config["upstream"]["address"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            delay: seconds("drain_delay", 0),
            timeout: seconds("drain_timeout", 25),
            faults,
        })
    }

    /// What the pod says against what gatepost does.
    fn held_against(&self, configured: Configured) -> Vec<String> {
        let Configured {
            listeners,
            admin,
            upstream,
            delay,
            timeout,
            mut faults,
        } = configured;
        let gatepost = self.gatepost().unwrap();
        let said: BTreeSet<u64> = ports(gatepost).map(|it| it.1).collect();
        let mut opened = listeners.clone();
        opened.insert(admin);
        if said != opened {
            faults.push(format!(
                "gatepost listens on {opened:?}, its container says {said:?}"
            ));
        }
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let get = &gatepost[kind]["httpGet"];
            let path = if kind == "livenessProbe" {
                "/livez"
            } else {
                "/readyz"
            };
            let port = numbered(gatepost, &get["port"]);
            if get["path"] != path || port != Some(admin) {
                faults.push(format!(
                    "gatepost: {kind} does not ask for {path} at {admin}"
                ));
            }
        }
        if gatepost.pointer("/lifecycle/preStop").is_some() {
            faults.push("gatepost: a preStop hook holds up the pod's end".to_owned());
        }
        if gatepost["securityContext"]["readOnlyRootFilesystem"] != true {
            faults.push("gatepost: its root file system can be written to".to_owned());
        }
        let grace = self.spec["terminationGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(30);
        let mut needed = delay + timeout;
        if self.is_sidecar() {
            if gatepost["restartPolicy"] != "Always" {
                faults
                    .push("gatepost: an init container that ends before the MTA starts".to_owned());
            }
            let waits = self.mta_waits();
            needed += waits;
            if waits < UNTIL_EVERY_NODE_KNOWS {
                faults.push("the MTA stops while requests are still sent to it".to_owned());
            }
            faults.extend(self.ways_around(&upstream));
        } else if delay < UNTIL_EVERY_NODE_KNOWS {
            faults.push("`drain_delay` is over while requests are still sent here".to_owned());
        }
        if grace <= needed {
            faults.push(format!(
                "it is killed after {grace} s, and may need {needed} s"
            ));
        }
        faults
    }

    /// How long the MTA's preStop hook holds it up, in seconds; of several containers the shortest.
    fn mta_waits(&self) -> u64 {
        let main = items(&self.spec["containers"]).iter();
        let waits = main.map(|it| it.pointer("/lifecycle/preStop/sleep/seconds"));
        let waits = waits.map(|it| it.and_then(Value::as_u64).unwrap_or(0));
        waits.min().unwrap_or(0)
    }

    /// Beside a sidecar the MTA is on loopback, and its port is nobody else's business.
    fn ways_around(&self, upstream: &str) -> Option<String> {
        let Some(port) = upstream.strip_prefix("127.0.0.1:") else {
            return Some(format!("the upstream {upstream} is not in the pod"));
        };
        let port: u64 = port.parse().unwrap_or(0);
        let opened = self.ports().iter().any(|it| it.1 == port);
        opened.then(|| format!("the MTA's port {port} is opened beside the gate"))
    }
}

/// The probes of a container that speak HTTP, by their fields.
pub(crate) fn probes(container: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let kinds = ["startupProbe", "readinessProbe", "livenessProbe"];
    let all = kinds.into_iter().map(|kind| (kind, &container[kind]));
    all.filter(|(_, probe)| probe.get("httpGet").is_some())
}

/// The number of a port that is said by its number, or by a name of this container's.
pub(crate) fn numbered(container: &Value, port: &Value) -> Option<u64> {
    let named = |it: &(Option<&str>, u64)| it.0 == port.as_str();
    port.as_u64()
        .or_else(|| ports(container).find(named).map(|it| it.1))
}

/// Names and numbers of a container's ports.
pub(crate) fn ports(container: &Value) -> impl Iterator<Item = (Option<&str>, u64)> {
    items(&container["ports"]).iter().map(|it| {
        let number = it["containerPort"].as_u64().unwrap_or(0);
        (it["name"].as_str(), number)
    })
}

/// One source of a projected volume.
fn add(folder: &mut Folder, objects: &Objects, kind: &str, wanted: &Value) -> Result<(), String> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let object = objects.named(kind, name);
    let object = object.ok_or(format!("there is no {kind} {name}"))?;
    let content = |key: &str| {
        let value = object["data"][key].as_str();
        let value = value.ok_or(format!("{kind} {name} has no key {key}"))?;
        if kind == "ConfigMap" {
            return Ok(value.as_bytes().to_vec());
        }
        let value: String = value.split_whitespace().collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(value);
        decoded.map_err(|_| format!("{kind} {name}: {key} is not base64"))
    };
    if let Some(chosen) = wanted.get("items") {
        for item in items(chosen) {
            let text = |field: &str| item[field].as_str().unwrap_or_default();
            folder.insert(text("path").to_owned(), content(text("key"))?);
        }
    } else {
        let keys = object["data"].as_object().into_iter().flatten();
        for (key, _) in keys {
            folder.insert(key.clone(), content(key)?);
        }
    }
    Ok(())
}
