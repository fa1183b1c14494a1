//! The decision: what the configuration says about trust, and the permit that comes of it.

use std::net::IpAddr;

use crate::address::{HopHeader, Networks, Origin};
use crate::credentials::{CredentialFault, CredentialRules, check_user};
use crate::headers::ProtectedNames;
use crate::identity::{AuthInfo, Identity, IdentityContext, Mechanism, Subject, SubjectKind};
use crate::message_rules::MessageRules;
use crate::refusal::Refusal;
use crate::route::{Route, Routes};
use crate::rule::Allow;

/// Everything that decides about trust, as configured.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Client addresses that need no credentials.
    pub trusted_hosts: Networks,
    /// Peers that are believed about where requests come from. Never the same list as
    /// [`Gate::trusted_hosts`].
    pub trusted_proxies: Networks,
    /// The header in which they say it.
    pub hop_header: HopHeader,
    /// What may pass.
    pub routes: Routes,
    /// Limits on credentials.
    pub credentials: CredentialRules,
    /// Headers that only gatepost sets.
    pub protected: ProtectedNames,
    /// The realm of the challenge (RFC 7617 §2), checked to need no escaping.
    pub realm: String,
    /// Which identities the upstream can be told.
    pub sayable: Sayable,
    /// What whom may send, on routes that look into messages.
    pub message_rules: MessageRules,
}

/// Which identities the form in which the upstream is told can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sayable {
    /// All of them.
    #[default]
    Any,
    /// Those without a colon: as the user name of Basic credentials (RFC 7617 §2), where a colon would
    /// end it early. An IPv6 address has colons.
    WithoutColon,
}

impl Gate {
    /// Who a request without credentials is.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unauthorized`] where the client has to say who it is.
    pub fn without_credentials(&self, route: &Route, origin: &Origin) -> Result<Subject, Refusal> {
        let client = origin.trustworthy();
        if let Some(client) = client.filter(|it| self.trusted_hosts.contains(*it)) {
            Ok(Subject(SubjectKind::TrustedHost(client)))
        } else {
            let nobody = Subject(SubjectKind::Nobody);
            if route.admits(&nobody, client, &self.trusted_hosts) {
                Ok(nobody)
            } else {
                Err(Refusal::Unauthorized)
            }
        }
    }

    /// Who a request without credentials is whose client showed a certificate of this name, verified by whoever calls.
    ///
    /// # Errors
    ///
    /// [`CredentialFault`] where the name would not do for a user either: it could be taken for something else.
    pub fn by_certificate(&self, name: &str) -> Result<Subject, CredentialFault> {
        check_user(name, &self.credentials)?;
        let identity = Identity {
            identity: name.to_owned(),
            context: IdentityContext::GenericAuth,
        };
        // What passes for a user name passes for an identity; where it did not, nobody would be let in.
        let info = AuthInfo::new(vec![identity], Vec::new())
            .map_err(|_| CredentialFault::ControlCharacter)?;
        Ok(Subject(SubjectKind::Authenticated(
            info,
            Mechanism::Certificate,
        )))
    }

    /// The last step: may this subject use this route from this address?
    ///
    /// # Errors
    ///
    /// [`Refusal::Forbidden`] where it may not; [`Refusal::Unauthorized`] where it might, had it
    /// brought credentials.
    pub fn permit(
        &self,
        route: &Route,
        origin: Origin,
        subject: Subject,
    ) -> Result<Permit, Refusal> {
        if route.admits(&subject, origin.trustworthy(), &self.trusted_hosts) {
            let identity = subject.identity();
            if self.sayable == Sayable::WithoutColon
                && identity.as_ref().is_some_and(|it| it.contains(':'))
            {
                return Err(Refusal::Unsayable);
            }
            return Ok(Permit {
                subject,
                identity,
                origin,
            });
        }
        match subject.0 {
            SubjectKind::TrustedHost(_) | SubjectKind::Nobody
                if route.could_admit(origin.trustworthy(), &self.trusted_hosts) =>
            {
                Err(Refusal::Unauthorized)
            }
            SubjectKind::TrustedHost(_) | SubjectKind::Authenticated(..) | SubjectKind::Nobody => {
                Err(Refusal::Forbidden)
            }
        }
    }

    /// What each of a route's rules says to this subject, for explanations.
    pub fn rules<'a>(
        &'a self,
        route: &'a Route,
        client: IpAddr,
        subject: &'a Subject,
    ) -> impl Iterator<Item = (&'a Allow, bool)> {
        route.allow.iter().map(move |rule| {
            (
                rule,
                rule.admits(subject, Some(client), &self.trusted_hosts),
            )
        })
    }

    /// The value of `WWW-Authenticate` (RFC 7617 §2).
    #[must_use]
    pub fn challenge(&self) -> String {
        format!("Basic realm=\"{}\", charset=\"UTF-8\"", self.realm)
    }
}

/// The proof that a request may pass.
///
/// INVARIANT: only [`Gate::permit`] makes one. Whoever names the upstream asks for it.
#[derive(Debug)]
pub struct Permit {
    subject: Subject,
    identity: Option<String>,
    origin: Origin,
}

impl Permit {
    /// Who the request is.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The identity as the upstream is told; `None` where there is none.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Whose address it came from, and by whom.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_network;
    use crate::judgement::Judgement;

    const TRUSTED: &str = "10.0.0.1";
    const STRANGER: &str = "192.0.2.1";

    fn gate() -> Gate {
        Gate {
            trusted_hosts: [parse_network(TRUSTED).unwrap()].into_iter().collect(),
            trusted_proxies: Networks::default(),
            hop_header: HopHeader::default(),
            routes: Routes::default(),
            credentials: CredentialRules::default(),
            protected: ProtectedNames::new([]),
            realm: "gatepost".to_owned(),
            sayable: Sayable::default(),
            message_rules: MessageRules::default(),
        }
    }

    fn route(allow: &[Allow]) -> Route {
        Route {
            path: "/x".parse().unwrap(),
            methods: Vec::new(),
            allow: allow.to_vec(),
            message: None,
            quota: false,
            body_limit: None,
        }
    }

    /// `judgement` None: no credentials were sent. The result is the forwarded identity.
    fn check(
        allow: &[Allow],
        from: &str,
        judgement: Option<&Judgement>,
        expected: Result<Option<&str>, Refusal>,
    ) {
        let (gate, route, client) = (gate(), route(allow), from.parse::<IpAddr>().unwrap());
        let subject = match judgement.cloned() {
            Some(judgement) => judgement.into_subject(Mechanism::Basic),
            None => gate.without_credentials(&route, &Origin::direct(client)),
        };
        let got = subject
            .and_then(|subject| gate.permit(&route, Origin::direct(client), subject))
            .map(|permit| permit.identity().map(str::to_owned));
        assert_eq!(
            got,
            expected.map(|who| who.map(str::to_owned)),
            "{allow:?} {from} {judgement:?}"
        );
    }

    fn scott() -> Judgement {
        Judgement::Accepted(AuthInfo::basic("scott").unwrap())
    }

    #[test]
    fn who_may_use_a_route() {
        use Allow::{Anyone, Authenticated, TrustedHosts};
        let both = [Authenticated, TrustedHosts];
        check(&both, STRANGER, Some(&scott()), Ok(Some("scott")));
        check(&both, TRUSTED, Some(&scott()), Ok(Some("scott")));
        check(&both, TRUSTED, None, Ok(Some(TRUSTED)));
        check(&both, STRANGER, None, Err(Refusal::Unauthorized));
        check(&[Authenticated], TRUSTED, None, Err(Refusal::Unauthorized));
        check(
            &[TrustedHosts],
            STRANGER,
            Some(&scott()),
            Err(Refusal::Forbidden),
        );
        check(&[TrustedHosts], TRUSTED, Some(&scott()), Ok(Some("scott")));
        check(&[Anyone], STRANGER, None, Ok(None));
        check(&[Anyone], TRUSTED, None, Ok(Some(TRUSTED)));
        check(&[], STRANGER, Some(&scott()), Err(Refusal::Forbidden));
        check(&[], TRUSTED, None, Err(Refusal::Forbidden));
    }

    /// The attack: a client inside the trusted network guesses passwords and is let in by its address
    /// whenever it guesses wrong.
    #[test]
    fn wrong_credentials_are_not_saved_by_the_address_nor_by_an_open_route() {
        for (judgement, refusal) in [
            (Judgement::Rejected, Refusal::Unauthorized),
            (Judgement::NoHandler, Refusal::Unauthorized),
            (Judgement::Failed, Refusal::PolicyFailed),
            (Judgement::TimedOut, Refusal::PolicyTimedOut),
            (Judgement::Overloaded, Refusal::PolicyOverloaded),
        ] {
            check(
                &[Allow::TrustedHosts],
                TRUSTED,
                Some(&judgement),
                Err(refusal.clone()),
            );
            check(&[Allow::Anyone], STRANGER, Some(&judgement), Err(refusal));
        }
    }

    /// Issue of form: as the user of Basic credentials, `2001:db8::1` would be the user `2001`.
    #[test]
    fn an_identity_that_cannot_be_said_is_refused() {
        let gate = Gate {
            sayable: Sayable::WithoutColon,
            ..gate()
        };
        let route = route(&[Allow::Authenticated]);
        for (name, expected) in [("scott", true), ("a:b", false)] {
            let judgement = Judgement::Accepted(AuthInfo::basic(name).unwrap());
            let subject = judgement.into_subject(Mechanism::Basic).unwrap();
            let origin = Origin::direct(STRANGER.parse().unwrap());
            let got = gate.permit(&route, origin, subject);
            assert_eq!(got.is_ok(), expected, "{name}");
        }
    }

    /// The attack: an authority that signs what it is asked to gives somebody a certificate that names a trusted
    /// host's address, or a path.
    #[test]
    fn a_certificate_names_who_a_user_could_be() {
        let gate = gate();
        let subject = gate.by_certificate("scott@example.com").unwrap();
        assert_eq!(subject.mechanism(), Some(Mechanism::Certificate));
        assert_eq!(subject.identity().as_deref(), Some("scott@example.com"));
        let route = route(&[Allow::Authenticated]);
        let origin = Origin::direct(STRANGER.parse().unwrap());
        assert!(gate.permit(&route, origin, subject).is_ok());
        let long = "a".repeat(257);
        for name in [
            "",
            TRUSTED,
            "[::1]",
            "spiffe://a/b",
            "..\\a",
            "a\nb",
            "a\0b",
            " a",
            &long,
        ] {
            assert!(gate.by_certificate(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7617() {
        assert_eq!(
            gate().challenge(),
            "Basic realm=\"gatepost\", charset=\"UTF-8\""
        );
    }

    /// What `gatepost access` shows.
    #[test]
    fn what_each_rule_says_is_told() {
        let gate = gate();
        let route = route(&[Allow::Authenticated, Allow::TrustedHosts]);
        let origin = Origin::direct(TRUSTED.parse().unwrap());
        let host = gate.without_credentials(&route, &origin).unwrap();
        let said: Vec<_> = gate
            .rules(&route, TRUSTED.parse().unwrap(), &host)
            .map(|(rule, holds)| (rule.to_string(), holds))
            .collect();
        let expected = [("authenticated", false), ("trusted_hosts", true)];
        assert_eq!(said, expected.map(|(rule, holds)| (rule.to_owned(), holds)));
    }
}
