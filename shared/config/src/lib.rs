//! The configuration: every key of `redeliver.toml`, read from the defaults, a file and the
//! environment, in this order. All faults are reported at once.

mod access;
mod connections;
mod content;
mod hooks;
mod hosts;
mod load;
mod model;
mod names;
mod open_files;
mod read;
mod redis;
mod returned;
mod route;
mod senders;
mod smtp;
mod stream;
mod tls_files;

pub use access::Access;
pub use connections::Connections;
pub use content::Content;
pub use hooks::{Hook, Hooks, Service};
pub use hosts::{HostRule, NotAHostRule};
pub use load::DEFAULT;
pub use model::{Config, Job, Placement, Scheduler, Upkeep, Worker};
pub use redis::Redis;
pub use returned::{Lmtp, Returned};
pub use route::{Route, SenderSettings};
pub use senders::{CommandSettings, HttpSettings, PLACEHOLDERS};
pub use smtp::{
    AfterDot, MxSettings, Notify, SessionSettings, SmtpLogin, SmtpSettings, SmtpTimeouts, TlsMode,
};
pub use stream::Stream;
pub use typed_toml::secret::Secret;
