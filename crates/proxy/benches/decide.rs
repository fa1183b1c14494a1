//! What the decision of one request costs: from its parsed head to the permit or the refusal, with real settings and a real policy.
//!
//! `cargo bench -p gatepost-proxy --features bench` measures the time of every case. With `--decide CASE TIMES` it does nothing else
//! than that, so that instructions can be counted (`make instructions`).

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use gatepost_policy::{Policy, PolicyCounters, PolicySettings};
use gatepost_proxy::Loaded;
use gatepost_proxy::bench::{Decisions, Request};
use tokio::runtime::Runtime;

const POLICY: &str = "
local kumo = require 'kumo'
local users = {}
for number = 1, 1000 do users['user' .. number] = 'password' .. number end
kumo.on('http_server_validate_auth_basic', function(user, password) return users[user] == password end)
";

const SETTINGS: &str = "
listeners: [{ listen: '127.0.0.1:0' }]
upstream: { address: '127.0.0.1:1' }
policy: { file: policy.lua, workers: 1 }
admin: off
# Wrong credentials are counted as always, and never too many.
throttle: { per_address: 1000000000/s, per_address_and_user: 1000000000/s }
routes: [{ path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }]
";

/// user500:password500 and so on.
const GOOD: &str = "Authorization: Basic dXNlcjUwMDpwYXNzd29yZDUwMA==\r\n";
const WRONG_PASSWORD: &str = "Authorization: Basic dXNlcjUwMDpwYXNzd29yZDUwMQ==\r\n";
const UNKNOWN_USER: &str = "Authorization: Basic c3RyYW5nZTpwYXNzd29yZDUwMA==\r\n";
const NO_CREDENTIALS: &str = "";

const INJECT: &str = "/api/inject/v1";

/// Outside of all networks that are trusted anywhere here.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How many trusted clients there are.
const CLIENTS: u32 = 512;

/// One kind of request.
struct Case {
    name: &'static str,
    path: &'static str,
    credentials: &'static str,
    /// Whether what the policy accepted is remembered.
    cached: bool,
    trusted: Trusted,
    /// What the client gets; `None` where the request passes.
    expected: Option<u16>,
}

/// Who needs no credentials.
#[derive(Clone, Copy)]
enum Trusted {
    /// Whoever comes, by so many networks.
    V4(u32),
    V6(u32),
    /// Nobody who comes.
    Others,
}

const CASES: &[Case] = &[
    Case {
        name: "good",
        ..Case::USUAL
    },
    Case {
        name: "good_uncached",
        cached: false,
        ..Case::USUAL
    },
    Case {
        name: "wrong_password",
        credentials: WRONG_PASSWORD,
        expected: Some(401),
        ..Case::USUAL
    },
    Case {
        name: "unknown_user",
        credentials: UNKNOWN_USER,
        expected: Some(401),
        ..Case::USUAL
    },
    Case {
        name: "no_credentials",
        credentials: NO_CREDENTIALS,
        expected: Some(401),
        ..Case::USUAL
    },
    Case {
        name: "no_route",
        path: "/elsewhere",
        expected: Some(404),
        ..Case::USUAL
    },
    Case {
        name: "trusted_v4_of_1",
        trusted: Trusted::V4(1),
        ..Case::TRUSTED
    },
    Case {
        name: "trusted_v4_of_10000",
        trusted: Trusted::V4(10_000),
        ..Case::TRUSTED
    },
    Case {
        name: "trusted_v6_of_1",
        trusted: Trusted::V6(1),
        ..Case::TRUSTED
    },
    Case {
        name: "trusted_v6_of_10000",
        trusted: Trusted::V6(10_000),
        ..Case::TRUSTED
    },
];

impl Case {
    const USUAL: Self = Self {
        name: "",
        path: INJECT,
        credentials: GOOD,
        cached: true,
        trusted: Trusted::Others,
        expected: None,
    };

    const TRUSTED: Self = Self {
        credentials: NO_CREDENTIALS,
        ..Self::USUAL
    };

    fn head(&self) -> String {
        let Self {
            path, credentials, ..
        } = self;
        format!(
            "POST {path} HTTP/1.1\r\nHost: mail.example.com\r\nUser-Agent: client/1.0\r\nAccept: */*\r\n{credentials}\
             Content-Type: application/json\r\nContent-Length: 2048\r\n\r\n"
        )
    }

    fn settings(&self) -> Result<String, std::fmt::Error> {
        let mut settings = SETTINGS.to_owned();
        if !self.cached {
            settings.push_str("decision_cache: { ttl: 0s }\n");
        }
        settings.push_str("trusted_hosts:\n");
        for network in self.trusted.networks() {
            writeln!(settings, "  - {network}")?;
        }
        Ok(settings)
    }
}

impl Trusted {
    /// Of many, none touches the next, so that no two can be held as one.
    fn networks(self) -> Vec<String> {
        match self {
            Self::V4(1) => vec!["10.0.0.0/8".to_owned()],
            Self::V6(1) => vec!["2001:db8::/32".to_owned()],
            Self::V4(count) => (0..count)
                .map(|number| format!("{}/25", Self::v4(number)))
                .collect(),
            Self::V6(count) => (0..count)
                .map(|number| format!("'{}/96'", Self::v6(number)))
                .collect(),
            Self::Others => vec!["198.51.100.0/24".to_owned()],
        }
    }

    fn v4(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits((10 << 24) | (number << 8))
    }

    fn v6(number: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) << 33))
    }

    /// The same however many networks there are, since an address takes time to write, too: from all over the list of 10,000, in no order
    /// that a processor could foresee.
    fn clients(self) -> Vec<IpAddr> {
        let spread = (0..CLIENTS).map(|client| client * 7919 % 10_000);
        match self {
            Self::V4(_) => spread
                .map(|it| IpAddr::V4(Ipv4Addr::from_bits(Self::v4(it).to_bits() | 7)))
                .collect(),
            Self::V6(_) => spread
                .map(|it| IpAddr::V6(Ipv6Addr::from_bits(Self::v6(it).to_bits() | 7)))
                .collect(),
            Self::Others => vec![STRANGER],
        }
    }
}

/// A case, ready to be decided about.
struct Ready {
    decisions: Decisions,
    requests: Vec<Request>,
}

impl Ready {
    async fn new(case: &Case) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("policy.lua");
        fs::write(&file, POLICY)?;
        let source = folder.path().join("config.yaml");
        let settings = gatepost_config::parse(&case.settings()?, &source);
        let settings = settings.map_err(|faults| faults.to_string())?;
        let counters = Arc::<PolicyCounters>::default();
        let policy = PolicySettings {
            file,
            workers: 1,
            queue: settings.policy.queue,
            callback_timeout: settings.policy.callback_timeout,
            memory_limit: usize::try_from(settings.policy.memory_limit)?,
            cache_ttl: settings.decision_cache.ttl,
            cache_capacity: settings.decision_cache.capacity,
        };
        let loaded = Loaded {
            policy: Policy::load(policy, &counters)?,
            settings,
            shadow: None,
        };
        let decisions = Decisions::new(loaded, counters)?;
        let head = case.head();
        let mut requests = Vec::new();
        for client in case.trusted.clients() {
            requests.push(Decisions::request(head.as_bytes(), client).await?);
        }
        for request in &mut requests {
            // What is measured must be what it says.
            let refusal = decisions.decide(request).await.err();
            let status = refusal.as_ref().map(|it| it.status().as_u16());
            if status != case.expected {
                return Err(format!("{}: {refusal:?}", case.name).into());
            }
        }
        Ok(Self {
            decisions,
            requests,
        })
    }

    /// One request after the other.
    async fn decide(&mut self, times: u64) -> Duration {
        let mut left = times;
        let begin = Instant::now();
        while left > 0 {
            for request in &mut self.requests {
                if left > 0 {
                    left -= 1;
                    // What it says was looked at before.
                    let _ = black_box(self.decisions.decide(black_box(request)).await);
                }
            }
        }
        begin.elapsed()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // As a proxy thread has it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [decide, name, times] = arguments.as_slice()
        && decide == "--decide"
    {
        return decide_only(&runtime, name, times.parse()?);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decide");
    for case in CASES {
        let mut ready = runtime.block_on(Ready::new(case))?;
        group.bench_function(case.name, |bencher| {
            bencher.iter_custom(|times| runtime.block_on(ready.decide(times)));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn decide_only(runtime: &Runtime, name: &str, times: u64) -> Result<(), Box<dyn Error>> {
    let case = CASES.iter().find(|it| it.name == name);
    let names = || {
        CASES
            .iter()
            .map(|it| it.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let case = case.ok_or_else(|| format!("no case `{name}`; there are {}", names()))?;
    let mut ready = runtime.block_on(Ready::new(case))?;
    runtime.block_on(ready.decide(times));
    // Without taking anything apart: whether a worker gets to the end of its Lua before the process is gone is left to chance, and is a million
    // instructions.
    std::process::exit(0)
}
