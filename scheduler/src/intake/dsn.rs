//! Delivery reports become bounces: each recipient that failed is one, of the message that the
//! report is about. Which message that is says a return path that we signed, else the original's
//! envelope id, else its message id.

use std::sync::Arc;

use config::model::Config;
use domain::account::Account;
use domain::address::Address;
use domain::bounce::{Bounce, derived_message_id};
use domain::clock::Timestamp;
use domain::job::{JobId, Message};
use futures::future::try_join_all;
use reports::report::{Recipient, Report};
use serde_json::{Map, Value, json};
use signing::return_path::{Token, Verp};
use store::error::StoreError;
use store::handle::Store;

use super::accept::{Accept, Answered};
use super::json::Refusal;

/// Jobs that are looked up at once for one report.
const LOOKUPS: usize = 16;

/// A report's date names a second, which ends so much later, in ms.
const SECOND_ENDS_MS: i64 = 999;

/// Takes delivery reports in.
#[derive(Clone, Debug)]
pub struct Reports {
    accept: Accept,
    store: Store,
    verp: Option<Arc<Verp>>,
    required: bool,
}

/// What is known of a report beside the message itself.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The tenant of mail whose return path does not say.
    pub account: Account,
    /// The address that the report came to, where whoever brings it knows.
    pub return_path: Option<String>,
}

/// What became of one report.
#[derive(Clone, Debug)]
pub struct Taken {
    report: Report,
    answers: Vec<RecipientAnswer>,
}

/// What became of one recipient of a report.
#[derive(Clone, Debug)]
enum RecipientAnswer {
    Bounce(Answered),
    Refused(Refusal),
    /// It starts nothing, because nothing failed.
    Nothing(&'static str),
}

impl Reports {
    /// Reports go through this door.
    pub fn new(accept: Accept, store: Store, config: &Config) -> Self {
        Self {
            accept,
            store,
            verp: config.verp.verp().map(Arc::new),
            required: config.verp.required,
        }
    }

    /// Whether mail to this address can be a report of ours.
    ///
    /// # Errors
    /// Why not.
    pub fn expects(&self, address: &str) -> Result<(), &'static str> {
        let Some(verp) = &self.verp else {
            return Ok(());
        };
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if !domain.eq_ignore_ascii_case(verp.domain()) {
            Err("this is not the domain of our return paths")
        } else if self.required && verp.decode(address, self.now()).is_none() {
            Err("this is not a return path of ours, or not any more")
        } else {
            Ok(())
        }
    }

    /// Reads one message, which may take some milliseconds, without holding others up.
    pub async fn read(&self, message: Vec<u8>) -> Report {
        let reading = tokio::task::spawn_blocking(move || Report::read(&message)).await;
        reading.expect("reading a report does not panic")
    }

    /// Takes in what a report says. When this returns, Redis has it.
    ///
    /// # Errors
    /// Those of the store; the call may be made again.
    pub async fn take(&self, report: Report, origin: &Origin) -> Result<Taken, StoreError> {
        let token = self.token(&report, origin);
        let account = token
            .as_ref()
            .map_or(&origin.account, |token| &token.account);
        let mut read = Vec::with_capacity(report.recipients.len());
        for recipients in report.recipients.chunks(LOOKUPS) {
            let each = recipients
                .iter()
                .map(|recipient| self.about(&report, recipient, token.as_ref(), account));
            read.extend(try_join_all(each).await?);
        }
        let bounces = read
            .iter()
            .filter_map(|read| read.as_ref().ok()?.clone())
            .collect();
        let mut answered = self.accept.accept(bounces).await?.into_iter();
        let answers =
            read.into_iter()
                .zip(&report.recipients)
                .map(|(read, recipient)| match read {
                    Ok(Some(_)) => RecipientAnswer::Bounce(
                        answered.next().expect("there is one answer per bounce"),
                    ),
                    Ok(None) => RecipientAnswer::Nothing(
                        recipient
                            .action
                            .map_or(report.kind.as_str(), reports::report::Action::as_str),
                    ),
                    Err(refusal) => RecipientAnswer::Refused(refusal),
                });
        Ok(Taken {
            answers: answers.collect(),
            report,
        })
    }

    /// What a return path that we signed says, be it where the report came to, or the original's
    /// envelope id.
    fn token(&self, report: &Report, origin: &Origin) -> Option<Token> {
        let verp = self.verp.as_ref()?;
        let (now, known) = (self.now(), origin.return_path.iter());
        let paths = known
            .chain(&report.came_to)
            .find_map(|path| verp.decode(path, now));
        paths.or_else(|| verp.decode_token(report.envelope_id.as_deref()?, now))
    }

    /// The bounce that a recipient is; none where nothing failed.
    async fn about(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
        account: &Account,
    ) -> Result<Result<Option<Bounce>, Refusal>, StoreError> {
        if !recipient.has_failed() || recipient.reply.is_success() {
            return Ok(Ok(None));
        }
        let address = match self.address(report, recipient, token) {
            Ok(address) => address,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let job = JobId {
            account: account.clone(),
            recipient: address,
        };
        let id = self.message_id(report, recipient, token, &job).await?;
        Ok(Ok(Some(self.bounce(
            report,
            recipient,
            token.is_some(),
            job,
            id,
        ))))
    }

    /// Whom the mail was for: of all whom the report names, the one that the return path was made
    /// for.
    fn address(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
    ) -> Result<Address, Refusal> {
        let Some(token) = token else {
            if self.required {
                return Err(Refusal::whole(
                    "the report came back to no return path that was signed here",
                ));
            }
            let address = recipient
                .address()
                .ok_or_else(|| Refusal::whole("the report names no recipient"))?;
            return Address::parse(address)
                .map_err(|why| Refusal::whole(format!("the recipient is none: {why}")));
        };
        let named = recipient
            .original
            .iter()
            .chain(&recipient.last)
            .chain(&report.original_to);
        let mut addresses = named.filter_map(|address| Address::parse(address).ok());
        addresses
            .find(|address| token.is_for(address))
            .ok_or_else(|| {
                Refusal::whole(
                    "the report speaks of nobody whom the mail with this return path was for",
                )
            })
    }

    /// The id of the message, as the job that holds it has it; else as the report has it.
    async fn message_id(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
        job: &JobId,
    ) -> Result<String, StoreError> {
        let told = [report.envelope_id.as_deref(), report.message_id.as_deref()];
        if token.is_some() || told.iter().any(Option::is_some) {
            let waiting = self
                .store
                .address(job)
                .await?
                .job
                .map(|found| found.job.messages)
                .unwrap_or_default();
            let waiting: Vec<&str> = waiting.iter().map(|message| message.id.as_str()).collect();
            let named = match token {
                Some(token) => waiting.into_iter().find(|id| token.names(id)),
                None => first_named(told, &waiting),
            };
            if let Some(id) = named {
                return Ok(id.to_owned());
            }
        }
        Ok(match (token, told) {
            (Some(token), [_, Some(id)]) if token.names(id) => format!("<{id}>"),
            (Some(token), _) => token.message_name(),
            (None, [Some(id), _]) => id.to_owned(),
            (None, [None, Some(id)]) => format!("<{id}>"),
            (None, [None, None]) => {
                let written = report
                    .written_at
                    .map(|at| at.to_string())
                    .unwrap_or_default();
                let distinct = [
                    job.account.as_str(),
                    job.recipient.as_str(),
                    &written,
                    &recipient.diagnostic,
                ];
                derived_message_id(&distinct)
            }
        })
    }

    fn bounce(
        &self,
        report: &Report,
        recipient: &Recipient,
        signed: bool,
        job: JobId,
        id: String,
    ) -> Bounce {
        let now = self.now();
        // A report to a path of ours is about mail that is out: when it was written is by another
        // machine's clock, and must not make it look older than the delivery to the relay that it
        // takes back.
        let written = report
            .written_at
            .filter(|_| !signed)
            .map(|at| Timestamp::from_ms(at.ms() + SECOND_ENDS_MS));
        let occurred_at = written.map(|at| at.min(now));
        let message = Message {
            id,
            bounced_at: occurred_at.unwrap_or(now),
            envelope_from: None,
            route: None,
            stream: None,
            expires_at: None,
            content: None,
            remote_mta: recipient.remote_mta.clone(),
            traceparent: None,
            metadata: Map::new(),
            accepted: None,
        };
        Bounce {
            account: job.account,
            recipient: job.recipient,
            reply: recipient.reply.clone(),
            occurred_at,
            message,
        }
    }

    fn now(&self) -> Timestamp {
        self.store.clock().now()
    }
}

impl Taken {
    /// The report and its answers as the API gives them.
    pub fn to_wire(&self) -> Value {
        let Self { report, answers } = self;
        let recipients = report
            .recipients
            .iter()
            .zip(answers)
            .map(|(recipient, told)| {
                let mut wire = json!({
                    "recipient": recipient.address(),
                    "action": recipient.action.map(reports::report::Action::as_str),
                    "status": recipient.reply.status,
                    "code": recipient.reply.code,
                    "remote_mta": recipient.remote_mta,
                });
                let told = match told {
                    RecipientAnswer::Bounce(answered) => answered.to_wire(),
                    RecipientAnswer::Refused(refusal) => refusal.to_wire(),
                    RecipientAnswer::Nothing(word) => json!({"answer": word}),
                };
                if let (Value::Object(wire), Value::Object(told)) = (&mut wire, told) {
                    wire.extend(told);
                }
                wire
            });
        json!({
            "kind": report.kind.as_str(),
            "envelope_id": report.envelope_id,
            "message_id": report.message_id,
            "recipients": recipients.collect::<Vec<_>>(),
        })
    }

    /// Why nothing of what had failed was taken in.
    pub fn refusal(&self) -> Option<&str> {
        let taken = self
            .answers
            .iter()
            .any(|told| matches!(told, RecipientAnswer::Bounce(_)));
        let refusals = self.answers.iter().filter_map(|told| match told {
            RecipientAnswer::Refused(refusal) => Some(refusal.reason.as_str()),
            _ => None,
        });
        refusals.take(usize::from(!taken)).next()
    }
}

/// The message among those that wait which is told of, by the first of the names that is one of
/// theirs: a Message-ID may be that of a whole campaign, an envelope id is that of one mail.
fn first_named<'w>(told: [Option<&str>; 2], waiting: &[&'w str]) -> Option<&'w str> {
    told.into_iter()
        .flatten()
        .find_map(|told| waiting.iter().copied().find(|id| bare(id) == bare(told)))
}

/// An id without the angle brackets that some write and some do not.
fn bare(id: &str) -> &str {
    id.trim_matches(['<', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_goes_before_a_message_id_whichever_message_waits_longer() {
        let both = [Some("m2"), Some("m1")];
        for (told, waiting, expected) in [
            (both, vec!["<m1>", "<m2>", "m3"], Some("<m2>")),
            (both, vec!["m2", "m1"], Some("m2")),
            (both, vec!["m3", "<m1>"], Some("<m1>")),
            ([None, Some("<m1>")], vec!["m2", "m1"], Some("m1")),
            ([Some("m2"), None], vec!["m1", "m2"], Some("m2")),
            (both, vec!["m3"], None),
            ([None, None], vec!["m1"], None),
        ] {
            assert_eq!(
                first_named(told, &waiting),
                expected,
                "{told:?} {waiting:?}"
            );
        }
    }
}
