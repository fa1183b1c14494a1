//! The section `listeners`: where clients connect, and how they show who they are before a request.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::endpoints::unix_socket;
use crate::kind::{self, Kind};
use crate::node::{Node, Value};
use crate::section::{Complaint, Section, describe};
use crate::settings::{CertificateName, ClientCertificates, Listen, Listener, ListenerTls};
use crate::value;

/// Who may connect to a Unix socket unless it is said: its owner and its group.
const UNIX_MODE: u32 = 0o660;

/// Reads the section. Files that it names are added to `files`, since they are changed in place.
pub(crate) fn listeners(
    root: &mut Section<'_>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for mut section in root.required_sections("listeners") {
        let listen = section.required(
            "listen",
            Kind::text(
                "`IP:PORT`, or `unix:/path`",
                r"^(?:unix:/.+|[0-9.]+:[0-9]+|\[[0-9A-Fa-f:.]+(?:%[0-9]+)?\]:[0-9]+)$",
                listen,
            ),
        );
        let proxy_protocol = section.or("proxy_protocol", false, kind::truth());
        let unix_mode = unix_mode(&mut section, listen.as_ref());
        let tls = tls(&mut section, folder, files);
        if let (Some(listen), Some(tls)) = (listen, tls) {
            refuse_taken(&section, &listen, &listeners);
            listeners.push(Listener {
                listen,
                proxy_protocol,
                unix_mode,
                tls,
            });
        }
        section.finish();
    }
    listeners
}

fn refuse_taken(section: &Section<'_>, listen: &Listen, listeners: &[Listener]) {
    let twice = || Some(format!("{listen} is listened on twice"));
    let message = match listen {
        Listen::Tcp(address) => taken(*address, listeners).and_then(|other| {
            if other == *address {
                twice()
            } else {
                Some(format!("{address} and {other} are one port of one address"))
            }
        }),
        Listen::Unix(_) => listeners
            .iter()
            .any(|other| other.listen == *listen)
            .then(twice)
            .flatten(),
    };
    if let Some(message) = message {
        section.reader().fault(section.place(), message);
    }
}

/// The listener that has this address already, by itself or by listening on all addresses.
pub(crate) fn taken(listen: SocketAddr, listeners: &[Listener]) -> Option<SocketAddr> {
    let same_host = |a: IpAddr, b: IpAddr| {
        a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
    };
    listeners
        .iter()
        .filter_map(|listener| match listener.listen {
            Listen::Tcp(address) => Some(address),
            Listen::Unix(_) => None,
        })
        .filter(|other| other.port() == listen.port() && listen.port() != 0)
        .find(|other| same_host(other.ip(), listen.ip()))
}

fn listen(node: &Node) -> Result<Listen, Complaint> {
    if let Value::Text(text) = &node.value
        && let Some(path) = text.strip_prefix("unix:")
    {
        value::text(node)?;
        return unix_socket(path).map(Listen::Unix);
    }
    value::listen_address(node).map(Listen::Tcp)
}

fn unix_mode(section: &mut Section<'_>, listen: Option<&Listen>) -> u32 {
    let written = section.optional(
        "unix_mode",
        Kind::text(
            "a file mode in quotes such as `\"0660\"`",
            "^0?[0-7]{3}$",
            mode,
        )
        .placed(),
    );
    let Some((mode, place)) = written else {
        return UNIX_MODE;
    };
    if matches!(listen, Some(Listen::Tcp(_))) {
        section
            .reader()
            .fault(place, "`listeners.unix_mode` is for `listen: unix:/path`");
    } else if mode & 0o002 != 0 {
        section.reader().warn(
            place,
            "everybody on this machine may connect to the socket: `0660` leaves it to its owner and its group",
        );
    }
    mode
}

/// As chmod(1) takes it. Without quotes, YAML makes another number of it.
fn mode(node: &Node) -> Result<u32, Complaint> {
    let expected = || {
        let found = describe(&node.value);
        format!("expected a file mode in quotes such as \"0660\", found {found}")
    };
    let Value::Text(text) = &node.value else {
        return Err(expected());
    };
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|it| matches!(it, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| octal);
    mode.filter(|mode| *mode <= 0o777).ok_or_else(expected)
}

/// `None` is a fault that has been recorded, `Some(None)` a listener without TLS.
fn tls(
    section: &mut Section<'_>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Option<ListenerTls>> {
    let certificate = file(section, "tls_certificate", folder, files);
    let private_key = file(section, "tls_private_key", folder, files);
    let clients = clients(section, folder, files);
    let fault = |message| section.reader().fault(section.place(), message);
    match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => Some(Some(ListenerTls {
            certificate,
            private_key,
            clients,
        })),
        (None, None) => {
            if clients.is_some() {
                fault("`listeners.client_ca` is for TLS: `tls_certificate` is missing, or faulty");
            }
            Some(None)
        }
        (Some(_), None) => {
            fault("`listeners.tls_private_key` is missing, or faulty");
            None
        }
        (None, Some(_)) => {
            fault("`listeners.tls_certificate` is missing, or faulty");
            None
        }
    }
}

fn clients(
    section: &mut Section<'_>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<ClientCertificates> {
    let ca = file(section, "client_ca", folder, files);
    let needs = [("optional", false), ("required", true)];
    let required = section.optional("client_certificate", kind::word(&needs).placed());
    let names = [
        ("subject_cn", CertificateName::SubjectCn),
        ("san_email", CertificateName::SanEmail),
        ("san_dns", CertificateName::SanDns),
        ("san_uri", CertificateName::SanUri),
    ];
    let identity = section.optional("identity_from_certificate", kind::word(&names).placed());
    let Some(ca) = ca else {
        let keys = [
            ("client_certificate", required.map(|it| it.1)),
            ("identity_from_certificate", identity.map(|it| it.1)),
        ];
        for (key, place) in keys {
            if let Some(place) = place {
                section.reader().fault(
                    place,
                    format!(
                        "`listeners.{key}` needs `client_ca`, which says whose certificates count"
                    ),
                );
            }
        }
        return None;
    };
    Some(ClientCertificates {
        ca,
        required: required.is_none_or(|it| it.0),
        identity: identity.map(|it| it.0),
    })
}

/// A file that is not read here: what it holds is somebody else's to judge, now and when it changes.
pub(crate) fn file(
    section: &mut Section<'_>,
    key: &'static str,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<PathBuf> {
    let path = folder.join(section.optional(key, kind::path())?);
    files.push(path.clone());
    Some(path)
}
