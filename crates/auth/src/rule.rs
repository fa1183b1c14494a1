//! Who may use a route: an expression over the identity, the groups and the client's address.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{Networks, canonical};
use crate::identity::{Subject, SubjectKind};

/// One way to be let in, or several put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Everybody, also without credentials.
    Anyone,
    /// Whoever the policy accepted.
    Authenticated,
    /// Whoever comes from an address inside `trusted_hosts`.
    TrustedHosts,
    /// Whoever the policy accepted under this name. A trusted host's address is not such a name.
    Identity(String),
    /// Whoever the policy accepted as a member of this group.
    Group(String),
    /// Whoever comes from this network, also without credentials.
    Network(IpNet),
    /// Whoever every one of these lets in.
    AllOf(Vec<Allow>),
    /// Whoever any one of these lets in.
    AnyOf(Vec<Allow>),
    /// Whoever this does not let in.
    Not(Box<Allow>),
}

/// What is known about a request while a rule is held against it.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// `None`: somebody who may yet say who they are.
    pub(crate) subject: Option<&'a Subject>,
    /// `None`: from an address that no rule and no list names.
    pub(crate) client: Option<IpAddr>,
    pub(crate) trusted_hosts: &'a Networks,
    /// Whether a network that holds a large part of the internet holds an address that nobody names.
    pub(crate) everywhere: bool,
}

impl Allow {
    /// Whether this subject, coming from this address, is let in.
    pub(crate) fn admits(
        &self,
        subject: &Subject,
        client: Option<IpAddr>,
        trusted_hosts: &Networks,
    ) -> bool {
        // With everything known the answer is never "perhaps"; if it were, it would be no.
        self.holds(Asker {
            subject: Some(subject),
            client,
            trusted_hosts,
            everywhere: false,
        }) == Some(true)
    }

    /// Whether anybody at this address could be let in by credentials that the policy accepts.
    pub(crate) fn could_admit(&self, client: Option<IpAddr>, trusted_hosts: &Networks) -> bool {
        self.holds(Asker {
            subject: None,
            client,
            trusted_hosts,
            everywhere: false,
        }) != Some(false)
    }

    /// Whether somebody without credentials, from an address that is named nowhere, is let in. A rule that
    /// does this without saying `anyone` was hardly meant to, such as one that only shuts one user out.
    #[must_use]
    pub fn admits_strangers(&self) -> bool {
        let nobody = Subject(SubjectKind::Nobody);
        let trusted_hosts = Networks::default();
        self.holds(Asker {
            subject: Some(&nobody),
            client: None,
            trusted_hosts: &trusted_hosts,
            everywhere: true,
        }) == Some(true)
    }

    /// Three-valued (Kleene): `None` where it depends on what is not known.
    fn holds(&self, asker: Asker<'_>) -> Option<bool> {
        match self {
            Self::Anyone => Some(true),
            Self::Authenticated => asker.authenticated(),
            Self::TrustedHosts => Some(asker.is_trusted()),
            Self::Identity(name) => asker.is_named(name),
            Self::Group(name) => asker.is_in(name),
            Self::Network(network) => Some(match asker.client {
                Some(client) => within(*network, client),
                None => asker.everywhere && is_wide(network),
            }),
            Self::AllOf(rules) => all(rules.iter().map(|rule| rule.holds(asker))),
            Self::AnyOf(rules) => {
                all(rules.iter().map(|rule| rule.holds(asker).map(|it| !it))).map(|it| !it)
            }
            Self::Not(rule) => rule.holds(asker).map(|it| !it),
        }
    }
}

impl Asker<'_> {
    /// Somebody who may yet say who they are is asked as if they did.
    fn authenticated(self) -> Option<bool> {
        Some(match self.subject {
            None => true,
            Some(subject) => matches!(subject.0, SubjectKind::Authenticated(..)),
        })
    }

    /// A subject that is a trusted host has been looked up already.
    fn is_trusted(self) -> bool {
        self.client.is_some_and(|client| {
            let found = SubjectKind::TrustedHost(client);
            self.subject.is_some_and(|it| it.0 == found) || self.trusted_hosts.contains(client)
        })
    }

    fn is_named(self, name: &str) -> Option<bool> {
        self.subject.map(|subject| match &subject.0 {
            SubjectKind::Authenticated(info, _) => info.http_auth() == name,
            SubjectKind::TrustedHost(_) | SubjectKind::Nobody => false,
        })
    }

    fn is_in(self, group: &str) -> Option<bool> {
        self.subject
            .map(|subject| subject.groups().iter().any(|it| it == group))
    }
}

/// Whether a network is a large part of the internet: more than a /8, or a /32 of IPv6.
#[must_use]
pub fn is_wide(network: &IpNet) -> bool {
    match canonical(*network) {
        IpNet::V4(net) => net.prefix_len() < 8,
        // What is wider than `::ffff:0:0/96` holds all of IPv4 for whoever reads it so.
        IpNet::V6(net) => net.prefix_len() < 32,
    }
}

/// Whether all hold: one that does not decides, one that is unknown leaves it open.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for answer in answers {
        match answer {
            Some(false) => return Some(false),
            None => all = None,
            Some(true) => {}
        }
    }
    all
}

fn within(network: IpNet, client: IpAddr) -> bool {
    canonical(network).contains(&client.to_canonical())
}

/// As it is written in the configuration.
impl std::fmt::Display for Allow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, key: &str, rules: &[Self]| {
            write!(f, "{{{key}: [")?;
            for (index, rule) in rules.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(f, "{comma}{rule}")?;
            }
            f.write_str("]}")
        };
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::TrustedHosts => f.write_str("trusted_hosts"),
            Self::Identity(name) => write!(f, "{{identity: {name}}}"),
            Self::Group(name) => write!(f, "{{group: {name}}}"),
            Self::Network(network) => write!(f, "{{network: {network}}}"),
            Self::AllOf(rules) => list(f, "all_of", rules),
            Self::AnyOf(rules) => list(f, "any_of", rules),
            Self::Not(rule) => write!(f, "{{not: {rule}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_network;
    use crate::identity::{AuthInfo, Identity, IdentityContext, Mechanism};

    fn user(name: &str, groups: &[&str]) -> Subject {
        let identity = Identity {
            identity: name.to_owned(),
            context: IdentityContext::HttpBasicAuth,
        };
        let groups = groups.iter().map(|it| (*it).to_owned()).collect();
        let info = AuthInfo::new(vec![identity], groups).unwrap();
        Subject(SubjectKind::Authenticated(info, Mechanism::Basic))
    }

    fn network(text: &str) -> Allow {
        Allow::Network(parse_network(text).unwrap())
    }

    fn not(rule: Allow) -> Allow {
        Allow::Not(Box::new(rule))
    }

    #[test]
    fn rules_compose() {
        let trusted: Networks = [parse_network("10.0.0.1").unwrap()].into_iter().collect();
        let scott = user("scott", &["staff"]);
        let host = Subject(SubjectKind::TrustedHost("10.0.0.1".parse().unwrap()));
        let nobody = Subject(SubjectKind::Nobody);
        let inside = "10.0.0.1";
        let outside = "192.0.2.1";
        let named = || Allow::Identity("scott".to_owned());
        let staff = || Allow::Group("staff".to_owned());
        for (rule, subject, from, expected) in [
            (named(), &scott, outside, true),
            (named(), &host, inside, false),
            (Allow::Identity("10.0.0.1".to_owned()), &host, inside, false),
            (Allow::Identity("Scott".to_owned()), &scott, outside, false),
            (staff(), &scott, outside, true),
            (Allow::Group("root".to_owned()), &scott, outside, false),
            (network("10.0.0.0/8"), &nobody, inside, true),
            (network("10.0.0.0/8"), &nobody, outside, false),
            (network("::ffff:10.0.0.0/104"), &nobody, inside, true),
            (
                Allow::AllOf(vec![staff(), network("10.0.0.0/8")]),
                &scott,
                inside,
                true,
            ),
            (
                Allow::AllOf(vec![staff(), network("10.0.0.0/8")]),
                &scott,
                outside,
                false,
            ),
            (
                Allow::AllOf(vec![staff(), network("10.0.0.0/8")]),
                &nobody,
                inside,
                false,
            ),
            (
                Allow::AnyOf(vec![staff(), Allow::TrustedHosts]),
                &host,
                inside,
                true,
            ),
            (
                Allow::AnyOf(vec![staff(), Allow::TrustedHosts]),
                &nobody,
                outside,
                false,
            ),
            (Allow::TrustedHosts, &host, outside, false),
            (Allow::TrustedHosts, &scott, inside, true),
            (
                Allow::AllOf(vec![Allow::Authenticated, not(named())]),
                &scott,
                outside,
                false,
            ),
            (not(not(named())), &scott, outside, true),
            (Allow::AllOf(Vec::new()), &nobody, outside, true),
            (Allow::AnyOf(Vec::new()), &scott, inside, false),
        ] {
            let got = rule.admits(subject, Some(from.parse().unwrap()), &trusted);
            assert_eq!(got, expected, "{rule} {subject:?} {from}");
        }
    }

    #[test]
    fn credentials_help_where_they_could() {
        let trusted = Networks::default();
        let named = || Allow::Identity("scott".to_owned());
        for (rule, from, expected) in [
            (Allow::Authenticated, "192.0.2.1", true),
            (named(), "192.0.2.1", true),
            (not(named()), "192.0.2.1", true),
            (Allow::TrustedHosts, "192.0.2.1", false),
            (network("10.0.0.0/8"), "192.0.2.1", false),
            (
                Allow::AllOf(vec![named(), network("10.0.0.0/8")]),
                "192.0.2.1",
                false,
            ),
            (
                Allow::AllOf(vec![named(), network("10.0.0.0/8")]),
                "10.1.1.1",
                true,
            ),
            (not(Allow::Authenticated), "192.0.2.1", false),
        ] {
            let got = rule.could_admit(Some(from.parse().unwrap()), &trusted);
            assert_eq!(got, expected, "{rule} {from}");
        }
    }

    #[test]
    fn a_rule_that_lets_strangers_in_is_seen() {
        let mallory = || Allow::Identity("mallory".to_owned());
        for (rule, expected) in [
            (Allow::Anyone, true),
            (not(mallory()), true),
            (not(Allow::TrustedHosts), true),
            (not(network("10.0.0.0/8")), true),
            (network("0.0.0.0/0"), true),
            (
                Allow::AnyOf(vec![network("128.0.0.0/1"), Allow::Authenticated]),
                true,
            ),
            (
                Allow::AllOf(vec![network("0.0.0.0/0"), Allow::Authenticated]),
                false,
            ),
            (
                Allow::AllOf(vec![Allow::Authenticated, not(mallory())]),
                false,
            ),
            (
                Allow::AllOf(vec![not(network("10.0.0.0/8")), Allow::TrustedHosts]),
                false,
            ),
            (Allow::Authenticated, false),
            (network("10.0.0.0/8"), false),
            (network("2000::/3"), true),
            (network("2001:db8::/32"), false),
            (network("2001:db8::/33"), false),
        ] {
            assert_eq!(rule.admits_strangers(), expected, "{rule}");
        }
    }

    #[test]
    fn a_rule_is_shown_as_it_is_written() {
        let named = |name: &str| Allow::Identity(name.to_owned());
        let rule = Allow::AnyOf(vec![
            Allow::AllOf(vec![Allow::Authenticated, not(named("mallory"))]),
            Allow::Group("staff".to_owned()),
            network("10.0.0.0/8"),
            Allow::TrustedHosts,
            Allow::Anyone,
        ]);
        let shown = "{any_of: [{all_of: [authenticated, {not: {identity: mallory}}]}, {group: staff}, {network: 10.0.0.0/8}, trusted_hosts, anyone]}";
        assert_eq!(rule.to_string(), shown);
    }
}
