//! Notices of a mail service that arrive as JSON in a mail. Amazon SES sends them if a mail address
//! subscribes to a topic. See the service's developer guide, "Amazon SNS notification contents".

use domain::reply::Reply;
use serde_json::Value;

use crate::bounded::{name, on_one_line};
use crate::bounds::{MAX_DIAGNOSTIC, MAX_RECIPIENTS};
use crate::mime::Mail;
use crate::report::{Action, Feedback, Kind, Recipient, Report, without_success};

/// Reads such a notice. Returns `None` if the message is not one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let text = mail
        .texts()
        .map(str::trim_start)
        .find(|text| text.starts_with('{'))?;
    // Lines were folded on the way, even within texts. The text after the JSON document is the
    // footer of the mail.
    let text = text.replace('\n', " ");
    let notice: Value = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .next()?
        .ok()?;
    let kind = notice["notificationType"]
        .as_str()
        .or_else(|| notice["eventType"].as_str())?;
    let report = match kind {
        "Bounce" => {
            let bounced = &notice["bounce"]["bouncedRecipients"];
            Report::about(read_each(bounced, bounced_recipient))
        }
        "Delivery" => {
            let response = notice["delivery"]["smtpResponse"]
                .as_str()
                .unwrap_or_default();
            let host = notice["delivery"]["reportingMTA"].as_str();
            let delivered = |to: &Value| {
                let address = to.as_str()?;
                Some(recipient(address, Action::Delivered, response, "", host))
            };
            Report::about(read_each(&notice["delivery"]["recipients"], delivered))
        }
        "Complaint" => {
            let named = |to: &Value| Some(Recipient::named(Some(to["emailAddress"].as_str()?)));
            let recipients = read_each(&notice["complaint"]["complainedRecipients"], named);
            let is_spam = notice["complaint"]["complaintFeedbackType"] != "not-spam";
            Report {
                kind: Kind::Feedback,
                feedback: is_spam.then_some(Feedback::Complaint),
                recipients,
                ..Report::default()
            }
        }
        _ => return None,
    };
    let message_id = notice["mail"]["commonHeaders"]["messageId"].as_str();
    Some(Report {
        message_id: message_id.and_then(|id| name(id.trim_matches(['<', '>']))),
        ..report
    })
}

fn read_each(list: &Value, read: impl Fn(&Value) -> Option<Recipient>) -> Vec<Recipient> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(read)
        .take(MAX_RECIPIENTS)
        .collect()
}

fn bounced_recipient(to: &Value) -> Option<Recipient> {
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
    response: &str,
    status: &str,
    host: Option<&str>,
) -> Recipient {
    let mut reply = Reply::parse(response);
    reply.status = reply.status.or_else(|| status.parse().ok());
    if action == Action::Failed {
        reply = without_success(reply);
    }
    Recipient {
        action: Some(action),
        reply,
        diagnostic: on_one_line(response, MAX_DIAGNOSTIC),
        remote_mta: host.and_then(name),
        ..Recipient::named(Some(address.trim_matches(['<', '>'])))
    }
}
