//! Reports of mail systems that do not follow RFC 3464 and use only words of their own. Those words
//! are in `dialects.toml`. This file reads the text before the returned mail line by line, and
//! finds the recipients, each with the text about it.

use domain::reply::{MAX_TEXT, Reply, stage};

use crate::answer;
use crate::bounded::{begins_with, cut, on_one_line};
use crate::bounds::{MAX_DIAGNOSTIC, MAX_NAME, MAX_RECIPIENTS};
use crate::dialect::{Dialect, dialect_of};
use crate::mime::Mail;
use crate::report::{Action, Recipient, Report, without_success};
use crate::sentence::{self, DAEMONS};

/// How much of a report's own text is read, in bytes. The longest reports are in natural language
/// and have several parts.
const MAX_WORDS: usize = 64 * 1024;

/// The largest number of recipients that are read from a report's own text.
const MAX_BLOCKS: usize = 64;

/// How much of a line is read, in bytes.
const MAX_LINE: usize = 2 * 1024;

/// The note about a recipient about whom the report says nothing. It is appended to the text of the
/// reply.
const NO_REASON: &str = " (no reason given)";

/// Lines after which the returned mail follows, in lower case.
const ORIGINAL: [&str; 19] = [
    "is a copy of",
    "original message follows",
    "----- original message",
    "original message -----",
    "-------original m",
    "message header follows",
    "message headers follow",
    "header of the original message",
    "unsent message",
    "returned message ----",
    "mensaje original",
    "the header and top",
    "unsent message below",
    "original message:",
    "original mail as follows",
    "the attachment contains the original",
    "---- message body",
    "===== original",
    "forwarded message -----",
];

/// Header fields of the returned mail that reports repeat among their own words, in lower case.
/// Their values come from the sender and are not part of the report.
const REPEATED: [&str; 5] = ["subject:", "date:", "sent:", "from:", "message-id:"];

/// Words for mail that is still being retried, in lower case.
const DELAYED: [&str; 9] = [
    "warning message only",
    "warning only",
    "has been delayed",
    "still being retried",
    "will be retried",
    "delivery status notification (delay)",
    "will continue to be attempted",
    "has not yet been delivered",
    "is delayed for more than",
];

/// Words in the subjects of reports, in lower case.
const SUBJECTS: [&str; 22] = [
    "undeliver",
    "not delivered",
    "non delivery",
    "non-delivery",
    "non remis",
    "failure notice",
    "delivery fail",
    "failed delivery",
    "delivery status",
    "delivery report",
    "delivery notification",
    "delivery problem",
    "delivery error",
    "mail delivery",
    "mail error",
    "mail system error",
    "message status",
    "returned mail",
    "returned to sender",
    "failure delivery",
    "unzustellbar",
    "error sending your mail",
];

/// Reads such a report. Returns `None` if the message does not look like one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    // A mail system on its way may have removed the return path of a person's answer.
    if answer::is_absence(mail) && !is_from_daemon(mail) && !has_failed_recipients(mail) {
        return None;
    }
    let words = words(mail);
    let report = format!(
        "{}\n{}\n{words}",
        mail.header("From").unwrap_or_default(),
        mail.subject()
    )
    .to_lowercase();
    let dialect = dialect_of(&report);
    if dialect.is_any() && !is_report(mail) {
        return None;
    }
    let action = if DELAYED.iter().any(|words| report.contains(words)) {
        Action::Delayed
    } else {
        Action::Failed
    };
    let mut blocks = blocks(dialect, &words);
    // The words of a known mail system would give a reason. Unknown words may be one.
    let named_in_words = if dialect.is_any() { 0 } else { blocks.len() };
    let failed = mail.header("X-Failed-Recipients").unwrap_or_default();
    for address in failed
        .split(',')
        .take(MAX_RECIPIENTS)
        .map(|address| address.trim().trim_matches(['<', '>']))
    {
        let room = blocks.len() < MAX_RECIPIENTS && address.len() <= MAX_NAME;
        if room
            && address.contains('@')
            && !blocks
                .iter()
                .any(|block| block.address.eq_ignore_ascii_case(address))
        {
            blocks.push(Block {
                address: address.to_owned(),
                text: String::new(),
            });
        }
    }
    let whole = format!("{}\n{words}", own_subject(mail));
    if blocks.is_empty() {
        // A person's answer to a report may quote its sentence, so only a mail system's own report
        // counts.
        let is_own_report = is_from_daemon(mail) || has_null_path(mail);
        let address = sentence::recipient(mail, &words).filter(|_| is_own_report);
        let recipient = with_reply(Recipient::named(address), action, &whole);
        return Some(Report::about(vec![recipient]));
    }
    if let Some(shared) = shared(dialect, &words, &blocks) {
        let recipients = blocks
            .into_iter()
            .map(|block| with_reply(Recipient::named(Some(&block.address)), action, shared));
        return Some(Report::about(recipients.collect()));
    }
    let mut recipients: Vec<Recipient> = Vec::new();
    let mut next = whole;
    let mut is_explained = false;
    // From the last to the first, because the text about a list of recipients follows after the
    // last of them.
    for (n, block) in blocks.into_iter().enumerate().rev() {
        if !block.text.trim().is_empty() {
            is_explained |= block.text.contains(char::is_alphabetic);
            next = block.text;
        }
        let recipient = Recipient::named(Some(&block.address));
        let mut recipient = with_reply(recipient, action, &next);
        if !is_explained && action == Action::Failed && n < named_in_words {
            note_no_reason(&mut recipient.reply);
        }
        recipients.push(recipient);
    }
    recipients.reverse();
    Some(Report::about(recipients))
}

/// One recipient with the text about it.
struct Block {
    address: String,
    text: String,
}

/// Returns the recipients that the words name, each with the lines up to the next recipient.
fn blocks(dialect: &Dialect, words: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = dialect.opens("");
    for line in words.lines() {
        let line = cut(line, MAX_LINE);
        let opens_now = !open && dialect.opens(&line.to_lowercase());
        open |= opens_now;
        if open && let Some((address, text)) = dialect.recipient(line) {
            let known = blocks
                .iter()
                .position(|block| block.address.eq_ignore_ascii_case(address));
            match known {
                None if address.len() <= MAX_NAME && blocks.len() < MAX_BLOCKS => {
                    blocks.push(Block {
                        address: address.to_owned(),
                        text: format!("{text}\n"),
                    });
                    continue;
                }
                // The address is named again. If it is the last recipient so far, the line becomes
                // part of its text below. If it is an earlier recipient, the line belongs to that.
                Some(at) if at + 1 < blocks.len() => {
                    blocks[at].push(line);
                    continue;
                }
                _ => {}
            }
        }
        if let Some(last) = blocks.last_mut() {
            last.push(line);
        }
    }
    blocks
}

impl Block {
    fn push(&mut self, line: &str) {
        if self.text.len() < MAX_DIAGNOSTIC {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }
}

/// Returns the text about all recipients before the first of them, if the dialect puts it there.
fn shared<'w>(dialect: &Dialect, words: &'w str, blocks: &[Block]) -> Option<&'w str> {
    let first = blocks.first().filter(|_| dialect.before)?;
    words.split(first.address.as_str()).next()
}

/// Returns what the words contain about an address. If they do not name it, returns what they
/// contain about all recipients.
pub(crate) fn about(words: &str, mail: &Mail<'_>, address: &str) -> (Reply, String) {
    let report = format!(
        "{}\n{}\n{words}",
        mail.header("From").unwrap_or_default(),
        mail.subject()
    )
    .to_lowercase();
    let dialect = dialect_of(&report);
    let blocks = blocks(dialect, words);
    let own = blocks
        .iter()
        .find(|block| block.address.eq_ignore_ascii_case(address) && !block.text.trim().is_empty());
    let recipient = with_reply(
        Recipient::named(None),
        Action::Failed,
        own.map_or(words, |block| &block.text),
    );
    // The whole text is kept: a program on the way may write its words first, and only then the
    // code that it made from them.
    let text = cut(&recipient.diagnostic, MAX_TEXT).to_owned();
    let reply = Reply {
        text,
        ..recipient.reply
    };
    (reply, recipient.diagnostic)
}

/// Returns the recipient with the reply that `text` quotes. If it quotes none, the reply is the
/// text.
fn with_reply(recipient: Recipient, action: Action, text: &str) -> Recipient {
    let text = &without_repeated(cut(text, MAX_DIAGNOSTIC));
    let mut at = 0;
    let quoted = text.split_inclusive('\n').find_map(|line| {
        let start = at;
        at += line.len();
        Reply::parse(line.trim_end())
            .code
            .is_some_and(|code| code >= 400)
            .then_some(start)
    });
    let mut reply = Reply::parse(paragraph(&text[quoted.unwrap_or(0)..]));
    if reply.status.is_none() && reply.code.is_none() {
        reply.status = Reply::parse(text).status;
    }
    let diagnostic = on_one_line(text, MAX_DIAGNOSTIC);
    if reply.code.is_none() || reply.text.is_empty() {
        reply.text = cut(&diagnostic, MAX_TEXT).to_owned();
    }
    stage::note(&mut reply, text);
    if action == Action::Failed {
        reply = without_success(reply);
    }
    Recipient {
        action: Some(action),
        reply,
        diagnostic,
        ..recipient
    }
}

/// Appends [`NO_REASON`] to a reply that has neither code nor status. The words of the report are
/// kept, because they may contain a reason before they name the address.
fn note_no_reason(reply: &mut Reply) {
    if reply.code.is_none() && reply.status.is_none() {
        let text = cut(&reply.text, MAX_TEXT - NO_REASON.len());
        reply.text = format!("{text}{NO_REASON}").trim_start().to_owned();
    }
}

/// Returns the text without lines that repeat header fields of the returned mail.
fn without_repeated(text: &str) -> String {
    let repeats = |line: &&str| {
        REPEATED
            .iter()
            .any(|field| begins_with(line.trim_start(), field))
    };
    text.split_inclusive('\n')
        .filter(|line| !repeats(line))
        .collect()
}

/// Returns the report's own words in the subject: those before a colon or a quotation mark, after
/// which the subject of the returned mail follows.
fn own_subject<'m>(mail: &'m Mail<'_>) -> &'m str {
    mail.subject()
        .split([':', '：', '"', '“', '«'])
        .next()
        .unwrap_or_default()
}

/// Returns the text up to its first blank line.
fn paragraph(text: &str) -> &str {
    let text = text.trim_start();
    text.split("\n\n").next().unwrap_or(text)
}

/// Whether the header fields alone show that the message is a report.
fn is_report(mail: &Mail<'_>) -> bool {
    let subject = mail.subject().to_lowercase();
    has_failed_recipients(mail)
        || is_from_daemon(mail)
        || SUBJECTS.iter().any(|words| subject.contains(words))
        || (has_null_path(mail)
            && mail.header("Auto-Submitted").is_none()
            && subject.contains("mail"))
}

fn has_failed_recipients(mail: &Mail<'_>) -> bool {
    mail.header("X-Failed-Recipients").is_some()
}

fn has_null_path(mail: &Mail<'_>) -> bool {
    mail.header("Return-Path")
        .is_some_and(|path| path.trim() == "<>")
}

fn is_from_daemon(mail: &Mail<'_>) -> bool {
    let from = mail.header("From").unwrap_or_default().to_lowercase();
    let is_daemon = answer::sender(mail)
        .map_or(from.clone(), |sender| sender.to_lowercase())
        .split('@')
        .next()
        .is_some_and(|local| DAEMONS.iter().any(|daemon| local.contains(daemon)));
    let names = [
        "mail delivery",
        "mailer-daemon",
        "mail administrator",
        "system administrator",
    ];
    is_daemon || names.iter().any(|name| from.contains(name))
}

/// Returns the message's own text: everything before the mail that it returns.
pub(crate) fn words(mail: &Mail<'_>) -> String {
    let mut words = String::new();
    for part in mail.texts() {
        let (part, original) = split_at_original(part);
        words.push_str(cut(part, MAX_WORDS.saturating_sub(words.len())));
        words.push('\n');
        if original.is_some() || words.len() >= MAX_WORDS {
            break;
        }
    }
    words
}

/// Splits a text into its own words and the returned mail after them, if any.
pub(crate) fn split_at_original(text: &str) -> (&str, Option<&str>) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = cut(line, 160).trim_start().to_lowercase();
        if [
            "received:",
            "return-path:",
            "x-received:",
            "dkim-signature:",
        ]
        .iter()
        .any(|field| start.starts_with(field))
        {
            return (&text[..at], Some(&text[at..]));
        }
        if ORIGINAL.iter().any(|words| start.contains(words)) {
            return (&text[..at], Some(&text[at + line.len()..]));
        }
        at += line.len();
    }
    (text, None)
}
