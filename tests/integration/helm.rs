//! The chart, as helm renders it, held against the same as the overlays (`kubernetes.rs`).

use std::path::Path;
use std::process::Command;

use crate::kubernetes::{block, change, copy, faults, htpasswd, root, said, serves, tool};
use crate::manifests::Objects;

const TOKEN: &str = "admin.token=0123456789abcdef0123456789abcdef";

/// A chart, and values that suffice in each mode.
struct Chart {
    folder: tempfile::TempDir,
    users: tempfile::TempDir,
}

impl Chart {
    fn new() -> Self {
        let users = tempfile::tempdir().unwrap();
        std::fs::write(users.path().join("users.htpasswd"), htpasswd()).unwrap();
        Self {
            folder: copy("deploy/helm/gatepost"),
            users,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of values and gives its argument.
    fn values(&self, yaml: &str) -> String {
        let path = self.users.path().join("values.yaml");
        std::fs::write(&path, yaml).unwrap();
        format!("--values={}", path.display())
    }

    /// The least that an operator says.
    fn least(&self, mode: &str) -> Vec<String> {
        let users = self.users.path().join("users.htpasswd");
        let mut values = vec![
            "--set=image.repository=registry.example/gatepost".to_owned(),
            format!("--set-file=users.htpasswd={}", users.display()),
            format!("--set={TOKEN}"),
            format!("--set=mode={mode}"),
        ];
        values.push(match mode {
            "sidecar" => "--set=mta.image=registry.example/mta:1".to_owned(),
            _ => "--set=config.upstream.address=mta:8000".to_owned(),
        });
        values
    }

    fn render(&self, values: &[String]) -> Result<String, String> {
        self.helm(&["template", "mail"], values)
    }

    fn helm(&self, verb: &[&str], values: &[String]) -> Result<String, String> {
        let mut helm = tool("helm");
        // It writes nothing there, and must not depend on what is.
        let home = self.users.path();
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            helm.env(variable, home);
        }
        let helm: &mut Command = helm.args(verb).arg(self.path());
        // The Kubernetes that it would be installed into.
        let version = if verb[0] == "template" {
            &["--kube-version=1.30.0"][..]
        } else {
            &[]
        };
        said(helm.args(version).args(values))
    }
}

fn set(values: &[&str]) -> Vec<String> {
    values.iter().map(|it| format!("--set={it}")).collect()
}

#[test]
fn the_chart_is_without_fault_and_serves() {
    let chart = Chart::new();
    for mode in ["standalone", "sidecar"] {
        let least = chart.least(mode);
        let linted = chart.helm(&["lint", "--strict"], &least).unwrap();
        assert!(linted.contains("0 chart(s) failed"), "{linted}");
        let rendered = chart.render(&least).unwrap();
        assert_eq!(faults(&rendered), [""; 0], "{mode}");
        serves(&rendered);
    }
    let off = set(&["mta.container.readinessPath=off"]);
    let rendered = chart.render(&[chart.least("sidecar"), off].concat());
    let rendered = rendered.unwrap();
    assert_eq!(faults(&rendered), [""; 0]);
    assert!(!rendered.contains("check-liveness") && !rendered.contains("anyone"));
    // Everything on.
    let more = set(&["autoscaling.enabled=true", "podMonitor.enabled=true"]);
    let rendered = chart
        .render(&[chart.least("standalone"), more].concat())
        .unwrap();
    assert_eq!(faults(&rendered), [""; 0]);
    let objects = Objects::parse(&rendered);
    for kind in [
        "ConfigMap",
        "Secret",
        "Service",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "PodMonitor",
    ] {
        assert!(!objects.of(kind).is_empty(), "{kind}");
    }
}

/// What the overlays have, the chart has: the same container for gatepost but for names and the policy of pulling.
#[test]
fn the_chart_has_the_container_of_the_overlays() {
    let rendered = Chart::new();
    let rendered = rendered.render(&rendered.least("sidecar")).unwrap();
    let objects = Objects::parse(&rendered);
    let mut ours = objects.gated().gatepost().unwrap().clone();
    let path = root().join("deploy/kubernetes/sidecar/sidecar.yaml");
    let patch = Objects::parse(&std::fs::read_to_string(path).unwrap());
    let mut theirs = patch.gated().gatepost().unwrap().clone();
    for container in [&mut ours, &mut theirs] {
        let container = container.as_object_mut().unwrap();
        container.remove("image").unwrap();
        container.remove("imagePullPolicy");
    }
    assert_eq!(ours, theirs);
}

/// More than the defaults: Secrets that are there already, a policy of one's own with a table beside it, a second listener, an MTA with a spool.
#[test]
fn values_of_an_operator_are_without_fault() {
    let chart = Chart::new();
    let values = chart.values(
        r#"
image: { repository: registry.example/gatepost, tag: "", digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000" }
imagePullSecrets: [{ name: pull }]
mode: sidecar
config:
  listeners:
    - listen: 0.0.0.0:8025
    - listen: 0.0.0.0:8026
  drain_timeout: 8s
  decision_cache: { ttl: 10s }
users: { existingSecret: people }
admin: { existingSecret: gate-token }
policy: |
  local kumo = require 'kumo'
  local gatepost = require 'gatepost'
  local users = gatepost.htpasswd 'users/htpasswd'
  local blocked = require 'blocked'
  kumo.on('http_server_validate_auth_basic', function(user, password)
    return not blocked[user] and users:verify(user, password)
  end)
files:
  blocked.lua: |
    return { mallory = true }
env: [{ name: OTEL_RESOURCE_ATTRIBUTES, value: "service.instance.id=1" }]
replicas: 3
service: { type: LoadBalancer, port: 8080, annotations: { a: b } }
networkPolicy:
  clients: [{ podSelector: { matchLabels: { app: shop } } }]
podMonitor: { enabled: true, labels: { release: prometheus } }
podLabels: { team: mail }
podAnnotations: { a: b }
nodeSelector: { disk: ssd }
tolerations: [{ key: mail, operator: Exists }]
mta:
  image: registry.example/mta:1
  container:
    spec:
      volumeMounts: [{ name: spool, mountPath: /var/spool }]
  volumeClaimTemplates:
    - metadata: { name: spool }
      spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }
"#,
    );
    let rendered = chart.render(&[values]).unwrap();
    // They are the operator's.
    let own = "\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: people }\ndata: { htpasswd: Y2Fyb2w6e1NIQX01ZW42RzZNZXpSclQzWEtxa2RQT21ZL0JmUT0K }\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: gate-token }\ndata: { token: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY= }\n";
    assert_eq!(faults(&format!("{rendered}{own}")), [""; 0]);
    let objects = Objects::parse(&rendered);
    assert_eq!(objects.of("Secret").len(), 0);
    let service = objects.named("Service", "mail-gatepost").unwrap();
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8025);
    let pod = objects.gated();
    assert_eq!(
        pod.spec["containers"][0]["readinessProbe"]["httpGet"]["port"],
        8025
    );
    assert_eq!(pod.workload["spec"]["replicas"], 3);
    let without = faults(&rendered);
    let told = without
        .iter()
        .any(|it| it.contains("there is no Secret people"));
    assert!(told, "{without:#?}");
}

/// The lines of chart.yaml.
#[derive(serde::Deserialize)]
struct Wrong {
    values: Vec<[String; 3]>,
    templates: Vec<[String; 5]>,
}

fn wrong() -> Wrong {
    serde_saphyr::from_str(include_str!("kubernetes/chart.yaml")).unwrap()
}

/// Whatever is missing or wrong is said before anything is installed.
#[test]
fn wrong_values_are_refused() {
    let chart = Chart::new();
    for [mode, value, words] in wrong().values {
        // In place of what is said otherwise, so that nothing is both in a file and on the line.
        let key = value.split('=').next().unwrap();
        let mut all = chart.least(&mode);
        all.retain(|it| !it.contains(&format!("={key}=")));
        all.push(format!("--set={value}"));
        let complaint = chart.render(&all).expect_err(&value);
        assert!(complaint.contains(&words), "{value}: {words}: {complaint}");
    }
    let mut helm = tool("helm");
    helm.args(["template", "mail", "--kube-version=1.29.0"]);
    helm.arg(chart.path()).args(chart.least("standalone"));
    let complaint = said(&mut helm).unwrap_err();
    assert!(complaint.contains("kubeVersion"), "{complaint}");
}

/// What helm renders without a complaint and would fail in the cluster.
#[test]
fn templates_and_policies_that_are_wrong_are_found() {
    for [mode, file, from, to, words] in wrong().templates {
        let chart = Chart::new();
        change(&chart.path().join(&file), &from, &to);
        let found = match chart.render(&chart.least(&mode)) {
            Ok(rendered) => faults(&rendered),
            Err(complaint) => vec![complaint],
        };
        let told = found.iter().any(|it| it.contains(&words));
        assert!(told, "{file}: {from} -> {to}: {words}: {found:#?}");
    }
}

/// An operator's own chart with this one in it: the MTA's pods are theirs, gatepost's parts are ours.
#[test]
fn another_chart_takes_the_sidecar() {
    let chart = Chart::new();
    let parent = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = parent.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "Chart.yaml",
        "apiVersion: v2\nname: mta\nversion: 1.0.0\ndependencies: [{ name: gatepost, version: 0.1.0 }]\n",
    );
    write(
        "values.yaml",
        "gatepost: { mode: parts, image: { repository: registry.example/gatepost } }\n",
    );
    write(
        "templates/statefulset.yaml",
        r#"apiVersion: apps/v1
kind: StatefulSet
metadata: { name: mta }
spec:
  serviceName: mta
  selector: { matchLabels: { app: mta } }
  template:
    metadata:
      labels:
        app: mta
        {{- include "gatepost.selectorLabels" .Subcharts.gatepost | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 60
      securityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
      initContainers:
        {{- include "gatepost.sidecar" .Subcharts.gatepost | nindent 8 }}
      containers:
        - name: mta
          image: registry.example/mta:1
          lifecycle: { preStop: { sleep: { seconds: 10 } } }
          readinessProbe: { httpGet: { path: /api/check-liveness/v1, port: 8080 } }
          resources: { requests: { cpu: 1, memory: 1Gi }, limits: { memory: 1Gi } }
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
      volumes:
        {{- include "gatepost.volume" .Subcharts.gatepost | nindent 8 }}
"#,
    );
    let inner = parent.path().join("charts/gatepost");
    std::fs::create_dir_all(inner.parent().unwrap()).unwrap();
    std::fs::rename(chart.path(), &inner).unwrap();
    let users = chart.users.path().join("users.htpasswd");
    let mut helm = tool("helm");
    helm.args(["template", "mail", "--kube-version=1.30.0"])
        .arg(parent.path());
    helm.arg(format!(
        "--set-file=gatepost.users.htpasswd={}",
        users.display()
    ));
    let rendered = said(helm.arg(format!("--set=gatepost.{TOKEN}"))).unwrap();
    assert_eq!(faults(&rendered), [""; 0]);
    serves(&rendered);
}

/// The commands of docs/kubernetes.md, as an operator types them; the password comes from a pipe, and what would be installed is shown.
#[test]
fn the_commands_of_the_page_install_the_chart() {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let script = block(&page, "helm install")
        .join("\n")
        .replace("htpasswd -nB scott", "echo tiger | htpasswd -niB scott")
        .replace("helm install", "\"$HELM\" template");
    let (folder, copied) = (tempfile::tempdir().unwrap(), copy("deploy"));
    std::fs::rename(copied.path(), folder.path().join("deploy")).unwrap();
    let sidecar = "config.upstream.address=mta:8000";
    assert!(
        script.contains(sidecar) && page.contains("--set mode=sidecar --set mta.image=YOUR-MTA")
    );
    let other = "mode=sidecar --set mta.image=YOUR-MTA:1";
    for script in [script.clone(), script.replace(sidecar, other)] {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &script]).current_dir(folder.path());
        shell.env("HELM", root().join("target/kubernetes/bin/helm"));
        let rendered = said(shell.env("HOME", folder.path())).unwrap();
        assert_eq!(faults(&rendered), [""; 0]);
        serves(&rendered);
    }
}
