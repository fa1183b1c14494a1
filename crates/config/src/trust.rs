//! The lists that trust hangs on, and what about them is probably not meant.

use gatepost_auth::Networks;
use gatepost_auth::address::{HopHeader, parse_network};
use gatepost_auth::rule::is_wide;
use ipnet::IpNet;

use crate::kind;
use crate::node::Place;
use crate::section::Section;
use crate::settings::{Listen, Listener};

/// Whom to believe what.
pub(crate) struct Trust {
    pub(crate) hosts: Networks,
    pub(crate) proxies: Networks,
    pub(crate) hop_header: HopHeader,
}

type Written = Vec<(IpNet, Place)>;

/// Reads the lists.
pub(crate) fn trust(root: &mut Section<'_>, listeners: &[Listener]) -> Trust {
    let hosts = networks(root, "trusted_hosts");
    let proxies = networks(root, "trusted_proxies");
    let names = [
        ("X-Forwarded-For", HopHeader::XForwardedFor),
        ("Forwarded", HopHeader::Forwarded),
    ];
    let hop_header = root.or(
        "client_address_header",
        HopHeader::default(),
        kind::word(&names),
    );
    for (network, place) in &hosts {
        if let Some(doubt) = doubt_about_host(network, &proxies) {
            root.reader().warn(*place, doubt);
        }
    }
    for (network, place) in &proxies {
        if is_wide(network) {
            root.reader().warn(
                *place,
                format!("{network} lets a large part of the internet say where requests come from"),
            );
        }
    }
    if proxies.is_empty()
        && let Some(listener) = listeners
            .iter()
            .find(|it| it.proxy_protocol && matches!(it.listen, Listen::Tcp(_)))
    {
        root.reader().warn(
            root.place(),
            format!(
                "`trusted_proxies` is empty, so no PROXY header is accepted on {}",
                listener.listen
            ),
        );
    }
    Trust {
        hosts: plain(&hosts),
        proxies: plain(&proxies),
        hop_header,
    }
}

fn networks(root: &mut Section<'_>, key: &'static str) -> Written {
    root.list(key, "[10.0.0.0/8, \"::1\"]", kind::network().placed())
}

fn plain(written: &Written) -> Networks {
    written.iter().map(|(network, _)| *network).collect()
}

/// Why a trusted host is probably more than one host, or another than was meant.
fn doubt_about_host(network: &IpNet, proxies: &Written) -> Option<String> {
    if is_wide(network) {
        return Some(format!(
            "{network} lets a large part of the internet in without credentials"
        ));
    }
    let overlaps = |other: &IpNet| other.contains(network) || network.contains(other);
    if let Some((proxy, _)) = proxies.iter().find(|(proxy, _)| overlaps(proxy)) {
        let which = if proxy == network {
            "is a trusted proxy too".to_owned()
        } else {
            format!("and the trusted proxy {proxy} overlap")
        };
        return Some(format!(
            "{network} {which}: a request that the proxy forwards without naming its client passes without credentials"
        ));
    }
    if let Some((rewriter, who)) = REWRITERS
        .iter()
        .find(|(text, _)| parse_network(text).is_ok_and(|rewriter| overlaps(&rewriter)))
    {
        return Some(format!(
            "{network} holds {rewriter}, {who}: whoever comes through it passes without credentials"
        ));
    }
    if is_private(network) {
        if is_broad(network) {
            return Some(format!(
                "{network} looks like the network of pods or nodes: every one of them passes without credentials"
            ));
        }
        if is_gateway(network) {
            return Some(format!(
                "{network} looks like a gateway, to which bridges and load balancers rewrite everybody's address: whoever comes through it passes without credentials"
            ));
        }
    }
    None
}

/// Addresses that are rewritten to, by whom. A client that seems to come from there may be anybody.
const REWRITERS: [(&str, &str); 4] = [
    (
        "35.191.0.0/16",
        "from where Google's load balancers connect",
    ),
    (
        "130.211.0.0/22",
        "from where Google's load balancers connect",
    ),
    ("168.63.129.16", "from where Azure's load balancers connect"),
    (
        "169.254.0.0/16",
        "link-local, to which nodes rewrite what they forward",
    ),
];

/// RFC 1918, RFC 6598 and RFC 4193: where clusters take their addresses from.
fn is_private(network: &IpNet) -> bool {
    [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
    ]
    .iter()
    .any(|text| parse_network(text).is_ok_and(|private| private.contains(network)))
}

/// A node's share of the pod network is a /24 by default in Kubernetes, or a /64; what is narrower was
/// probably chosen.
fn is_broad(network: &IpNet) -> bool {
    match network {
        IpNet::V4(net) => net.prefix_len() <= 24,
        IpNet::V6(net) => net.prefix_len() <= 64,
    }
}

/// The first address of a network, which container bridges give to the host.
fn is_gateway(network: &IpNet) -> bool {
    match network {
        IpNet::V4(net) => net.prefix_len() == 32 && net.addr().octets().last() == Some(&1),
        IpNet::V6(net) => net.prefix_len() == 128 && net.addr().segments().last() == Some(&1),
    }
}
