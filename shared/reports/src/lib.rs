//! Reports about delivery that come as mail: delivery status notifications (RFC 3464, RFC 6533),
//! reports in the words of mail systems that do not write them, feedback reports (RFC 5965) and
//! automatic answers (RFC 3834). Reading never fails, because bad mail is data. What a report calls
//! for is for the policy to say.

pub mod bounds;
pub mod mailbox;
pub mod reader;
pub mod report;

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
