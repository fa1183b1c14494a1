//! What is deployed into Kubernetes, as far as it can be held against gatepost without kubectl and helm: configuration and policy of each form,
//! in the folder as the kubelet lays it out, and the probes that the manifests name. `integration/kubernetes.rs` has the rest.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    Connection, Gatepost, Recorder, Reply, STRANGER, Setup, TRUSTED, basic, get, inject, run,
    wait_for,
};
use crate::manifests::{Folder, mount, moved};

/// `scott:tiger` as `htpasswd -B` writes it, with the empty line behind it.
const SCOTT: &str = "scott:$2y$05$vzD9A.0jguWeRLxEwyECKO9XMHoMAwMFRMc4RAwOOQsFFk62E6txm\n\n";

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Both forms, with the file that has gatepost's container.
const FORMS: [(&str, &str); 2] = [
    ("sidecar", "sidecar/sidecar.yaml"),
    ("standalone", "standalone/deployment.yaml"),
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).unwrap()
}

/// What kustomize makes the volume of.
fn folder(form: &str) -> Folder {
    let files = [
        (
            "gatepost.yaml",
            read(&format!("kubernetes/{form}/gatepost.yaml")),
        ),
        ("policy.lua", read("kubernetes/base/policy.lua")),
        ("users/htpasswd", SCOTT.to_owned()),
        ("admin/token", TOKEN.to_owned()),
    ];
    let files = files.into_iter();
    files
        .map(|(path, text)| (path.to_owned(), text.into_bytes()))
        .collect()
}

/// gatepost's container, as the manifest has it.
fn container(manifest: &str) -> Value {
    let object: Value = serde_saphyr::from_str(&read(&format!("kubernetes/{manifest}"))).unwrap();
    let spec = &object["spec"]["template"]["spec"];
    let all = ["initContainers", "containers"].map(|it| spec[it].as_array().cloned());
    let mut all = all.into_iter().flatten().flatten();
    all.find(|it| it["name"] == "gatepost").unwrap()
}

fn ask(gate: &Gatepost, password: &str) -> u16 {
    let request = inject(&basic("scott", password));
    gate.send(STRANGER, request).unwrap().status
}

fn admin(gate: &Gatepost, path: &str, header: &str) -> Reply {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    // A scraper says the pod's address.
    let head = format!("Host: 10.244.0.2:9090\r\n{header}");
    connection.write(get(path).replacen("Host: gate\r\n", &head, 1));
    connection.reply().unwrap()
}

#[test]
fn gatepost_is_the_same_container_in_every_form() {
    let [mut sidecar, standalone] = FORMS.map(|(_, manifest)| container(manifest));
    let policy = sidecar.as_object_mut().unwrap().remove("restartPolicy");
    assert_eq!(policy.unwrap(), "Always");
    assert_eq!(sidecar, standalone);
    let chart = read("helm/gatepost/files/policy.lua");
    assert_eq!(chart, read("kubernetes/base/policy.lua"));
}

/// What is shipped passes `gatepost check` in the folder as it is mounted, without a warning; a policy that does not load, a folder without its
/// users and a configuration with a wrong key do not.
#[test]
fn gatepost_check_judges_what_is_mounted() {
    for (form, _) in FORMS {
        let check = |files: &Folder| {
            let mounted = tempfile::tempdir().unwrap();
            mount(mounted.path(), files);
            let (status, out, err) = run(&["check", "--config", "gatepost.yaml"], mounted.path());
            (status, out + &err)
        };
        let good = folder(form);
        assert_eq!(check(&good), (Some(0), "gatepost.yaml: ok\n".to_owned()));
        let without = |path: &str| {
            let mut files = good.clone();
            files.remove(path).unwrap();
            files
        };
        let with = |path: &str, from: &str, to: &str| {
            let mut files = good.clone();
            let text = String::from_utf8(files[path].clone()).unwrap();
            assert!(text.contains(from), "{from}: {text}");
            files.insert(path.to_owned(), text.replace(from, to).into_bytes());
            files
        };
        for (files, words) in [
            (without("policy.lua"), "policy.lua"),
            (without("users/htpasswd"), "users/htpasswd"),
            (without("admin/token"), "admin/token"),
            (
                with("policy.lua", "local kumo =", "local kumo = ="),
                "policy.lua:6:",
            ),
            (with("policy.lua", "kumo.on(", "print("), "policy.lua"),
            (
                with("users/htpasswd", "$2y$", ""),
                "no hash of a known kind",
            ),
            (
                with("gatepost.yaml", "drain_delay:", "drain_dely:"),
                "unknown key `drain_dely`",
            ),
            (
                with("gatepost.yaml", "0.0.0.0:9090", "0.0.0.0:90900"),
                "0.0.0.0:90900",
            ),
            (
                with("admin/token", "0123456789abcdef0123456789", ""),
                "16 bytes",
            ),
            (with("gatepost.yaml", "  token: {", "  #{"), "token"),
        ] {
            let (status, said) = check(&files);
            assert_eq!(status, Some(1), "{words}: {said}");
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

/// It runs as it is mounted; the probes that the manifest names get the answer that keeps a pod, without a token; Prometheus gets its metrics with one,
/// and nobody anything else without.
#[test]
fn the_probes_of_the_manifests_are_answered() {
    for (form, manifest) in FORMS {
        let (upstream, mounted) = (Recorder::start(), tempfile::tempdir().unwrap());
        mount(mounted.path(), &moved(folder(form), upstream.address));
        let gate = Setup::demo().start_with(&mounted.path().join("gatepost.yaml"));
        let container = container(manifest);
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let asked = &container[kind]["httpGet"];
            assert_eq!(asked["port"], "gatepost-admin", "{form}: {kind}");
            let reply = admin(&gate, asked["path"].as_str().unwrap(), "");
            assert_eq!(reply.status, 200, "{form}: {kind}");
        }
        for path in ["/metrics", "/status.json", "/log"] {
            assert_eq!(admin(&gate, path, "").status, 401, "{form}: {path}");
        }
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        let reply = admin(&gate, "/metrics", &token);
        assert_eq!(reply.status, 200);
        assert!(reply.text().contains("gatepost_reload_success 1"));
        assert_eq!((ask(&gate, "tiger"), ask(&gate, "lion")), (200, 401));
        let told = upstream.text().to_ascii_lowercase();
        assert_eq!(told.matches("x-http-auth: scott\r\n").count(), 1);
        // Loopback is everybody in the pod, and trusted no more than others.
        assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 401);
    }
}

/// The kubelet changes a volume by swapping a link. A new user counts, one who is taken out does not; a policy that is broken or gone, or users
/// that are gone, leave what was loaded; and gatepost that is killed comes up with what is mounted.
#[test]
fn a_changed_volume_counts_and_a_broken_one_does_not() {
    let (upstream, mounted) = (Recorder::start(), tempfile::tempdir().unwrap());
    // Neither does the cache answer for users who are gone, nor does asking until somebody is let in count as guessing.
    let mut files = moved(folder("sidecar"), upstream.address);
    let config = files.get_mut("gatepost.yaml").unwrap();
    config.extend_from_slice(
        b"decision_cache: { ttl: 0s }\nreload: { watch: 100ms }\nthrottle: off\n",
    );
    mount(mounted.path(), &files);
    let config = mounted.path().join("gatepost.yaml");
    let gate = Setup::demo().start_with(&config);
    assert_eq!(ask(&gate, "tiger"), 200);
    let policy = String::from_utf8(files["policy.lua"].clone()).unwrap();
    let asks = |gate: &Gatepost, user: &str| {
        let request = inject(&basic(user, "tiger"));
        gate.send(STRANGER, request).unwrap().status
    };
    // The Secret.
    let carol = SCOTT.replace("scott", "carol");
    files.insert("users/htpasswd".to_owned(), carol.into_bytes());
    mount(mounted.path(), &files);
    wait_for("carol to be let in", || asks(&gate, "carol") == 200);
    assert_eq!(asks(&gate, "scott"), 401);
    // The ConfigMap, three times.
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let reloaded = |wanted: &str| {
        wait_for(wanted, || {
            let metrics = admin(&gate, "/metrics", &token).text();
            metrics.contains(&format!("gatepost_reload_success {wanted}\n"))
        });
    };
    let broken = policy.replace("local kumo =", "local kumo = =");
    files.insert("policy.lua".to_owned(), broken.into_bytes());
    mount(mounted.path(), &files);
    reloaded("0");
    assert_eq!(asks(&gate, "carol"), 200);
    files.remove("policy.lua");
    mount(mounted.path(), &files);
    gate.wait_log(|line| {
        let fault = line["fault"].as_str().unwrap_or_default();
        fault.contains("cannot read the policy")
    });
    assert_eq!(asks(&gate, "carol"), 200);
    assert_eq!(admin(&gate, "/livez", "").status, 200);
    let louder = policy.replace("users:verify(user, password)", "user == 'dave'");
    files.insert("policy.lua".to_owned(), louder.into_bytes());
    mount(mounted.path(), &files);
    reloaded("1");
    wait_for("the repaired policy", || asks(&gate, "dave") == 200);
    // The users are gone, and the policy that asks for them is back.
    files.insert("policy.lua".to_owned(), policy.into_bytes());
    mount(mounted.path(), &files);
    wait_for("carol to be back", || asks(&gate, "carol") == 200);
    let users = files.remove("users/htpasswd").unwrap();
    mount(mounted.path(), &files);
    wait_for("the missing users to be noticed", || {
        assert_eq!(asks(&gate, "carol"), 200);
        let said = gate.logged();
        said.contains("the users that were read before go on")
    });
    // Killed, and started anew by the kubelet.
    files.insert("users/htpasswd".to_owned(), users);
    mount(mounted.path(), &files);
    gate.signal("KILL");
    let again = Setup::demo().start_with(&config);
    assert_eq!(asks(&again, "carol"), 200);
    assert_eq!(admin(&again, "/readyz", "").status, 200);
}
