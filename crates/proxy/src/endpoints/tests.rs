//! Who is chosen, and what is remembered of whom.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gatepost_config::{HealthCheck, UpstreamAddress};

use super::*;

/// The address 127.0.0.1 with this port.
pub(crate) fn tcp(port: u16) -> Resolved {
    let ip = IpAddr::from([127, 0, 0, 1]);
    Resolved {
        configured: UpstreamAddress::Tcp {
            host: ip.to_string(),
            port,
        },
        targets: vec![UpstreamTarget::Tcp((ip, port).into())],
    }
}

pub(crate) fn endpoints(resolved: Vec<Resolved>, change: impl FnOnce(&mut Balancing)) -> Endpoints {
    after(None, resolved, change)
}

fn after(
    running: Option<&Endpoints>,
    resolved: Vec<Resolved>,
    change: impl FnOnce(&mut Balancing),
) -> Endpoints {
    let second = Duration::from_secs(1);
    let manner = Manner {
        connect_timeout: second,
        response_timeout: second,
        idle_timeout: second,
        tls: None,
    };
    let mut balancing = Balancing {
        balance: Balance::RoundRobin,
        nameservers: Vec::new(),
        max_connections: None,
        circuit_breaker: Some(CircuitBreaker {
            max_failures: 1,
            open_for: Duration::from_secs(3600),
        }),
        health_check: None,
    };
    change(&mut balancing);
    Endpoints::new(resolved, manner, balancing, running).unwrap()
}

fn port(lease: &Lease) -> u16 {
    match &lease.endpoint.target {
        UpstreamTarget::Tcp(address) => address.port(),
        UpstreamTarget::Unix(_) => 0,
    }
}

fn shares(endpoints: &Endpoints, requests: usize) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let lease = endpoints.choose(&[], Instant::now()).unwrap();
        *shares.entry(port(&lease)).or_default() += 1;
    }
    shares
}

/// The circuit of one of them opens.
fn fail(endpoints: &Endpoints, port: u16) {
    let list = endpoints.list();
    let endpoint = list.iter().find(|it| it.target == tcp(port).targets[0]);
    let lease = endpoints.lease(endpoint.unwrap()).unwrap();
    lease.failed(Instant::now(), "no".to_owned());
}

fn all(ports: std::ops::RangeInclusive<u16>) -> Vec<Resolved> {
    ports.map(tcp).collect()
}

#[test]
fn those_that_are_out_leave_no_gap() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let endpoints = endpoints(all(1..=4), |it| it.balance = balance);
        assert_eq!(shares(&endpoints, 40), (1..=4).map(|it| (it, 10)).collect());
        fail(&endpoints, 2);
        assert_eq!(shares(&endpoints, 30), [1, 3, 4].map(|it| (it, 10)).into());
        fail(&endpoints, 3);
        assert_eq!(shares(&endpoints, 30), [1, 4].map(|it| (it, 15)).into());
    }
}

/// Another try does not take the next one's turn, or a dead address would come first at every request.
#[test]
fn another_try_is_of_the_same_turn() {
    let endpoints = endpoints(all(1..=2), |it| it.circuit_breaker = None);
    let mut first = BTreeMap::<u16, usize>::new();
    for _ in 0..20 {
        let now = Instant::now();
        let lease = endpoints.choose(&[], now).unwrap();
        *first.entry(port(&lease)).or_default() += 1;
        if port(&lease) == 1 {
            let tried = [lease.endpoint.clone()];
            assert_eq!(port(&endpoints.choose(&tried, now).unwrap()), 2);
        }
    }
    assert_eq!(first, [(1, 10), (2, 10)].into());
}

/// One that is only full is better waited for than one that is broken.
#[test]
fn a_full_address_is_no_reason_to_ask_a_broken_one() {
    let endpoints = endpoints(all(1..=2), |it| it.max_connections = Some(1));
    let now = Instant::now();
    fail(&endpoints, 2);
    let busy = endpoints.choose(&[], now).unwrap();
    assert_eq!(port(&busy), 1);
    assert_eq!(endpoints.choose(&[], now).err(), Some(NoEndpoint::Busy));
    fail_all(&endpoints, busy);
    assert!(endpoints.choose(&[], now).is_ok(), "nobody else is left");
}

fn fail_all(endpoints: &Endpoints, lease: Lease) {
    lease.failed(Instant::now(), "no".to_owned());
    drop(lease);
    assert!(endpoints.list().iter().all(|it| !it.is_circuit_closed()));
}

fn check() -> HealthCheck {
    HealthCheck {
        path: "/".to_owned(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    }
}

/// What is taken out of the configuration has no effect any more, whatever it found out before, and while it went on.
#[test]
fn a_reload_ends_checks_and_circuits() {
    let running = endpoints(all(1..=2), |it| it.health_check = Some(check()));
    fail(&running, 1);
    let list = running.list();
    list[1].health.checked(&check(), Err("no".to_owned()));
    let now = Instant::now();
    assert_eq!(
        list.iter().map(|it| it.state()).collect::<Vec<_>>(),
        [State::CircuitOpen, State::Down]
    );
    let next = after(Some(&running), all(1..=2), |it| it.circuit_breaker = None);
    // The check that was under way comes to its end.
    list[1].health.checked(&check(), Err("no".to_owned()));
    assert_eq!(shares(&next, 10), [(1, 5), (2, 5)].into());
    assert!(next.has_other(&[list[0].clone()]));
    assert!(!next.has_other(&list[..]));
    let back = after(Some(&next), all(1..=2), |it| {
        it.health_check = Some(check())
    });
    assert_eq!(
        shares(&back, 10),
        [(1, 10)].into(),
        "it is known to be down"
    );
    assert!(back.choose(&[list[0].clone()], now).is_err());
}

/// Name servers that name a few of many in turn do not make a sick one healthy.
#[test]
fn health_is_remembered_while_an_address_is_not_named() {
    let named = |ports: &[u16]| Resolved {
        configured: UpstreamAddress::Tcp {
            host: "mta.test".to_owned(),
            port: 1,
        },
        targets: ports.iter().map(|it| tcp(*it).targets[0].clone()).collect(),
    };
    let endpoints = endpoints(vec![named(&[1, 2])], |_| {});
    fail(&endpoints, 2);
    assert!(endpoints.renamed(named(&[1, 3])).unwrap());
    assert!(!endpoints.renamed(named(&[1, 3])).unwrap());
    assert!(endpoints.renamed(named(&[1, 2])).unwrap());
    assert_eq!(shares(&endpoints, 10), [(1, 10)].into());
    for port in 1000..2000 {
        endpoints.renamed(named(&[port])).unwrap();
    }
    assert!(endpoints.made_of().remembered.0.len() <= 1 + Remembered::MOST);
    assert!(endpoints.renamed(named(&[])).unwrap());
    assert_eq!(
        endpoints.choose(&[], Instant::now()).err(),
        Some(NoEndpoint::Down)
    );
}

#[test]
fn no_more_than_there_may_be() {
    let endpoints = endpoints(all(1..=2), |it| it.max_connections = Some(2));
    let now = Instant::now();
    let mut leases: Vec<_> = (0..4)
        .map(|_| endpoints.choose(&[], now).unwrap())
        .collect();
    assert_eq!(endpoints.choose(&[], now).err(), Some(NoEndpoint::Busy));
    leases.pop();
    assert!(endpoints.choose(&[], now).is_ok());
    drop(leases);
    let idle = |it: &Arc<Endpoint>| it.health.in_flight.load(Relaxed) == 0;
    assert!(endpoints.list().iter().all(idle));
}

/// A connection that is not to be a reused one is none that any other request could find.
#[test]
fn a_second_try_has_a_connection_of_its_own() {
    use pingora_core::upstreams::peer::Peer as _;
    let endpoints = endpoints(all(1..=1), |_| {});
    let first = endpoints.choose(&[], Instant::now()).unwrap();
    let usual = first.peer(None).reuse_hash();
    let again = || {
        endpoints
            .again(&first.endpoint)
            .unwrap()
            .peer(None)
            .reuse_hash()
    };
    let (one, other) = (again(), again());
    assert!(one != usual && other != usual && one != other);
}
