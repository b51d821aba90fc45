//! What a reply answered: the sender, the recipient or the content. Mail systems say so around the
//! reply that they quote, and it is a part of what the reply means: an unknown name in answer to
//! the sender is none of the recipient's.

use super::{MAX_TEXT, Reply, cut};

/// What was refused, in a conversation of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The sender: `MAIL FROM`.
    Mail,
    /// The recipient: `RCPT TO`.
    Rcpt,
    /// The content, by what follows its final dot.
    Content,
}

impl Reply {
    /// The same reply, with what it answered behind its text, as Postfix has it. The sender is
    /// noted even where the reply says nothing, or quotes what another system was told. What a
    /// status of an address says to the content stays as it is: it says itself that it was no
    /// content (RFC 3463, section 3.2).
    #[must_use]
    pub fn in_reply_to(mut self, stage: Stage) -> Self {
        let has_note = self.text.contains("in reply to");
        match stage {
            Stage::Mail => self.append(MAIL.0),
            Stage::Rcpt if !has_note => self.append(RCPT.0),
            Stage::Content if !has_note && !self.is_of_address() => self.append(DATA.0),
            Stage::Rcpt | Stage::Content => {}
        }
        self
    }

    /// What the reply answered, where its text notes it. The sender goes before what another system
    /// was told.
    pub fn answers(&self) -> Option<Stage> {
        // Nearly no reply has a note, and each reply is asked.
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

    /// Whether the status is of an address.
    fn is_of_address(&self) -> bool {
        self.status.is_some_and(|status| status.subject() == 1)
    }
}

/// What notes look like, in lower case.
const NOTES: [(Stage, &str); 4] = [
    (Stage::Mail, "in reply to mail from"),
    (Stage::Content, "in reply to end of data"),
    (Stage::Content, "in reply to the end of data"),
    (Stage::Rcpt, "in reply to rcpt to"),
];

/// How Postfix says of its own replies that it was the content that was refused, and what says so
/// elsewhere, in lower case.
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

/// Notes in a reply what it answered, where what was said around it tells, and the reply does not.
/// Where it was the content, the recipient had been accepted before, and "unknown" is a filter's
/// word.
pub fn note(reply: &mut Reply, said: &str) {
    if reply.text.is_empty() || reply.text.contains("in reply to") {
        return;
    }
    let said = said.to_lowercase();
    // Where commands are sent ahead, the answer to a recipient can stand behind DATA; the server
    // then misses recipients.
    if said.contains("need rcpt") || said.contains("no valid recipients") {
        return;
    }
    let told = |(_, words): &(&str, &[&str])| words.iter().any(|words| said.contains(words));
    // A status of an address says itself that it was no content.
    let stages = [DATA, RCPT]
        .into_iter()
        .filter(|_| !reply.is_of_address())
        .chain([MAIL]);
    if let Some((stage, _)) = stages.into_iter().find(told) {
        reply.append(stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_read_from_the_words_around() {
        for (raw, said, stage) in [
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
            note(&mut reply, said);
            let stages = ["MAIL FROM", "RCPT TO", "end of DATA"];
            let noted = stages
                .into_iter()
                .find(|stage| reply.text.contains(stage))
                .unwrap_or_default();
            assert_eq!(noted, stage, "{raw} | {said}");
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
    }

    #[test]
    fn a_reply_of_our_own_conversation_tells_what_it_answered() {
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
