//! Bounces like those of a platform, and the replies in them.

use serde_json::{Value, json};

/// The reply of a disabled mailbox.
pub const DISABLED: &str = "450 4.2.1 The account is disabled";

/// The reply of a full mail system.
pub const FULL: &str = "452 4.3.1 Insufficient system storage";

/// The reply of a mail system in maintenance.
pub const MAINTENANCE: &str = "451 4.3.2 System not accepting network messages";

/// The reply for a mailbox that does not exist: a permanent failure.
pub const UNKNOWN: &str = "550 5.1.1 No such user";

/// The reply of a mailbox that is full for good: a permanent failure that leaves the address
/// unavailable.
pub const FULL_FOR_GOOD: &str = "552 5.2.2 Mailbox full";

/// The reply to a message that no server will accept, for any address: a permanent failure of the
/// message only.
pub const TOO_BIG: &str = "552 5.3.4 Message too big for system";

/// The reply to a delivered message.
pub const OK: &str = "250 2.0.0 Ok";

/// Not a reply: it means that our own relay cannot be reached. The recipient is not at fault.
pub const AWAY: &str = "the relay is away";

/// Returns a bounce in the wire format. A test adds the fields that it needs.
pub fn bounce(recipient: &str, message_id: &str, reply: &str) -> Value {
    json!({"recipient": recipient, "message_id": message_id, "reply": reply})
}
