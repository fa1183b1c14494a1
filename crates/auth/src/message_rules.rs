//! What an identity may send: rules that need no Lua.
//!
//! Every rule that is for the sender has to hold. What a rule does not mention, it leaves open.

use gatepost_message::{Address, Message};

use crate::identity::Subject;

/// All rules of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageRules(Vec<MessageRule>);

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRule {
    /// Whom it is for.
    pub whom: Vec<Whom>,
    /// The domains that the envelope may be from.
    pub senders: Option<Vec<DomainPattern>>,
    /// The domains that every address of `From` may be of.
    pub from: Option<Vec<DomainPattern>>,
    /// The most recipients of one request.
    pub max_recipients: Option<usize>,
    /// The largest body, inflated, in bytes.
    pub max_size: Option<u64>,
    /// Members that the body may not have.
    pub forbidden_fields: Vec<String>,
    /// Headers that the message may not have, in lower case.
    pub forbidden_headers: Vec<String>,
}

/// Whom a rule or a quota is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// Everybody.
    Anyone,
    /// Whoever is forwarded under this name, a trusted host's address included.
    Identity(String),
    /// Members of this group.
    Group(String),
}

impl Whom {
    /// Whether it means this subject.
    #[must_use]
    pub fn means(&self, subject: &Subject, identity: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Identity(name) => identity == name,
            Self::Group(name) => subject.groups().iter().any(|group| group == name),
        }
    }
}

/// Which domains: one, or all below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainPattern {
    /// This one.
    Exact(String),
    /// Those below: `*.example.com` is `a.example.com` and `a.b.example.com`, not `example.com`.
    Below(String),
    /// No domain at all: the null sender `<>`.
    Null,
}

impl DomainPattern {
    fn holds(&self, domain: Option<&str>) -> bool {
        match (self, domain) {
            (Self::Exact(name), Some(domain)) => domain == name,
            (Self::Below(name), Some(domain)) => domain
                .strip_suffix(name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            (Self::Null, None) => true,
            (Self::Exact(_) | Self::Below(_), None) | (Self::Null, Some(_)) => false,
        }
    }
}

/// Reads a pattern as it is written: `example.com`, `*.example.com` or `<>`.
impl std::str::FromStr for DomainPattern {
    type Err = DomainFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "<>" {
            return Ok(Self::Null);
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        // As the domain of an address, so that one which no address can have is no pattern.
        let address: Address = format!("x@{name}").parse().map_err(|_| DomainFault)?;
        let name = address.domain().to_owned();
        Ok(if below {
            Self::Below(name)
        } else {
            Self::Exact(name)
        })
    }
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a domain is written `example.com`, those below it `*.example.com`, the null sender `<>`")]
pub struct DomainFault;

impl MessageRules {
    /// Rules that all have to hold.
    #[must_use]
    pub fn new(rules: Vec<MessageRule>) -> Self {
        Self(rules)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this subject may send this.
    ///
    /// # Errors
    ///
    /// The first [`Breach`].
    pub fn check(
        &self,
        subject: &Subject,
        identity: &str,
        message: &Message,
    ) -> Result<(), Breach> {
        self.0
            .iter()
            .filter(|rule| rule.whom.iter().any(|whom| whom.means(subject, identity)))
            .try_for_each(|rule| rule.check(message))
    }
}

impl MessageRule {
    fn check(&self, message: &Message) -> Result<(), Breach> {
        if let Some(patterns) = &self.senders
            && !allows(patterns, message.sender.as_ref())
        {
            return Err(Breach::Sender);
        }
        if let Some(patterns) = &self.from {
            // No From at all is not a From of an allowed domain.
            let addresses = &message.from;
            let all = addresses.iter().all(|it| allows(patterns, Some(it)));
            if addresses.is_empty() || !all {
                return Err(Breach::From);
            }
        }
        if self
            .max_recipients
            .is_some_and(|most| message.recipients.len() > most)
        {
            return Err(Breach::Recipients);
        }
        let size = u64::try_from(message.size).unwrap_or(u64::MAX);
        if self.max_size.is_some_and(|most| size > most) {
            return Err(Breach::Size);
        }
        if self
            .forbidden_fields
            .iter()
            .any(|name| message.fields.contains(name))
        {
            return Err(Breach::Field);
        }
        let forbidden = |name: &str| {
            let forbidden = &self.forbidden_headers;
            forbidden.iter().any(|it| it.eq_ignore_ascii_case(name))
        };
        if message.headers.iter().any(|(name, _)| forbidden(name)) {
            return Err(Breach::Header);
        }
        Ok(())
    }
}

fn allows(patterns: &[DomainPattern], address: Option<&Address>) -> bool {
    let domain = address.map(Address::domain);
    patterns.iter().any(|pattern| pattern.holds(domain))
}

/// What a message breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The envelope's sender.
    #[error("you may not send from this envelope sender's domain")]
    Sender,
    /// An address of `From`.
    #[error("you may not send with this domain in From")]
    From,
    /// Too many recipients.
    #[error("you may not send to so many recipients at once")]
    Recipients,
    /// Too large.
    #[error("you may not send messages of this size")]
    Size,
    /// A member of the body.
    #[error("the request holds a field that you may not use")]
    Field,
    /// A header of the message.
    #[error("the message holds a header that you may not use")]
    Header,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{AuthInfo, Identity, IdentityContext, Mechanism, SubjectKind};

    fn scott() -> Subject {
        let identity = Identity {
            identity: "scott".to_owned(),
            context: IdentityContext::HttpBasicAuth,
        };
        let info = AuthInfo::new(vec![identity], vec!["bulk".to_owned()]).unwrap();
        Subject(SubjectKind::Authenticated(info, Mechanism::Basic))
    }

    fn message() -> Message {
        Message {
            sender: Some("bounce@mail.example.com".parse().unwrap()),
            recipients: vec!["a@x.test".parse().unwrap(), "b@x.test".parse().unwrap()],
            from: vec!["news@example.com".parse().unwrap()],
            headers: vec![("Subject".to_owned(), "hello".to_owned())],
            fields: vec!["envelope_sender".to_owned(), "deferred_spool".to_owned()],
            size: 1000,
            template: false,
        }
    }

    fn rule() -> MessageRule {
        MessageRule {
            whom: vec![Whom::Anyone],
            senders: None,
            from: None,
            max_recipients: None,
            max_size: None,
            forbidden_fields: Vec::new(),
            forbidden_headers: Vec::new(),
        }
    }

    fn domains(list: &[&str]) -> Option<Vec<DomainPattern>> {
        Some(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn check(rule: &MessageRule, message: &Message, expected: Result<(), Breach>) {
        let rules = MessageRules::new(vec![rule.clone()]);
        assert_eq!(
            rules.check(&scott(), "scott", message),
            expected,
            "{rule:?}"
        );
    }

    #[test]
    fn domains_are_held_against_patterns() {
        let from = |list: &[&str]| MessageRule {
            from: domains(list),
            ..rule()
        };
        let senders = |list: &[&str]| MessageRule {
            senders: domains(list),
            ..rule()
        };
        check(&from(&["example.com"]), &message(), Ok(()));
        check(&from(&["EXAMPLE.com"]), &message(), Ok(()));
        check(&from(&["*.example.com"]), &message(), Err(Breach::From));
        check(&from(&["*.com", "other.test"]), &message(), Ok(()));
        check(&from(&["xample.com"]), &message(), Err(Breach::From));
        check(&senders(&["*.example.com"]), &message(), Ok(()));
        check(&senders(&["example.com"]), &message(), Err(Breach::Sender));
        let evil = Message {
            sender: Some("a@evilexample.com".parse().unwrap()),
            ..message()
        };
        check(
            &senders(&["*.example.com", "example.com"]),
            &evil,
            Err(Breach::Sender),
        );
        let bounce = Message {
            sender: None,
            ..message()
        };
        check(&senders(&["example.com"]), &bounce, Err(Breach::Sender));
        check(&senders(&["<>"]), &bounce, Ok(()));
        check(&senders(&["<>"]), &message(), Err(Breach::Sender));
        let two = Message {
            from: vec![
                "a@example.com".parse().unwrap(),
                "b@evil.test".parse().unwrap(),
            ],
            ..message()
        };
        check(&from(&["example.com"]), &two, Err(Breach::From));
        let none = Message {
            from: Vec::new(),
            ..message()
        };
        check(&from(&["example.com"]), &none, Err(Breach::From));
        for bad in [
            "",
            "*",
            "*.",
            "a.*.b",
            "@example.com",
            "example.com.",
            "<a@b>",
        ] {
            assert!(bad.parse::<DomainPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_and_forbidden_things() {
        let message = message();
        check(
            &MessageRule {
                max_recipients: Some(2),
                ..rule()
            },
            &message,
            Ok(()),
        );
        check(
            &MessageRule {
                max_recipients: Some(1),
                ..rule()
            },
            &message,
            Err(Breach::Recipients),
        );
        check(
            &MessageRule {
                max_size: Some(1000),
                ..rule()
            },
            &message,
            Ok(()),
        );
        check(
            &MessageRule {
                max_size: Some(999),
                ..rule()
            },
            &message,
            Err(Breach::Size),
        );
        let field = |name: &str| MessageRule {
            forbidden_fields: vec![name.to_owned()],
            ..rule()
        };
        check(&field("deferred_spool"), &message, Err(Breach::Field));
        check(&field("Deferred_Spool"), &message, Ok(()));
        let header = |name: &str| MessageRule {
            forbidden_headers: vec![name.to_owned()],
            ..rule()
        };
        check(&header("subject"), &message, Err(Breach::Header));
        check(&header("x-virtual-mta"), &message, Ok(()));
    }

    #[test]
    fn a_rule_is_for_whom_it_names() {
        let closed = |whom: Whom| MessageRule {
            whom: vec![whom],
            max_recipients: Some(0),
            ..rule()
        };
        let message = message();
        check(
            &closed(Whom::Identity("scott".to_owned())),
            &message,
            Err(Breach::Recipients),
        );
        check(
            &closed(Whom::Identity("carol".to_owned())),
            &message,
            Ok(()),
        );
        check(
            &closed(Whom::Group("bulk".to_owned())),
            &message,
            Err(Breach::Recipients),
        );
        check(&closed(Whom::Group("scott".to_owned())), &message, Ok(()));
        assert!(MessageRules::default().is_empty());
        let rules = MessageRules::new(vec![rule(), closed(Whom::Anyone)]);
        assert!(!rules.is_empty());
        assert_eq!((MessageRules::default().len(), rules.len()), (0, 2));
        assert_eq!(
            rules.check(&scott(), "scott", &message),
            Err(Breach::Recipients),
            "all hold"
        );
    }
}
