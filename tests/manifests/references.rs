//! Objects that speak of pods: whether those are there, and whether what is said of them is so.

use serde_json::Value;

use super::{Objects, Pod, items, matches, named};

pub(super) fn faults(objects: &Objects) -> Vec<String> {
    let pods = objects.pods();
    let mut faults = Vec::new();
    for service in objects.of("Service") {
        faults.extend(of_service(service, &pods));
    }
    for budget in objects.of("PodDisruptionBudget") {
        faults.extend(of_budget(budget, &pods));
    }
    for scaler in objects.of("HorizontalPodAutoscaler") {
        faults.extend(of_scaler(scaler, objects));
    }
    for monitor in objects.of("PodMonitor") {
        faults.extend(of_monitor(monitor, objects, &pods));
    }
    for pod in pods.iter().filter(|it| it.gatepost().is_some()) {
        let policies = objects.of("NetworkPolicy");
        faults.extend(of_policies(pod, &policies));
        faults.extend(of_ways_out(pod, &policies, objects));
        let served = objects.of("Service").iter().any(|it| {
            matches(&it["spec"]["selector"], pod.labels) && !items(&it["spec"]["ports"]).is_empty()
        });
        if !served {
            faults.push(format!("{}: no Service leads to it", pod.name()));
        }
    }
    faults
}

fn of_service(service: &Value, pods: &[Pod<'_>]) -> Vec<String> {
    let name = named(service);
    let mut selected = pods
        .iter()
        .filter(|it| matches(&service["spec"]["selector"], it.labels));
    let Some(pod) = selected.next() else {
        return vec![format!("{name} selects nobody")];
    };
    let mut faults = Vec::new();
    for port in items(&service["spec"]["ports"]) {
        let target = port.get("targetPort").unwrap_or(&port["port"]);
        let known = pod.ports();
        let fault = if target.is_u64() {
            let known = known.iter().any(|it| target == it.1);
            (!known).then_some("no container has this port")
        } else if pod.is_sidecar() {
            Some("a sidecar's ports have no names before Kubernetes 1.32")
        } else {
            let known = known.iter().any(|it| it.0 == target.as_str());
            (!known).then_some("no container has a port of this name")
        };
        faults.extend(fault.map(|it| format!("{name}: targetPort {target}: {it}")));
    }
    faults
}

fn of_budget(budget: &Value, pods: &[Pod<'_>]) -> Option<String> {
    let name = named(budget);
    let selector = &budget["spec"]["selector"]["matchLabels"];
    if !pods.iter().any(|it| matches(selector, it.labels)) {
        return Some(format!("{name} selects nobody"));
    }
    let most = &budget["spec"]["maxUnavailable"];
    let none = most.is_null() || most == 0 || most == "0%";
    none.then(|| format!("{name}: no node can ever be drained"))
}

fn of_scaler(scaler: &Value, objects: &Objects) -> Vec<String> {
    let name = named(scaler);
    let target = &scaler["spec"]["scaleTargetRef"];
    let text = |key: &str| target[key].as_str().unwrap_or_default();
    let Some(workload) = objects.named(text("kind"), text("name")) else {
        return vec![format!("{name} scales what is not there")];
    };
    let mut faults = Vec::new();
    if workload["spec"].get("replicas").is_some() {
        faults.push(format!(
            "{name}: {} says how many there are, too",
            named(workload)
        ));
    }
    if workload["kind"] == "StatefulSet" {
        faults.push(format!(
            "{name}: an MTA that is taken away takes its spool with it"
        ));
    }
    let least = scaler["spec"]["minReplicas"].as_u64().unwrap_or(1);
    if least < 2 || scaler["spec"]["maxReplicas"].as_u64() < Some(least) {
        faults.push(format!("{name}: fewer than two, or no room above"));
    }
    faults
}

/// The fields that are used here, since the operator's schema is not at hand and an unknown one is silently dropped.
const ENDPOINT: &[&str] = &["port", "path", "interval", "authorization"];

fn of_monitor(monitor: &Value, objects: &Objects, pods: &[Pod<'_>]) -> Vec<String> {
    let name = named(monitor);
    let spec = &monitor["spec"];
    let selector = &spec["selector"]["matchLabels"];
    let Some(pod) = pods.iter().find(|it| matches(selector, it.labels)) else {
        return vec![format!("{name} selects nobody")];
    };
    let mut faults = Vec::new();
    let endpoints = items(&spec["podMetricsEndpoints"]);
    if endpoints.is_empty() {
        faults.push("it asks nobody".to_owned());
    }
    for endpoint in endpoints {
        let keys = endpoint.as_object().into_iter().flatten();
        for (key, _) in keys.filter(|it| !ENDPOINT.contains(&it.0.as_str())) {
            faults.push(format!("unknown field {key}"));
        }
        let port = endpoint["port"].as_str();
        if port.is_none() || !pod.ports().iter().any(|it| it.0 == port) {
            faults.push(format!("no container has a port {}", endpoint["port"]));
        }
        if endpoint["path"] != "/metrics" {
            faults.push(format!("no metrics are at {}", endpoint["path"]));
        }
        let credentials = &endpoint["authorization"]["credentials"];
        let text = |key: &str| credentials[key].as_str().unwrap_or_default();
        let secret = objects.named("Secret", text("name"));
        let mounted = pod.folder(objects).unwrap_or_default();
        let known = secret.map(|it| &it["data"][text("key")]);
        if known.is_none_or(Value::is_null) || !mounted.contains_key("admin/token") {
            faults.push("the token that it shows is not there".to_owned());
        }
    }
    faults.iter().map(|it| format!("{name}: {it}")).collect()
}

/// Whether a policy is for these pods, in this direction.
fn holds(policy: &Value, pod: &Pod<'_>, kind: &str) -> bool {
    let kinds = items(&policy["spec"]["policyTypes"]);
    let selector = &policy["spec"]["podSelector"]["matchLabels"];
    kinds.iter().any(|it| it == kind) && matches(selector, pod.labels)
}

/// Where anything is forbidden to go out, the upstream may still be asked, and name servers for its name.
fn of_ways_out(pod: &Pod<'_>, policies: &[&Value], objects: &Objects) -> Vec<String> {
    let egress: Vec<_> = policies
        .iter()
        .filter(|it| holds(it, pod, "Egress"))
        .collect();
    let upstream = pod.upstream(objects).unwrap_or_default();
    if egress.is_empty() || pod.is_sidecar() {
        return Vec::new();
    }
    let port = upstream.rsplit(':').next().and_then(|it| it.parse().ok());
    let open = |wanted: u64| {
        let rules = egress.iter().flat_map(|it| items(&it["spec"]["egress"]));
        let mut ports = rules.flat_map(|it| items(&it["ports"]));
        ports.any(|it| it["port"] == wanted)
    };
    let closed = [port.unwrap_or(0), 53].into_iter().filter(|it| !open(*it));
    closed
        .map(|it| format!("{}: no NetworkPolicy lets it reach port {it}", pod.name()))
        .collect()
}

/// Only gatepost's own ports may be reached.
fn of_policies(pod: &Pod<'_>, policies: &[&Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let ingress: Vec<_> = policies
        .iter()
        .filter(|it| holds(it, pod, "Ingress"))
        .collect();
    if ingress.is_empty() {
        faults.push("no NetworkPolicy closes its other ports".to_owned());
    }
    let own: Vec<u64> = pod
        .gatepost()
        .map(|it| super::pod::ports(it).map(|it| it.1).collect())
        .unwrap();
    for policy in ingress {
        let name = named(policy);
        let mut reached = Vec::new();
        for rule in items(&policy["spec"]["ingress"]) {
            let ports = items(&rule["ports"]);
            if ports.is_empty() {
                faults.push(format!("{name} opens every port"));
            }
            for port in ports {
                if port.get("endPort").is_some() {
                    faults.push(format!("{name} opens a range of ports"));
                }
                reached.push(port["port"].as_u64().unwrap_or(0));
            }
        }
        let foreign = reached.iter().filter(|it| !own.contains(it));
        faults.extend(foreign.map(|it| format!("{name} opens port {it}, which is not gatepost's")));
        if own.first().is_some_and(|it| !reached.contains(it)) {
            faults.push(format!("{name} opens gatepost's port to nobody"));
        }
    }
    let said = |it: &String| format!("{}: {it}", pod.name());
    faults.iter().map(said).collect()
}
