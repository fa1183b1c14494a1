//! May this request pass, as whom, and with which headers.
//!
//! Pure functions and values: no I/O, no clock, no logging. Everything that decides about trust is
//! here, so it can be read in one sitting and tested without a server. The steps of one request, in
//! order:
//!
//! 1. [`wire::HeadScanner`], [`chunks::ChunkScanner`] and [`path::Target`] refuse what has two meanings; [`frames`] what is
//!    no request at all.
//! 2. [`proxy_header::ProxyHeader`] and [`address::Origin`] say whose request it is.
//! 3. [`route::Routes::find`] says what it asks for.
//! 4. [`Credentials::from_headers`] reads what it presents; somebody else asks the policy and brings
//!    back a [`Judgement`].
//! 5. [`Gate::permit`] puts it together. It alone makes a [`Permit`], and without a permit nothing is
//!    forwarded.
//! 6. [`message_rules`] and [`quota`] say what whoever has a permit may send, where a route asks for it.

pub mod address;
pub mod chunks;
pub mod credentials;
pub mod decision;
pub mod frames;
pub mod headers;
pub mod identity;
pub mod judgement;
pub mod message_rules;
pub mod path;
pub mod proxy_header;
pub mod quota;
pub mod refusal;
pub mod route;
pub mod rule;
pub mod signature;
pub mod throttle;
mod unprintable;
pub mod wire;

pub use address::{Networks, Origin};
pub use credentials::{CredentialFault, CredentialRules, Credentials, MissingPassword, Secret};
pub use decision::{Gate, Permit, Sayable};
pub use identity::{AuthInfo, AuthInfoFault, Identity, IdentityContext, Mechanism, Subject};
pub use judgement::Judgement;
pub use refusal::{CertificateFault, OverQuota, Refusal};
pub use rule::Allow;
