//! The decision: what the configuration says about trust, and the permit that comes of it.

use std::net::IpAddr;

use crate::address::Networks;
use crate::credentials::CredentialRules;
use crate::headers::ProtectedNames;
use crate::identity::{Subject, SubjectKind};
use crate::refusal::Refusal;
use crate::route::{Route, Routes};

/// Everything that decides about trust, as configured.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Client addresses that need no credentials.
    pub trusted_hosts: Networks,
    /// Peers whose `X-Forwarded-For` is believed. Never the same list as [`Gate::trusted_hosts`].
    pub trusted_proxies: Networks,
    /// What may pass.
    pub routes: Routes,
    /// Limits on credentials.
    pub credentials: CredentialRules,
    /// Headers that only gatepost sets.
    pub protected: ProtectedNames,
    /// The realm of the challenge (RFC 7617 §2), checked to need no escaping.
    pub realm: String,
}

impl Gate {
    /// Who a request without credentials is.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unauthorized`] where the client has to say who it is.
    pub fn without_credentials(&self, route: &Route, client: IpAddr) -> Result<Subject, Refusal> {
        if self.trusted_hosts.contains(client) {
            Ok(Subject(SubjectKind::TrustedHost(client)))
        } else if route.is_open() {
            Ok(Subject(SubjectKind::Nobody))
        } else {
            Err(Refusal::Unauthorized)
        }
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
        client: IpAddr,
        subject: Subject,
    ) -> Result<Permit, Refusal> {
        if route.admits(&subject, client, &self.trusted_hosts) {
            return Ok(Permit { subject, client });
        }
        match subject.0 {
            SubjectKind::TrustedHost(_) if route.takes_credentials() => Err(Refusal::Unauthorized),
            SubjectKind::TrustedHost(_) | SubjectKind::Authenticated(..) | SubjectKind::Nobody => {
                Err(Refusal::Forbidden)
            }
        }
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
    client: IpAddr,
}

impl Permit {
    /// Who the request is.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whose address it came from.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_network;
    use crate::identity::{AuthInfo, Mechanism};
    use crate::judgement::Judgement;
    use crate::route::Allow;

    const TRUSTED: &str = "10.0.0.1";
    const STRANGER: &str = "192.0.2.1";

    fn gate() -> Gate {
        Gate {
            trusted_hosts: [parse_network(TRUSTED).unwrap()].into_iter().collect(),
            trusted_proxies: Networks::default(),
            routes: Routes::default(),
            credentials: CredentialRules::default(),
            protected: ProtectedNames::new([]),
            realm: "gatepost".to_owned(),
        }
    }

    fn route(allow: &[Allow]) -> Route {
        Route {
            path: "/x".parse().unwrap(),
            methods: Vec::new(),
            allow: allow.to_vec(),
        }
    }

    /// `judgement` None: no credentials were sent. The result is the forwarded identity.
    fn check(
        allow: &[Allow],
        from: &str,
        judgement: Option<&Judgement>,
        expected: Result<Option<&str>, Refusal>,
    ) {
        let (gate, route, client) = (gate(), route(allow), from.parse().unwrap());
        let subject = match judgement.cloned() {
            Some(judgement) => judgement.into_subject(Mechanism::Basic),
            None => gate.without_credentials(&route, client),
        };
        let got = subject
            .and_then(|subject| gate.permit(&route, client, subject))
            .map(|permit| permit.subject().identity());
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

    #[test]
    fn the_challenge_is_that_of_rfc_7617() {
        assert_eq!(
            gate().challenge(),
            "Basic realm=\"gatepost\", charset=\"UTF-8\""
        );
    }
}
