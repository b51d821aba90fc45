//! A transcript of one attempt on the wire: which host it talked to, how far it got, and how long
//! each phase took. Events and traces carry it next to the reply. It names hosts, never a mail
//! address.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A phase of an SMTP conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Finding out which hosts take the mail.
    Lookup,
    /// Waiting for a connection that is free or may be opened.
    Wait,
    /// Opening the TCP connection.
    Connect,
    /// The server's greeting.
    Greeting,
    /// EHLO, or HELO.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, and sending the content.
    Data,
    /// The reply to the final dot.
    Dot,
}

/// What happened on the wire during one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript {
    /// The last phase that was started.
    pub phase: Phase,
    /// The peer's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The peer's IP address and port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The peer's port, also if no connection was made; 0 if no host was found. Events do not carry
    /// it.
    #[serde(skip)]
    pub port: u16,
    /// The version of TLS; absent if the conversation was not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Whether the connection had carried an earlier message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reused: bool,
    /// Whether the message was sent whole and no reply came. It is then unknown whether the peer
    /// has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// The phases in the order in which they began, each with its duration in milliseconds. A phase
    /// that ran more than once, for example on two hosts, is listed once with the sum. Only lookups
    /// and waits between the hosts are listed each time, because their place shows what they
    /// delayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took_ms: Vec<(Phase, u64)>,
}

impl Phase {
    /// Returns the word used in events and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Wait => "wait",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Dot => "dot",
        }
    }

    /// Whether this is part of the conversation with a host, and not of finding one or waiting for
    /// a connection.
    pub const fn is_conversation(self) -> bool {
        !matches!(self, Self::Lookup | Self::Wait)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Default for Transcript {
    /// Nothing has started except the lookup of the hosts.
    fn default() -> Self {
        Self {
            phase: Phase::Lookup,
            host: String::new(),
            address: String::new(),
            port: 0,
            tls: None,
            reused: false,
            unknown: false,
            took_ms: Vec::new(),
        }
    }
}

impl Transcript {
    /// The largest number of phases in one transcript. It is enough for several hosts; later phases
    /// are not recorded.
    pub const PHASES_MAX: usize = 64;

    /// Records the duration of a phase.
    pub fn took(&mut self, phase: Phase, span: Duration) {
        self.add(phase, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    }

    /// Adds phases that were recorded elsewhere, for example while the session was opened.
    pub fn add_phases(&mut self, earlier: &[(Phase, u64)]) {
        for (phase, ms) in earlier {
            self.add(*phase, *ms);
        }
    }

    fn add(&mut self, phase: Phase, ms: u64) {
        let has_room = self.took_ms.len() < Self::PHASES_MAX;
        let mut listed = self.took_ms.iter_mut();
        let known = listed.find(|(known, _)| *known == phase && phase.is_conversation());
        match known {
            Some((_, sum)) => *sum = sum.saturating_add(ms),
            None if has_room => self.took_ms.push((phase, ms)),
            None => {}
        }
    }

    /// Returns each phase once, with its whole duration in milliseconds.
    pub fn sums(&self) -> Vec<(Phase, u64)> {
        let mut sums: Vec<(Phase, u64)> = Vec::with_capacity(self.took_ms.len());
        for (phase, ms) in &self.took_ms {
            match sums.iter_mut().find(|(known, _)| known == phase) {
                Some((_, sum)) => *sum = sum.saturating_add(*ms),
                None => sums.push((*phase, *ms)),
            }
        }
        sums
    }

    /// Returns the total duration of all phases.
    pub fn whole_ms(&self) -> u64 {
        self.took_ms
            .iter()
            .fold(0, |sum, (_, ms)| sum.saturating_add(*ms))
    }

    /// Returns how long the message waited for a connection that was free or could be opened, in
    /// whole milliseconds.
    pub fn waited(&self) -> Duration {
        let waits = self.took_ms.iter();
        let waits = waits.filter(|(phase, _)| *phase == Phase::Wait);
        Duration::from_millis(waits.fold(0, |sum, (_, ms)| sum.saturating_add(*ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_short_json_and_is_read_back() {
        let mut transcript = Transcript {
            host: "mx1.example.com".to_owned(),
            ..Transcript::default()
        };
        for phase in [Phase::Connect, Phase::Mail] {
            transcript.phase = phase;
            transcript.took(phase, Duration::from_millis(12));
        }
        let json = serde_json::to_string(&transcript).unwrap();
        assert_eq!(
            json,
            r#"{"phase":"mail","host":"mx1.example.com","took_ms":[["connect",12],["mail",12]]}"#
        );
        assert_eq!(
            serde_json::from_str::<Transcript>(&json).unwrap(),
            transcript
        );
        assert_eq!(transcript.whole_ms(), 24);
    }

    #[test]
    fn the_wait_for_a_connection_is_the_sum_of_its_phases() {
        let took_ms = vec![
            (Phase::Lookup, 1),
            (Phase::Wait, 20),
            (Phase::Connect, 300),
            (Phase::Wait, 4_000),
        ];
        let transcript = Transcript {
            took_ms,
            ..Transcript::default()
        };
        assert_eq!(transcript.waited(), Duration::from_millis(4_020));
    }

    #[test]
    fn the_number_of_phases_in_a_transcript_is_bounded() {
        let mut transcript = Transcript::default();
        for _ in 0..1_000 {
            transcript.took(Phase::Wait, Duration::ZERO);
        }
        assert_eq!(transcript.took_ms.len(), Transcript::PHASES_MAX);
    }

    #[test]
    fn a_phase_of_the_conversation_that_ran_twice_is_listed_once() {
        let mut transcript = Transcript::default();
        let ran = [
            (Phase::Wait, 20),
            (Phase::Mail, 1),
            (Phase::Mail, 2),
            (Phase::Rcpt, 3),
            (Phase::Wait, 30),
            (Phase::Mail, 4),
        ];
        for (phase, ms) in ran {
            transcript.took(phase, Duration::from_millis(ms));
        }
        let listed = [
            (Phase::Wait, 20),
            (Phase::Mail, 7),
            (Phase::Rcpt, 3),
            (Phase::Wait, 30),
        ];
        assert_eq!(transcript.took_ms, listed);
        let sums = [(Phase::Wait, 50), (Phase::Mail, 7), (Phase::Rcpt, 3)];
        assert_eq!(transcript.sums(), sums);
        assert_eq!(transcript.whole_ms(), 60);
    }
}
