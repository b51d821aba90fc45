//! Turns delivery reports into bounces: one for each recipient that failed. The message is
//! identified by a return path that we signed. Without one it is identified by the original's
//! envelope id, and without that by its Message-ID. Complaints become facts if they are proven.

use std::sync::Arc;

use config::model::Config;
use domain::account::{Account, Accounts};
use domain::address::Address;
use domain::bounce::{Bounce, Warning, derived_message_id};
use domain::clock::Timestamp;
use domain::fact::{Fact, FactKind};
use domain::job::{JobId, Message};
use futures::future::try_join_all;
use reports::report::{Feedback, Kind, Recipient, Report};
use serde_json::{Map, Value, json};
use signing::return_path::{Token, Verp};
use store::error::StoreError;
use store::handle::Store;

use super::accept::{Accept, Answered, FactAnswered};
use super::json::Refusal;
use super::returned_content::ReturnedMail;

/// How many jobs are looked up at once for one report.
const LOOKUPS: usize = 16;

/// The last millisecond of a second. The date of a report is a whole second, and the report may
/// have been written at any time within it.
const LAST_MS_OF_SECOND: i64 = 999;

/// Reads delivery reports, and accepts the bounces that they report.
#[derive(Clone, Debug)]
pub struct Reports {
    accept: Accept,
    store: Store,
    verp: Option<Arc<Verp>>,
    /// Whether a report must have been sent to a return path that we signed.
    verp_required: bool,
    /// The addresses to which only trusted systems send complaints.
    complaints_to: Arc<[Address]>,
    /// The largest returned mail that is used as content, in bytes. `None` if none is used.
    content_max: Option<usize>,
}

/// A report, and the mail that it returns.
#[derive(Clone, Debug)]
pub struct ReadReport {
    report: Report,
    returned: ReturnedMail,
}

/// What the caller knows about a report, apart from the mail itself.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The account of the mail if its return path names none.
    pub account: Account,
    /// The address that the report was sent to, if the caller knows it.
    pub return_path: Option<String>,
    /// The accounts that the caller may act for.
    pub accounts: Accounts,
}

/// The result of one report.
#[derive(Clone, Debug)]
pub struct ReportAnswer {
    report: Report,
    answers: Vec<RecipientAnswer>,
}

/// The answer to one recipient of a report.
#[derive(Clone, Debug)]
enum RecipientAnswer {
    Bounce(Answered),
    Fact(FactAnswered),
    Refused(Refusal),
    /// A complaint that starts nothing. Contains the reason.
    NoFact(&'static str),
    /// Nothing failed, so there is no bounce. Contains what the report states instead.
    NoBounce(&'static str),
}

impl Reports {
    /// Bounces go to `accept`. Waiting messages are looked up in `store`.
    pub fn new(accept: Accept, store: Store, config: &Config) -> Self {
        Self {
            accept: accept.with_source("dsn"),
            store,
            verp: config.verp.verp().map(Arc::new),
            verp_required: config.verp.required,
            complaints_to: config.lmtp.complaints_to.clone().into(),
            content_max: config.content_from_dsn.then_some(config.job.inline_max),
        }
    }

    /// Returns the same reader for what a client does with this token. Events name the token.
    #[must_use]
    pub fn on_behalf_of(&self, token: Option<&str>) -> Self {
        Self {
            accept: self.accept.on_behalf_of(token),
            ..self.clone()
        }
    }

    /// Checks whether mail to this address can be a report about our mail.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn expects(&self, address: &str) -> Result<(), &'static str> {
        let Some(verp) = &self.verp else {
            return Ok(());
        };
        if self.is_for_complaints(Some(address)) {
            return Ok(());
        }
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if !domain.eq_ignore_ascii_case(verp.domain()) {
            Err("the domain is not the one of our return paths")
        } else if self.verp_required && verp.decode(address, self.now()).is_none() {
            Err("the address is not a return path of ours, or has expired")
        } else {
            Ok(())
        }
    }

    /// Reads one report. This may take some milliseconds, so it runs on a thread for blocking work.
    pub async fn read(&self, message: Vec<u8>) -> ReadReport {
        let content_max = self.content_max;
        let reading = tokio::task::spawn_blocking(move || ReadReport {
            report: Report::read(&message),
            returned: content_max
                .map_or(ReturnedMail::None, |max| ReturnedMail::read(&message, max)),
        });
        reading.await.expect("reading a report does not panic")
    }

    /// Accepts the bounces that a report describes. When this returns, Redis has them.
    ///
    /// # Errors
    /// If the store fails. The call may then be repeated.
    pub async fn process(
        &self,
        read: ReadReport,
        origin: &Origin,
    ) -> Result<ReportAnswer, StoreError> {
        let ReadReport { report, returned } = read;
        let token = self.token(&report, origin);
        if report.kind == Kind::Feedback {
            return self.process_feedback(report, origin, token).await;
        }
        let account = token
            .as_ref()
            .map_or(&origin.account, |token| &token.account);
        let mut read = Vec::with_capacity(report.recipients.len());
        for recipients in report.recipients.chunks(LOOKUPS) {
            let each = recipients.iter().map(|recipient| {
                self.read_recipient(&report, recipient, token.as_ref(), account, origin)
            });
            read.extend(try_join_all(each).await?);
        }
        let mut bounces: Vec<Bounce> = read
            .iter()
            .filter_map(|read| read.as_ref().ok()?.clone())
            .collect();
        // A report without a signed return path could make us send any text to anyone.
        if token.is_some() {
            for bounce in &mut bounces {
                bounce.message.content = returned.content();
                bounce.warnings.extend(returned.warning());
            }
        }
        let mut answered = self.accept.accept(bounces).await?.into_iter();
        let answers =
            read.into_iter()
                .zip(&report.recipients)
                .map(|(read, recipient)| match read {
                    Ok(Some(_)) => RecipientAnswer::Bounce(
                        answered.next().expect("there is one answer per bounce"),
                    ),
                    Ok(None) => RecipientAnswer::NoBounce(
                        recipient
                            .action
                            .map_or(report.kind.as_str(), reports::report::Action::as_str),
                    ),
                    Err(refusal) => RecipientAnswer::Refused(refusal),
                });
        Ok(ReportAnswer {
            answers: answers.collect(),
            report,
        })
    }

    /// Accepts the complaints and requests to unsubscribe of a feedback report. Anyone can write
    /// one, so each must be proven: by a return path that we signed for this recipient, or by the
    /// address that the report came to.
    async fn process_feedback(
        &self,
        report: Report,
        origin: &Origin,
        token: Option<Token>,
    ) -> Result<ReportAnswer, StoreError> {
        let token = token.or_else(|| {
            let verp = self.verp.as_ref()?;
            let mut paths = report.sent_from.iter();
            paths.find_map(|path| verp.decode(path, self.now()))
        });
        let is_trusted = self.is_for_complaints(origin.return_path.as_deref());
        let mut facts = Vec::new();
        let mut answers = Vec::with_capacity(report.recipients.len());
        for recipient in &report.recipients {
            let address = recipient.address().map(Address::parse);
            let proven = match (report.feedback, address, &token) {
                (None, ..) => Err("the report does not ask for anything"),
                (_, None | Some(Err(_)), _) => Err("the report names no recipient"),
                (Some(what), Some(Ok(address)), Some(token)) if token.is_for(&address) => {
                    Ok((what, address, &token.account))
                }
                (Some(what), Some(Ok(address)), None) if is_trusted => {
                    Ok((what, address, &origin.account))
                }
                (.., Some(_)) => Err("the return path was not made for this recipient"),
                (.., None) => Err(
                    "nothing proves the report: it contains no return path that was signed here, \
                     and came to no address of intake.lmtp.complaints_to",
                ),
            };
            let answer = match proven {
                Ok((.., account)) if !origin.accounts.allow(account) => Some(
                    RecipientAnswer::Refused(Refusal::of_account(account, &origin.accounts)),
                ),
                Ok((what, recipient, account)) => {
                    facts.push(Fact {
                        account: account.clone(),
                        recipient,
                        kind: match what {
                            Feedback::Complaint => FactKind::Complaint,
                            Feedback::Unsubscribe => FactKind::Unsubscribe,
                        },
                        // The date of a report is by the clock of another machine.
                        occurred_at: None,
                        message_id: None,
                        warnings: Vec::new(),
                    });
                    None
                }
                Err(why) => Some(RecipientAnswer::NoFact(why)),
            };
            answers.push(answer);
        }
        let mut answered = self.accept.record_facts_and_wait(facts).await?.into_iter();
        let mut next_fact = || answered.next().expect("there is one answer per fact");
        let answers = answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| RecipientAnswer::Fact(next_fact())));
        Ok(ReportAnswer {
            answers: answers.collect(),
            report,
        })
    }

    /// Whether only trusted systems send complaints to this address.
    fn is_for_complaints(&self, address: Option<&str>) -> bool {
        let address = address.and_then(|address| Address::parse(address).ok());
        let is_one = |address: Address| {
            let mut trusted = self.complaints_to.iter();
            trusted.any(|one| one.as_str().eq_ignore_ascii_case(address.as_str()))
        };
        address.is_some_and(is_one)
    }

    /// Returns the token of a return path that we signed. It is in an address that the report was
    /// sent to, or in the original's envelope id. `None` if there is none.
    fn token(&self, report: &Report, origin: &Origin) -> Option<Token> {
        let verp = self.verp.as_ref()?;
        let now = self.now();
        let mut paths = origin.return_path.iter().chain(&report.delivered_to);
        let token = paths.find_map(|path| verp.decode(path, now));
        token.or_else(|| verp.decode_token(report.envelope_id.as_deref()?, now))
    }

    /// Returns the bounce of a recipient, or `None` if nothing failed. The inner error is a refusal
    /// of this recipient alone.
    async fn read_recipient(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
        account: &Account,
        origin: &Origin,
    ) -> Result<Result<Option<Bounce>, Refusal>, StoreError> {
        if !recipient.has_failed() || recipient.reply.is_success() {
            return Ok(Ok(None));
        }
        if !origin.accounts.allow(account) {
            return Ok(Err(Refusal::of_account(account, &origin.accounts)));
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
        let bounce = self.bounce(report, recipient, token.is_some(), job, id);
        Ok(Ok(Some(bounce)))
    }

    /// Returns the recipient of the original mail. With a token, it is the address in the report
    /// that the return path was made for. Without one, it is the recipient that the report names.
    fn address(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
    ) -> Result<Address, Refusal> {
        let Some(token) = token else {
            if self.verp_required {
                return Err(Refusal::whole(
                    "the report was sent to no return path that was signed here",
                ));
            }
            let address = recipient
                .address()
                .ok_or_else(|| Refusal::whole("the report names no recipient"))?;
            return Address::parse(address)
                .map_err(|why| Refusal::whole(format!("the recipient is not an address: {why}")));
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
                Refusal::whole("the report names no recipient that this return path was made for")
            })
    }

    /// Returns the id of the message. It is written as in the job that holds the message, if there
    /// is one, and otherwise as in the report.
    async fn message_id(
        &self,
        report: &Report,
        recipient: &Recipient,
        token: Option<&Token>,
        job: &JobId,
    ) -> Result<String, StoreError> {
        let reported = [report.envelope_id.as_deref(), report.message_id.as_deref()];
        if token.is_some() || reported.iter().any(Option::is_some) {
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
                None => find_waiting_message(reported, &waiting),
            };
            if let Some(id) = named {
                return Ok(id.to_owned());
            }
        }
        Ok(match (token, reported) {
            (Some(token), [_, Some(id)]) if token.names(id) => format!("<{id}>"),
            (Some(token), _) => token.message_name(),
            (None, [Some(id), _]) => id.to_owned(),
            (None, [None, Some(id)]) => format!("<{id}>"),
            (None, [None, None]) => {
                let written = report.dated.map(|at| at.to_string()).unwrap_or_default();
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
        // The date of a report is by the clock of another machine. If the return path is ours, the
        // report is about mail that has been sent, so the date is ignored. By its date, the report
        // could seem older than the delivery to the relay that it revokes.
        let written = report
            .dated
            .filter(|_| !signed)
            .map(|at| Timestamp::from_ms(at.ms() + LAST_MS_OF_SECOND));
        let occurred_at = written.map(|at| at.min(now));
        let unreadable = Some(Warning {
            field: "Date".to_owned(),
            reason: "is not a date (RFC 5322); the report counts from now".to_owned(),
        });
        let warnings = unreadable.filter(|_| report.has_unreadable_date && !signed);
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
            warnings: warnings.into_iter().collect(),
        }
    }

    fn now(&self) -> Timestamp {
        self.store.clock().now()
    }
}

impl ReportAnswer {
    /// Returns the report and its answers in the form of the API.
    pub fn to_wire(&self) -> Value {
        let Self { report, answers } = self;
        let recipients = report
            .recipients
            .iter()
            .zip(answers)
            .map(|(recipient, answer)| {
                let mut wire = json!({
                    "recipient": recipient.address(),
                    "action": recipient.action.map(reports::report::Action::as_str),
                    "status": recipient.reply.status,
                    "code": recipient.reply.code,
                    "remote_mta": recipient.remote_mta,
                });
                let answer = match answer {
                    RecipientAnswer::Bounce(answered) => answered.to_wire(),
                    RecipientAnswer::Fact(answered) => answered.to_wire(),
                    RecipientAnswer::NoFact(why) => {
                        json!({"answer": report.kind.as_str(), "reason": why})
                    }
                    RecipientAnswer::Refused(refusal) => refusal.to_wire(),
                    RecipientAnswer::NoBounce(word) => json!({"answer": word}),
                };
                if let (Value::Object(wire), Value::Object(answer)) = (&mut wire, answer) {
                    wire.extend(answer);
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

    /// Returns the first refusal if no bounce and no fact was accepted. Returns `None` if one was
    /// accepted, or if nothing was refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        let is_accepted = |answer: &RecipientAnswer| {
            matches!(
                answer,
                RecipientAnswer::Bounce(_) | RecipientAnswer::Fact(_)
            )
        };
        if self.answers.iter().any(is_accepted) {
            return None;
        }
        self.answers.iter().find_map(|answer| match answer {
            RecipientAnswer::Refused(refusal) => Some(refusal),
            _ => None,
        })
    }
}

/// Finds the waiting message that the report is about. The envelope id is tried first, because a
/// Message-ID may be shared by a whole campaign.
fn find_waiting_message<'w>(reported: [Option<&str>; 2], waiting: &[&'w str]) -> Option<&'w str> {
    reported.into_iter().flatten().find_map(|reported| {
        waiting
            .iter()
            .copied()
            .find(|id| without_brackets(id) == without_brackets(reported))
    })
}

/// Returns an id without angle brackets, because not all systems write them.
fn without_brackets(id: &str) -> &str {
    id.trim_matches(['<', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_has_priority_over_a_message_id() {
        let both = [Some("m2"), Some("m1")];
        for (reported, waiting, expected) in [
            (both, vec!["<m1>", "<m2>", "m3"], Some("<m2>")),
            (both, vec!["m2", "m1"], Some("m2")),
            (both, vec!["m3", "<m1>"], Some("<m1>")),
            ([None, Some("<m1>")], vec!["m2", "m1"], Some("m1")),
            ([Some("m2"), None], vec!["m1", "m2"], Some("m2")),
            (both, vec!["m3"], None),
            ([None, None], vec!["m1"], None),
        ] {
            assert_eq!(
                find_waiting_message(reported, &waiting),
                expected,
                "{reported:?} {waiting:?}"
            );
        }
    }
}
