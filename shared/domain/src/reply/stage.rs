//! The stage that a reply answered: the connection, the sender, the recipient or the content. Mail
//! systems write it next to the reply that they quote. It is part of the reply's meaning: "unknown"
//! in answer to the sender is not about the recipient.

use super::{MAX_TEXT, Reply, cut};

/// A stage of an SMTP conversation that a reply can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection itself, before any message: the greeting, `EHLO`, `STARTTLS` or `AUTH`.
    Session,
    /// The sender: `MAIL FROM`.
    Mail,
    /// The recipient: `RCPT TO`.
    Rcpt,
    /// The content: the reply to its final dot.
    Content,
}

impl Stage {
    /// Returns the stage of an SMTP command, such as `MAIL FROM:<jo@example.com>`, or `.` for the
    /// end of the content. `None` if it is the stage of none, or is not known.
    pub fn of_command(command: &str) -> Option<Self> {
        let command = command.trim();
        let word = command
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match word.as_str() {
            "EHLO" | "HELO" | "LHLO" | "STARTTLS" | "AUTH" => Some(Self::Session),
            "MAIL" | "SEND" | "SOML" | "SAML" => Some(Self::Mail),
            "RCPT" => Some(Self::Rcpt),
            "BDAT" => Some(Self::Content),
            _ => (command == ".").then_some(Self::Content),
        }
    }
}

impl Reply {
    /// Returns the same reply with the stage appended to its text, in Postfix's form.
    ///
    /// The sender is always appended, even to an empty text, or to a text that already quotes a
    /// stage from another system. For the content, a reply whose status is about an address stays
    /// unchanged: that status already means that the content was not the cause (RFC 3463, section
    /// 3.2).
    #[must_use]
    pub fn in_reply_to(mut self, stage: Stage) -> Self {
        let has_note = self.text.contains("in reply to");
        match stage {
            Stage::Session if !has_note => self.append(SESSION.0),
            Stage::Mail => self.append(MAIL.0),
            Stage::Rcpt if !has_note => self.append(RCPT.0),
            Stage::Content if !has_note && !self.has_address_status() => self.append(DATA.0),
            Stage::Session | Stage::Rcpt | Stage::Content => {}
        }
        self
    }

    /// Returns the stage that the reply answered, if its text names one. If it names several, the
    /// sender has priority.
    pub fn stage(&self) -> Option<Stage> {
        // Fast check: this runs for every reply, and nearly none names a stage.
        if !self.text.contains("n reply to ") {
            return None;
        }
        let text = self.text.to_ascii_lowercase();
        let noted = |(_, words): &(Stage, &str)| text.contains(words);
        NOTES.into_iter().find(noted).map(|(stage, _)| stage)
    }

    fn append(&mut self, stage: &str) {
        let text = format!("{}{stage}", cut(&self.text, MAX_TEXT - stage.len()));
        self.text = text.trim_start().to_owned();
    }

    /// Whether the status is about an address.
    fn has_address_status(&self) -> bool {
        self.status.is_some_and(|status| status.subject() == 1)
    }
}

/// The longest note of a stage at the end of a reply, in bytes.
const NOTE_MAX: usize = 64;

/// How replies name a stage, in lower case.
const NOTES: [(Stage, &str); 10] = [
    (Stage::Mail, "in reply to mail from"),
    (Stage::Session, "in reply to the connection"),
    (Stage::Session, "in reply to ehlo"),
    (Stage::Session, "in reply to helo"),
    (Stage::Session, "in reply to lhlo"),
    (Stage::Session, "in reply to starttls"),
    (Stage::Session, "in reply to auth"),
    (Stage::Content, "in reply to end of data"),
    (Stage::Content, "in reply to the end of data"),
    (Stage::Rcpt, "in reply to rcpt to"),
];

/// The note that the connection was refused, and the words of other mail systems for the same, in
/// lower case.
const SESSION: (&str, &[&str]) = (
    " (in reply to the connection)",
    &["refused to talk to me", "after initial connection"],
);

/// Postfix's note that the content was refused, and the words of other mail systems for the same,
/// in lower case.
const DATA: (&str, &[&str]) = (
    " (in reply to end of DATA command)",
    &[
        "in reply to end of data command",
        ">>> data",
        "-------smtp command\ndata",
        "after end of data",
        "after i sent the message",
        "our final data",
        "for text command",
    ],
);

/// The same for the recipient.
const RCPT: (&str, &[&str]) = (
    " (in reply to RCPT TO command)",
    &[
        "after rcpt",
        "for rcpt command",
        "in reply to rcpt to",
        "does not like recipient",
    ],
);

/// The same for the sender.
const MAIL: (&str, &[&str]) = (
    " (in reply to MAIL FROM command)",
    &[
        "after mail from",
        "for mail command",
        "in reply to mail from",
        "but sender was rejected",
    ],
);

/// Appends the stage to a reply if the text around it (`context`) names one and the reply itself
/// does not. This matters: if the content was refused, the recipient had been accepted before, so
/// "unknown" then comes from a content filter.
pub fn note(reply: &mut Reply, context: &str) {
    if reply.text.is_empty() || reply.text.contains("in reply to") {
        return;
    }
    let context = context.to_lowercase();
    // With pipelining, the answer to a recipient can come after DATA in the quoted text. The server
    // then complains that recipients are missing, so the stage is unclear.
    if context.contains("need rcpt") || context.contains("no valid recipients") {
        return;
    }
    let is_named = |(_, words): &(&str, &[&str])| words.iter().any(|words| context.contains(words));
    // A status about an address already means that the content was not the cause.
    let stages = [DATA, RCPT]
        .into_iter()
        .filter(|_| !reply.has_address_status())
        .chain([MAIL, SESSION]);
    if let Some((stage, _)) = stages.into_iter().find(is_named) {
        reply.append(stage);
    }
}

/// Appends the stage that the end of `rest` names, if the reply's text was cut before it.
pub(super) fn note_at_end(reply: &mut Reply, rest: &str) {
    if reply.text.contains("in reply to") {
        return;
    }
    let from = rest.len().saturating_sub(NOTE_MAX);
    let from = (from..=rest.len()).find(|at| rest.is_char_boundary(*at));
    let end = Reply {
        text: rest[from.unwrap_or(rest.len())..].to_owned(),
        ..Reply::default()
    };
    if let Some(stage) = end.stage() {
        *reply = std::mem::take(reply).in_reply_to(stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_stage_is_read_from_the_text_around_the_reply() {
        for (raw, context, stage) in [
            (
                "550 nobody",
                "error after RCPT TO:<jo@example.com>",
                "RCPT TO",
            ),
            ("550 nobody", "error after end of data", "end of DATA"),
            ("550 nobody", ">>> DATA\n<<< 503 need RCPT", ""),
            (
                "550 nobody",
                "error after MAIL FROM:<al@example.com>",
                "MAIL FROM",
            ),
            (
                "553 5.1.0 nobody",
                "error after MAIL FROM:<al@example.com>",
                "MAIL FROM",
            ),
            ("553 5.1.1 nobody", "error after end of data", ""),
            (
                "550 nobody (in reply to RCPT TO command)",
                "error after end of data",
                "RCPT TO",
            ),
            ("550", "error after end of data", ""),
            (
                "550 nobody",
                "192.0.2.1 does not like recipient.\nRemote host said: 550 nobody",
                "RCPT TO",
            ),
            (
                "550 nobody",
                "Connected to 192.0.2.1 but sender was rejected.",
                "MAIL FROM",
            ),
        ] {
            let mut reply = Reply::parse(raw);
            note(&mut reply, context);
            let stages = ["MAIL FROM", "RCPT TO", "end of DATA"];
            let noted = stages
                .into_iter()
                .find(|stage| reply.text.contains(stage))
                .unwrap_or_default();
            assert_eq!(noted, stage, "{raw} | {context}");
        }
        let mut long = Reply {
            text: "x".repeat(MAX_TEXT),
            ..Reply::parse("550 x")
        };
        note(&mut long, "after end of data");
        assert_eq!(
            (long.text.len(), long.text.ends_with("command)")),
            (MAX_TEXT, true)
        );
        let long = Reply::parse(&format!(
            "550 {} (in reply to MAIL FROM command)",
            "é".repeat(MAX_TEXT)
        ));
        assert_eq!(
            (long.stage(), long.text.len()),
            (Some(Stage::Mail), MAX_TEXT)
        );
    }

    #[test]
    fn a_command_has_the_stage_that_it_begins() {
        for (command, stage) in [
            ("MAIL FROM:<news@shop.example>\r\n", Some(Stage::Mail)),
            ("mail from", Some(Stage::Mail)),
            ("RCPT TO:<jo@example.com>", Some(Stage::Rcpt)),
            (".\r\n", Some(Stage::Content)),
            ("BDAT 17 LAST", Some(Stage::Content)),
            ("EHLO out1.example.org", Some(Stage::Session)),
            ("AUTH PLAIN", Some(Stage::Session)),
            ("DATA", None),
            ("RSET", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(Stage::of_command(command), stage, "{command:?}");
        }
    }

    #[test]
    fn a_reply_of_our_own_conversation_names_the_stage_that_it_answered() {
        for (raw, stage, noted) in [
            (
                "550 nobody",
                Stage::Mail,
                "550 nobody (in reply to MAIL FROM command)",
            ),
            (
                "550 5.1.1",
                Stage::Mail,
                "550 5.1.1 (in reply to MAIL FROM command)",
            ),
            (
                "550 nobody",
                Stage::Rcpt,
                "550 nobody (in reply to RCPT TO command)",
            ),
            (
                "550 no (in reply to end of DATA command)",
                Stage::Rcpt,
                "550 no (in reply to end of DATA command)",
            ),
            (
                "550 nobody",
                Stage::Content,
                "550 nobody (in reply to end of DATA command)",
            ),
            ("550 5.1.1 nobody", Stage::Content, "550 5.1.1 nobody"),
        ] {
            let reply = Reply::parse(raw).in_reply_to(stage);
            assert_eq!(reply.to_string(), noted);
            assert_eq!(Reply::parse(noted), reply);
        }
    }
}
