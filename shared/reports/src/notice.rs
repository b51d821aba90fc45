//! Notices of a mail service that come as JSON in a mail: those of Amazon SES, where a topic has a
//! mail address for a subscriber. See the service's developer guide, "Amazon SNS notification
//! contents".

use domain::reply::Reply;
use serde_json::Value;

use crate::bounded::{name, on_one_line};
use crate::bounds::{MAX_DIAGNOSTIC, MAX_RECIPIENTS};
use crate::mime::Mail;
use crate::report::{Action, Kind, Recipient, Report, without_success};

/// Reads such a notice; `None` where the message is none.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let text = mail
        .texts()
        .map(str::trim_start)
        .find(|text| text.starts_with('{'))?;
    // Lines were folded on the way, also within texts. What follows the document is the footer of
    // the mail.
    let text = text.replace('\n', " ");
    let notice: Value = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .next()?
        .ok()?;
    let kind = notice["notificationType"]
        .as_str()
        .or_else(|| notice["eventType"].as_str())?;
    let report = match kind {
        "Bounce" => Report::about(each(&notice["bounce"]["bouncedRecipients"], bounced)),
        "Delivery" => {
            let said = notice["delivery"]["smtpResponse"]
                .as_str()
                .unwrap_or_default();
            let host = notice["delivery"]["reportingMTA"].as_str();
            let told =
                |to: &Value| Some(recipient(to.as_str()?, Action::Delivered, said, "", host));
            Report::about(each(&notice["delivery"]["recipients"], told))
        }
        "Complaint" => {
            let told = |to: &Value| Some(Recipient::named(Some(to["emailAddress"].as_str()?)));
            let recipients = each(&notice["complaint"]["complainedRecipients"], told);
            Report {
                kind: Kind::Feedback,
                recipients,
                ..Report::default()
            }
        }
        _ => return None,
    };
    let headers = notice["mail"]["commonHeaders"]["messageId"].as_str();
    Some(Report {
        message_id: headers.and_then(|id| name(id.trim_matches(['<', '>']))),
        ..report
    })
}

fn each(list: &Value, read: impl Fn(&Value) -> Option<Recipient>) -> Vec<Recipient> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(read)
        .take(MAX_RECIPIENTS)
        .collect()
}

fn bounced(to: &Value) -> Option<Recipient> {
    let text = |name: &str| to[name].as_str().unwrap_or_default();
    let action = Action::from_name(text("action")).unwrap_or(Action::Failed);
    Some(recipient(
        to["emailAddress"].as_str()?,
        action,
        text("diagnosticCode"),
        text("status"),
        None,
    ))
}

fn recipient(
    address: &str,
    action: Action,
    said: &str,
    status: &str,
    host: Option<&str>,
) -> Recipient {
    let mut reply = Reply::parse(said);
    reply.status = reply.status.or_else(|| status.parse().ok());
    if action == Action::Failed {
        reply = without_success(reply);
    }
    Recipient {
        action: Some(action),
        reply,
        diagnostic: on_one_line(said, MAX_DIAGNOSTIC),
        remote_mta: host.and_then(name),
        ..Recipient::named(Some(address.trim_matches(['<', '>'])))
    }
}
