//! What an operator and a host do meanwhile: reloads, new certificates, a broken policy, an MTA that is started anew.

use std::thread;
use std::time::Duration;

use crate::harness::{POLICY, wait_for};
use crate::mix::Mix;
use crate::tls_client::Authority;
use crate::upstream::Upstream;

/// How long the upstream is away each time.
const AWAY: Duration = Duration::from_millis(300);

/// How often what was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) reloads: u64,
    pub(crate) certificates: u64,
    pub(crate) restarts: u64,
    /// Policies that do not load, and are good again after that.
    pub(crate) broken: u64,
}

/// Goes on, a thing every two seconds, until the mix is over.
pub(crate) fn operate(mix: &Mix<'_>, upstream: &Upstream, authority: &Authority) -> Done {
    let gate = mix.gate;
    let policy = gate.folder().join("policy.lua");
    let write = |lua: &str| {
        std::fs::write(policy.with_extension("next"), lua).unwrap();
        std::fs::rename(policy.with_extension("next"), &policy).unwrap();
    };
    let mut done = Done::default();
    for turn in 0_u64.. {
        for _ in 0..20 {
            if mix.is_over() {
                return done;
            }
            thread::sleep(Duration::from_millis(100));
        }
        match turn % 8 {
            0 | 4 => {
                let reloaded = || gate.metric("gatepost_reloads_total{result=\"success\"}");
                let before = reloaded();
                write(&format!("{POLICY}\n-- {turn}\n"));
                gate.signal("HUP");
                wait_for("the reload", || reloaded() > before);
                done.reloads += 1;
            }
            1 | 3 | 5 => {
                let next = authority.server();
                next.write(gate.folder(), "next");
                for ending in ["pem", "key"] {
                    let file = |name: &str| gate.folder().join(format!("{name}.{ending}"));
                    std::fs::rename(file("next"), file("server")).unwrap();
                }
                wait_for("the new certificate", || {
                    let connection = mix.client.connect(mix.tls, b"").unwrap();
                    connection.certificate() == next.der()
                });
                done.certificates += 1;
            }
            7 => {
                let good = || gate.metric("gatepost_reload_success");
                write("this is no Lua");
                wait_for("the reload to fail", || good() < 0.5);
                write(POLICY);
                wait_for("the reload to succeed", || good() > 0.5);
                done.broken += 1;
            }
            _ => {
                upstream.restart(AWAY);
                done.restarts += 1;
            }
        }
    }
    done
}
