//! The events that a mail service reports, in the wire format of the JSON adapters. Knows nothing
//! of how a service writes them.

use domain::fact::FactKind;
use serde_json::Value;

/// One event of a mail service.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The id that distinguishes it from all other events of this service, if it has one.
    pub id: Option<String>,
    /// What it means.
    pub meaning: EventMeaning,
}

/// What an event means.
#[derive(Clone, Debug, PartialEq)]
pub enum EventMeaning {
    /// A bounce, in the wire format of `POST /v1/bounces`.
    Bounce(Value),
    /// A fact, in the wire format of `POST /v1/facts`.
    Fact(Value),
    /// An event of no use here, by its type.
    Ignored(&'static str),
    /// An event of a type that is not known here.
    Unknown(String),
    /// An event that cannot be read. The text explains why.
    Unreadable(String),
}

impl Event {
    /// Returns the id if the event must not be processed twice, else `None`. A repeated bounce
    /// would start a job again. A repeated complaint would undo an operator's reinstatement. Signs
    /// of life have the same effect each time, and there are too many of them to remember.
    pub(super) fn remembered_id(&self) -> Option<&str> {
        let id = self.id.as_deref()?;
        match &self.meaning {
            EventMeaning::Bounce(_) => Some(id),
            EventMeaning::Fact(item) => {
                let kind = item["type"].as_str().and_then(FactKind::parse);
                kind.filter(|kind| kind.suppresses()).map(|_| id)
            }
            EventMeaning::Ignored(_) | EventMeaning::Unknown(_) | EventMeaning::Unreadable(_) => {
                None
            }
        }
    }
}
