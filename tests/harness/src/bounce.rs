//! Bounces as a platform would post them.

use serde_json::{Value, json};

/// A mailbox that is disabled.
pub const DISABLED: &str = "450 4.2.1 The account is disabled";

/// A mail system that is full.
pub const FULL: &str = "452 4.3.1 Insufficient system storage";

/// A mail system in maintenance.
pub const MAINTENANCE: &str = "451 4.3.2 System not accepting network messages";

/// A mailbox that does not exist: a permanent failure.
pub const UNKNOWN: &str = "550 5.1.1 No such user";

/// A mailbox that is full and will stay so: a permanent failure that leaves the address
/// unavailable.
pub const FULL_FOR_GOOD: &str = "552 5.2.2 Mailbox full";

/// A message that nobody will ever take, whatever the address: a permanent failure of the message
/// alone.
pub const TOO_BIG: &str = "552 5.3.4 Message too big for system";

/// A message that got through.
pub const OK: &str = "250 2.0.0 Ok";

/// No reply at all: the relay that mail leaves by is away, which is no trouble of the recipient's.
pub const AWAY: &str = "the relay is away";

/// A bounce, in the wire format. Tests add the fields that they are about.
pub fn bounce(recipient: &str, message_id: &str, reply: &str) -> Value {
    json!({"recipient": recipient, "message_id": message_id, "reply": reply})
}
