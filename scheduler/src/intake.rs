//! Intake: adapters turn what others send into [`Bounce`](domain::bounce::Bounce)s and facts. All
//! adapters hand them to [`accept`].

pub mod accept;
pub mod dsn;
pub mod facts;
pub(crate) mod foreign_json;
mod instants;
pub mod json;
pub mod lines;
pub mod lmtp;
pub mod maillog;
mod returned_content;
pub mod signed_account;
pub mod stream;
pub mod webhook;
