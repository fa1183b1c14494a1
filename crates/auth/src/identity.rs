//! Who a request is, after the check.

use std::net::IpAddr;

use crate::unprintable::is_unprintable;

/// How an identity was established; the label of the decision metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Basic credentials that the policy accepted.
    Basic,
    /// A bearer token that the policy accepted.
    Bearer,
    /// A client address inside `trusted_hosts`, without credentials.
    TrustedHost,
    /// A client certificate that was verified, without credentials.
    Certificate,
}

impl Mechanism {
    /// The word used in logs, metrics and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::TrustedHost => "trusted_host",
            Self::Certificate => "certificate",
        }
    }
}

/// `KumoMTA`'s `AuthInfo`: the identities and groups of one request, as a handler names them.
/// It always holds at least one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthInfo {
    identities: Vec<Identity>,
    groups: Vec<String>,
}

/// One identity of an [`AuthInfo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub identity: String,
    /// Where it came from.
    pub context: IdentityContext,
}

/// Where an identity came from, in `KumoMTA`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "KumoMTA's own names; they say what they are")]
pub enum IdentityContext {
    SmtpAuthPlainAuthorization,
    SmtpAuthPlainAuthentication,
    HttpBasicAuth,
    BearerToken,
    ProxyAuthRfc1929,
    LocalSystem,
    GenericAuth,
}

impl IdentityContext {
    const ALL: [Self; 7] = [
        Self::SmtpAuthPlainAuthorization,
        Self::SmtpAuthPlainAuthentication,
        Self::HttpBasicAuth,
        Self::BearerToken,
        Self::ProxyAuthRfc1929,
        Self::LocalSystem,
        Self::GenericAuth,
    ];

    /// The name as a policy writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SmtpAuthPlainAuthorization => "SmtpAuthPlainAuthorization",
            Self::SmtpAuthPlainAuthentication => "SmtpAuthPlainAuthentication",
            Self::HttpBasicAuth => "HttpBasicAuth",
            Self::BearerToken => "BearerToken",
            Self::ProxyAuthRfc1929 => "ProxyAuthRfc1929",
            Self::LocalSystem => "LocalSystem",
            Self::GenericAuth => "GenericAuth",
        }
    }

    /// Reads the name as a policy writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|context| context.as_str() == name)
    }
}

impl AuthInfo {
    /// The longest identity or group that a handler may name, in bytes.
    pub const MAX_NAME_BYTES: usize = 1024;

    /// How many identities and groups it may name together. The decision cache keeps them.
    pub const MAX_NAMES: usize = 1024;

    /// What a handler's `true` means for Basic credentials.
    ///
    /// # Errors
    ///
    /// As [`AuthInfo::new`].
    pub fn basic(user: &str) -> Result<Self, AuthInfoFault> {
        let identity = Identity {
            identity: user.to_owned(),
            context: IdentityContext::HttpBasicAuth,
        };
        Self::new(vec![identity], Vec::new())
    }

    /// Checks what a handler returned. Names go into a header line and into logs, so they must be one
    /// line of visible text.
    ///
    /// # Errors
    ///
    /// [`AuthInfoFault`] where there is no identity, or a name is not fit to be forwarded.
    pub fn new(identities: Vec<Identity>, groups: Vec<String>) -> Result<Self, AuthInfoFault> {
        if identities.is_empty() {
            return Err(AuthInfoFault::NoIdentity);
        }
        if identities.len() + groups.len() > Self::MAX_NAMES {
            return Err(AuthInfoFault::TooManyNames);
        }
        let names = identities.iter().map(|one| &one.identity).chain(&groups);
        for name in names {
            if name.is_empty()
                || name.len() > Self::MAX_NAME_BYTES
                || name.trim() != name
                || name.chars().any(is_unprintable)
            {
                return Err(AuthInfoFault::BadName);
            }
        }
        Ok(Self { identities, groups })
    }

    /// The one identity that becomes `http_auth`: the first with context `HttpBasicAuth`, else the
    /// first (as `KumoMTA` chooses).
    #[must_use]
    pub fn http_auth(&self) -> &str {
        self.identities
            .iter()
            .find(|one| one.context == IdentityContext::HttpBasicAuth)
            .or(self.identities.first())
            .map_or("", |one| one.identity.as_str())
    }

    /// All identities, at least one.
    #[must_use]
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// The groups, possibly none.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
}

/// Why an `AuthInfo` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthInfoFault {
    /// A table without identities is not a success here, unlike in `KumoMTA`.
    #[error("the auth info names no identity")]
    NoIdentity,
    /// More than [`AuthInfo::MAX_NAMES`].
    #[error(
        "the auth info names more than {} identities and groups",
        AuthInfo::MAX_NAMES
    )]
    TooManyNames,
    /// Empty, too long, surrounded by white space, or with a control character.
    #[error(
        "an identity or group is empty, too long, or holds white space at its ends or control characters"
    )]
    BadName,
}

/// Who the request is once step 5 of the decision is done. Only this crate makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub(crate) SubjectKind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubjectKind {
    Authenticated(AuthInfo, Mechanism),
    /// INVARIANT: only [`crate::Gate::without_credentials`] makes one, of an address that it found in `trusted_hosts`.
    TrustedHost(IpAddr),
    Nobody,
}

impl Subject {
    /// How the identity was established; `None` where there is none.
    #[must_use]
    pub fn mechanism(&self) -> Option<Mechanism> {
        match &self.0 {
            SubjectKind::Authenticated(_, mechanism) => Some(*mechanism),
            SubjectKind::TrustedHost(_) => Some(Mechanism::TrustedHost),
            SubjectKind::Nobody => None,
        }
    }

    /// The identity as it is forwarded; `None` where there is none.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        match &self.0 {
            SubjectKind::Authenticated(info, _) => Some(info.http_auth().to_owned()),
            SubjectKind::TrustedHost(address) => Some(address.to_string()),
            SubjectKind::Nobody => None,
        }
    }

    /// What the policy said of the credentials; `None` where there were none.
    #[must_use]
    pub fn auth_info(&self) -> Option<&AuthInfo> {
        match &self.0 {
            SubjectKind::Authenticated(info, _) => Some(info),
            SubjectKind::TrustedHost(_) | SubjectKind::Nobody => None,
        }
    }

    /// The groups that the policy named.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        match &self.0 {
            SubjectKind::Authenticated(info, _) => info.groups(),
            SubjectKind::TrustedHost(_) | SubjectKind::Nobody => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, context: IdentityContext) -> Identity {
        Identity {
            identity: name.to_owned(),
            context,
        }
    }

    #[test]
    fn http_auth_prefers_the_basic_identity() {
        let info = AuthInfo::new(
            vec![
                identity("tenant-7", IdentityContext::GenericAuth),
                identity("scott", IdentityContext::HttpBasicAuth),
            ],
            Vec::new(),
        );
        assert_eq!(
            info.map(|info| info.http_auth().to_owned()),
            Ok("scott".to_owned())
        );
        let info = AuthInfo::new(
            vec![identity("t", IdentityContext::GenericAuth)],
            Vec::new(),
        );
        assert_eq!(
            info.map(|info| info.http_auth().to_owned()),
            Ok("t".to_owned())
        );
    }

    #[test]
    fn an_identity_is_one_line_of_visible_text() {
        assert_eq!(
            AuthInfo::new(Vec::new(), Vec::new()),
            Err(AuthInfoFault::NoIdentity)
        );
        for bad in ["", " a", "a\n", "a\0b", "a\u{200b}b", &"a".repeat(2000)] {
            assert_eq!(AuthInfo::basic(bad), Err(AuthInfoFault::BadName), "{bad:?}");
        }
        let one = || vec![identity("a", IdentityContext::HttpBasicAuth)];
        let groups = |count| vec!["g".to_owned(); count];
        assert!(AuthInfo::new(one(), groups(AuthInfo::MAX_NAMES - 1)).is_ok());
        assert_eq!(
            AuthInfo::new(one(), groups(AuthInfo::MAX_NAMES)),
            Err(AuthInfoFault::TooManyNames)
        );
    }

    #[test]
    fn context_names_round_trip() {
        for context in IdentityContext::ALL {
            assert_eq!(IdentityContext::from_name(context.as_str()), Some(context));
        }
        assert_eq!(IdentityContext::from_name("httpbasicauth"), None);
    }

    /// Dashboards, audit logs and policies hold these words.
    #[test]
    fn the_words_are_what_they_are() {
        let words = [
            (Mechanism::Basic, "basic"),
            (Mechanism::Bearer, "bearer"),
            (Mechanism::TrustedHost, "trusted_host"),
            (Mechanism::Certificate, "certificate"),
        ];
        for (mechanism, word) in words {
            assert_eq!(mechanism.as_str(), word);
        }
        assert_eq!(IdentityContext::BearerToken.as_str(), "BearerToken");
    }

    #[test]
    fn a_subject_says_who_it_is() {
        let identities = vec![identity("scott", IdentityContext::HttpBasicAuth)];
        let info = AuthInfo::new(identities.clone(), vec!["staff".to_owned()]).unwrap();
        assert_eq!(info.identities(), identities);
        assert_eq!(info.groups(), ["staff"]);
        let user = Subject(SubjectKind::Authenticated(info.clone(), Mechanism::Bearer));
        let host = Subject(SubjectKind::TrustedHost("192.0.2.1".parse().unwrap()));
        let nobody = Subject(SubjectKind::Nobody);
        let said = |it: &Subject| {
            let info = it.auth_info().cloned();
            (it.mechanism(), it.identity(), info, it.groups().to_vec())
        };
        assert_eq!(
            said(&user),
            (
                Some(Mechanism::Bearer),
                Some("scott".to_owned()),
                Some(info),
                vec!["staff".to_owned()]
            )
        );
        assert_eq!(
            said(&host),
            (
                Some(Mechanism::TrustedHost),
                Some("192.0.2.1".to_owned()),
                None,
                Vec::new()
            )
        );
        assert_eq!(said(&nobody), (None, None, None, Vec::new()));
    }

    #[test]
    fn the_longest_name_is_one() {
        let name = "a".repeat(AuthInfo::MAX_NAME_BYTES);
        assert!(AuthInfo::basic(&name).is_ok());
        assert_eq!(
            AuthInfo::basic(&format!("{name}a")),
            Err(AuthInfoFault::BadName)
        );
    }
}
