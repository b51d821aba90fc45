//! The state of one mail server of the demo: it decides about recipients, and records messages. It
//! must not know about connections.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use domain::clock::{Clock, Timestamp};

use super::behavior::Behavior;
use super::transaction::{Transaction, path};

/// How many recipients one transaction may have.
const RECIPIENTS_MAX: usize = 100;

/// A message that a server has answered with 250, for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Accepted {
    /// The recipient, as it was in `RCPT`.
    pub(crate) recipient: String,
    /// The value of the header field `Message-ID`, with its angle brackets. Empty if there was
    /// none.
    pub(crate) message_id: String,
}

/// The state of one server: its behavior, and what it has received so far.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) behavior: &'static Behavior,
    clock: Arc<dyn Clock>,
    opening: Timestamp,
    /// How many connections it has accepted.
    pub(super) connections: AtomicU64,
    /// How many `RCPT` commands it has refused.
    pub(super) refusals: AtomicU64,
    /// The messages that it has accepted. The size of the campaign limits their number.
    accepted: Mutex<Vec<Accepted>>,
}

impl ServerState {
    pub(super) fn new(
        behavior: &'static Behavior,
        clock: Arc<dyn Clock>,
        opening: Timestamp,
    ) -> Self {
        Self {
            behavior,
            clock,
            opening,
            connections: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            accepted: Mutex::new(Vec::new()),
        }
    }

    /// Returns the messages that it has accepted so far.
    pub(super) fn accepted(&self) -> Vec<Accepted> {
        self.accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Decides about a `RCPT` command.
    ///
    /// # Errors
    /// The reply that refuses the recipient.
    pub(super) fn check_recipient(
        &self,
        transaction: &Transaction,
        argument: &str,
    ) -> Result<String, &'static str> {
        let (recipient, parameters) =
            path(argument, "TO:").ok_or("501 5.5.4 Syntax: RCPT TO:<address>")?;
        let (local, domain) = recipient
            .rsplit_once('@')
            .ok_or("553 5.1.3 Recipient has no domain")?;
        if !parameters.trim().is_empty() {
            return Err("555 5.5.4 Parameter not recognized");
        }
        if !recipient.is_ascii() && !transaction.smtputf8 {
            return Err("553 5.6.7 Such a recipient needs SMTPUTF8");
        }
        if !domain.eq_ignore_ascii_case(self.behavior.domain) {
            return Err("550 5.7.1 Relaying denied");
        }
        if transaction.recipients.len() >= RECIPIENTS_MAX {
            return Err("452 4.5.3 Too many recipients");
        }
        match (self.behavior.refusal)(local, self.clock.now().since(self.opening)) {
            Some(refusal) => Err(refusal),
            None => Ok(recipient.to_owned()),
        }
    }

    /// Records a message as accepted for each of its recipients. Returns the reply.
    pub(super) fn accept(&self, recipients: &[String], content: &[u8]) -> String {
        let message_id = message_id(content);
        let accepted = recipients.iter().cloned().map(|recipient| Accepted {
            recipient,
            message_id: message_id.clone(),
        });
        self.accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(accepted);
        format!("250 2.0.0 OK, {} octets taken", content.len())
    }
}

/// Returns the value of a message's header field `Message-ID`; empty if it has none.
fn message_id(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let mut fields = text
        .split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'));
    let field = fields.find(|(name, _)| name.eq_ignore_ascii_case("Message-ID"));
    field
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
