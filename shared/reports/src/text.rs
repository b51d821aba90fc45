//! Reports in the words of mail systems that do not write RFC 3464. Which words mean what is in
//! `dialects.toml`; here is how they are read: the text up to the mail that it returns, line by
//! line, each recipient with what is said about it.

use domain::reply::{MAX_TEXT, Reply, stage};

use crate::answer;
use crate::bounded::{begins_with, cut, on_one_line};
use crate::bounds::{MAX_DIAGNOSTIC, MAX_NAME, MAX_RECIPIENTS};
use crate::dialect::{Dialect, spoken};
use crate::mime::Mail;
use crate::report::{Action, Recipient, Report, without_success};
use crate::sentence::{self, DAEMONS};

/// How much of the words of a report is read, in bytes. The longest are those of people's languages
/// in several parts.
const MAX_WORDS: usize = 64 * 1024;

/// How many recipients are looked for in words.
const MAX_BLOCKS: usize = 64;

/// The longest line that is looked at, in bytes.
const MAX_LINE: usize = 2 * 1024;

/// Lines that say that what follows is the mail that is returned, in lower case.
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

/// Fields of the returned mail that reports repeat among their words, in lower case. What they say
/// is the sender's.
const REPEATED: [&str; 5] = ["subject:", "date:", "sent:", "from:", "message-id:"];

/// What says that the mail is still being tried, in lower case.
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

/// What subjects of reports say, in lower case.
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

/// Reads such a report; `None` where the message does not look like one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let words = words(mail);
    let said = format!(
        "{}\n{}\n{words}",
        mail.header("From").unwrap_or_default(),
        mail.subject()
    )
    .to_lowercase();
    let dialect = spoken(&said);
    if dialect.is_any() && !is_report(mail) {
        return None;
    }
    let action = if DELAYED.iter().any(|words| said.contains(words)) {
        Action::Delayed
    } else {
        Action::Failed
    };
    let mut blocks = blocks(dialect, &words);
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
                said: String::new(),
            });
        }
    }
    let whole = format!("{}\n{words}", own_subject(mail));
    if blocks.is_empty() {
        // Who answers a report may quote its sentence.
        let is_its_own = is_from_daemon(mail) || has_null_path(mail);
        let recipient = Recipient::named(sentence::recipient(mail, &words).filter(|_| is_its_own));
        return Some(Report::about(vec![told(recipient, action, &whole)]));
    }
    if let Some(shared) = shared(dialect, &words, &blocks) {
        let of = |block: Block| told(Recipient::named(Some(&block.address)), action, shared);
        return Some(Report::about(blocks.into_iter().map(of).collect()));
    }
    let mut recipients: Vec<Recipient> = Vec::new();
    let mut next = whole;
    // From the end, because a list of recipients is followed by what was said about all of them.
    for block in blocks.into_iter().rev() {
        if !block.said.trim().is_empty() {
            next = block.said;
        }
        recipients.push(told(Recipient::named(Some(&block.address)), action, &next));
    }
    recipients.reverse();
    Some(Report::about(recipients))
}

/// What is said about one recipient.
struct Block {
    address: String,
    said: String,
}

/// The recipients that the words name, each with the lines up to the next one.
fn blocks(dialect: &Dialect, words: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = dialect.opens("");
    for line in words.lines() {
        let line = cut(line, MAX_LINE);
        let opens_now = !open && dialect.opens(&line.to_lowercase());
        open |= opens_now;
        if open && let Some((address, said)) = dialect.recipient(line) {
            let known = blocks
                .iter()
                .position(|block| block.address.eq_ignore_ascii_case(address));
            match known {
                None if address.len() <= MAX_NAME && blocks.len() < MAX_BLOCKS => {
                    blocks.push(Block {
                        address: address.to_owned(),
                        said: format!("{said}\n"),
                    });
                    continue;
                }
                // It is named once more: that is part of what is said about it, or, said of an
                // earlier one, its own line.
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
        if self.said.len() < MAX_DIAGNOSTIC {
            self.said.push_str(line);
            self.said.push('\n');
        }
    }
}

/// What was said about all recipients before the first of them is named, where this dialect does
/// so.
fn shared<'w>(dialect: &Dialect, words: &'w str, blocks: &[Block]) -> Option<&'w str> {
    let first = blocks.first().filter(|_| dialect.before)?;
    words.split(first.address.as_str()).next()
}

/// What the words say about an address, or, where they do not name it, about all.
pub(crate) fn about(words: &str, mail: &Mail<'_>, address: &str) -> (Reply, String) {
    let said = format!(
        "{}\n{}\n{words}",
        mail.header("From").unwrap_or_default(),
        mail.subject()
    )
    .to_lowercase();
    let dialect = spoken(&said);
    let blocks = blocks(dialect, words);
    let own = blocks
        .iter()
        .find(|block| block.address.eq_ignore_ascii_case(address) && !block.said.trim().is_empty());
    let told = told(
        Recipient::named(None),
        Action::Failed,
        own.map_or(words, |block| &block.said),
    );
    // What a program on the way said stands before the code that was made of it.
    let text = cut(&told.diagnostic, MAX_TEXT).to_owned();
    (Reply { text, ..told.reply }, told.diagnostic)
}

/// A recipient with the reply that was quoted, or else all the words as its text.
fn told(recipient: Recipient, action: Action, said: &str) -> Recipient {
    let said = &without_repeated(cut(said, MAX_DIAGNOSTIC));
    let mut at = 0;
    let quoted = said.split_inclusive('\n').find_map(|line| {
        let start = at;
        at += line.len();
        Reply::parse(line.trim_end())
            .code
            .is_some_and(|code| code >= 400)
            .then_some(start)
    });
    let mut reply = Reply::parse(paragraph(&said[quoted.unwrap_or(0)..]));
    if reply.status.is_none() && reply.code.is_none() {
        reply.status = Reply::parse(said).status;
    }
    let diagnostic = on_one_line(said, MAX_DIAGNOSTIC);
    if reply.code.is_none() || reply.text.is_empty() {
        reply.text = cut(&diagnostic, MAX_TEXT).to_owned();
    }
    stage::note(&mut reply, said);
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

/// What is said, without the lines that repeat fields of the returned mail.
fn without_repeated(said: &str) -> String {
    let repeats = |line: &&str| {
        REPEATED
            .iter()
            .any(|field| begins_with(line.trim_start(), field))
    };
    said.split_inclusive('\n')
        .filter(|line| !repeats(line))
        .collect()
}

/// What the subject says itself. Behind a colon, or within quotes, is the subject of the mail that
/// is returned.
fn own_subject<'m>(mail: &'m Mail<'_>) -> &'m str {
    mail.subject()
        .split([':', '：', '"', '“', '«'])
        .next()
        .unwrap_or_default()
}

/// The text up to its first blank line.
fn paragraph(text: &str) -> &str {
    let text = text.trim_start();
    text.split("\n\n").next().unwrap_or(text)
}

/// Whether header fields alone say that the message is a report.
fn is_report(mail: &Mail<'_>) -> bool {
    let subject = mail.subject().to_lowercase();
    mail.header("X-Failed-Recipients").is_some()
        || is_from_daemon(mail)
        || SUBJECTS.iter().any(|words| subject.contains(words))
        || (has_null_path(mail)
            && mail.header("Auto-Submitted").is_none()
            && subject.contains("mail"))
}

fn has_null_path(mail: &Mail<'_>) -> bool {
    mail.header("Return-Path")
        .is_some_and(|path| path.trim() == "<>")
}

fn is_from_daemon(mail: &Mail<'_>) -> bool {
    let from = mail.header("From").unwrap_or_default().to_lowercase();
    let daemon = answer::sender(mail)
        .map_or(from.clone(), |sender| sender.to_lowercase())
        .split('@')
        .next()
        .is_some_and(|local| DAEMONS.iter().any(|daemon| local.contains(daemon)));
    let named = [
        "mail delivery",
        "mailer-daemon",
        "mail administrator",
        "system administrator",
    ];
    daemon || named.iter().any(|name| from.contains(name))
}

/// The words of a message up to the mail that it returns.
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

/// A text's own words, and the mail that follows them.
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
