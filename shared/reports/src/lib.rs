//! Reads reports about delivery that arrive as mail: delivery status notifications (RFC 3464, RFC
//! 6533), reports of mail systems that use only words of their own, feedback reports (RFC 5965) and
//! automatic replies (RFC 3834). Reading never fails, because bad mail is data. What to do
//! about a report is decided in the crate `policy`.

pub mod bounds;
pub mod mailbox;
pub mod reader;
pub mod report;
pub mod returned;

mod answer;
mod bounded;
mod delivery_status;
mod dialect;
mod feedback;
mod fields;
mod instant;
mod mime;
mod notice;
mod original;
mod quote;
mod sentence;
mod text;

#[cfg(test)]
mod tests;
