//! The level `restricted` of Kubernetes' Pod Security Standards, which admission holds pods against. What is refused there is a fault here.
//! Windows is left out: a pod for it is no business of ours.

use serde_json::Value;

use super::{Pod, items};

/// Kinds of volumes that nobody needs more rights for.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn faults(pod: &Pod<'_>) -> Vec<String> {
    let mut faults = of_pod(pod.spec);
    for container in pod.containers() {
        let name = container["name"].as_str().unwrap_or("?");
        let found = of_container(container, &pod.spec["securityContext"]);
        faults.extend(found.into_iter().map(|it| format!("{name}: {it}")));
    }
    let name = pod.name();
    let said = |it: &String| format!("{name}: not restricted: {it}");
    faults.iter().map(said).collect()
}

fn of_pod(spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == true {
            faults.push(key.to_owned());
        }
    }
    for volume in items(&spec["volumes"]) {
        let kinds = volume.as_object().into_iter().flatten();
        for (kind, _) in kinds.filter(|(key, _)| *key != "name") {
            if !VOLUMES.contains(&kind.as_str()) {
                faults.push(format!("a volume of the kind {kind}"));
            }
        }
    }
    let context = &spec["securityContext"];
    if !items(&context["sysctls"]).is_empty() {
        faults.push("sysctls".to_owned());
    }
    faults.extend(of_context(context));
    faults
}

fn of_container(container: &Value, pod: &Value) -> Vec<String> {
    let context = &container["securityContext"];
    let mut faults = of_context(context);
    // What the container does not say, the pod does.
    let either = |key: &str| context.get(key).unwrap_or(&pod[key]);
    if either("runAsNonRoot") != true {
        faults.push("it may run as root".to_owned());
    }
    let profile = &either("seccompProfile")["type"];
    if profile != "RuntimeDefault" && profile != "Localhost" {
        faults.push("no seccomp profile".to_owned());
    }
    if context["allowPrivilegeEscalation"] != false {
        faults.push("it may gain privileges".to_owned());
    }
    let capabilities = &context["capabilities"];
    if !items(&capabilities["drop"]).iter().any(|it| it == "ALL") {
        faults.push("it keeps capabilities".to_owned());
    }
    if items(&capabilities["add"])
        .iter()
        .any(|it| it != "NET_BIND_SERVICE")
    {
        faults.push("it has more capabilities".to_owned());
    }
    if context["privileged"] == true {
        faults.push("privileged".to_owned());
    }
    let mount = &context["procMount"];
    if !mount.is_null() && mount != "Default" {
        faults.push("procMount".to_owned());
    }
    let takes_host_port = |it: &Value| it["hostPort"].as_u64().is_some_and(|it| it != 0);
    if items(&container["ports"]).iter().any(takes_host_port) {
        faults.push("a port of the node".to_owned());
    }
    for handler in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        let handler = container.pointer(handler).unwrap_or(&Value::Null);
        if ["httpGet", "tcpSocket"]
            .iter()
            .any(|it| handler[it].get("host").is_some())
        {
            faults.push("a hook that asks a host".to_owned());
        }
    }
    faults
}

/// What pods and containers have in common.
fn of_context(context: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if context["runAsUser"] == 0 {
        faults.push("it runs as root".to_owned());
    }
    if context["seccompProfile"]["type"] == "Unconfined" {
        faults.push("seccomp is off".to_owned());
    }
    if context["appArmorProfile"]["type"] == "Unconfined" {
        faults.push("AppArmor is off".to_owned());
    }
    let linux = &context["seLinuxOptions"];
    let kinds = [
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    let kind = &linux["type"];
    if linux.get("user").is_some()
        || linux.get("role").is_some()
        || !(kind.is_null() || kinds.iter().any(|it| kind == it))
    {
        faults.push("SELinux options".to_owned());
    }
    if context["windowsOptions"]["hostProcess"] == true {
        faults.push("a process of the host".to_owned());
    }
    faults
}
