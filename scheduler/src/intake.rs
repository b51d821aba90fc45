//! How bounces come in: adapters make [`Bounce`](domain::bounce::Bounce)s of what others send, and
//! [`accept`] is the one door that all of them go through.

pub mod accept;
pub mod dsn;
pub mod facts;
pub mod json;
pub mod lines;
pub mod lmtp;
pub mod maillog;
pub mod stream;
pub mod webhook;
