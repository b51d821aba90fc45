//! Records how far an attempt gets and how long each phase takes.

use std::time::{Duration, Instant};

use domain::transcript::{Phase, Transcript};

/// A transcript that is being recorded.
#[derive(Debug, Default)]
pub(crate) struct TranscriptRecorder {
    transcript: Transcript,
    running: Option<(Phase, Instant)>,
}

impl TranscriptRecorder {
    /// Begins a phase, and ends the current one.
    pub(crate) fn begin(&mut self, phase: Phase) {
        self.end();
        self.transcript.phase = phase;
        self.running = Some((phase, Instant::now()));
    }

    /// Ends the current phase.
    pub(crate) fn end(&mut self) {
        if let Some((phase, since)) = self.running.take() {
            self.transcript.took(phase, since.elapsed());
        }
    }

    /// Sets the peer of the conversation.
    pub(crate) fn set_peer(&mut self, host: &str, address: &str) {
        host.clone_into(&mut self.transcript.host);
        address.clone_into(&mut self.transcript.address);
        (self.transcript.tls, self.transcript.reused) = (None, false);
    }

    /// Sets the port of the peer.
    pub(crate) fn set_port(&mut self, port: u16) {
        self.transcript.port = port;
    }

    /// Sets the TLS version of the connection.
    pub(crate) fn set_tls(&mut self, version: &str) {
        self.transcript.tls = Some(version.to_owned());
    }

    /// Continues on a connection that an earlier attempt has used already.
    pub(crate) fn reuse(&mut self, host: &str, address: &str, tls: Option<&str>) {
        self.note_wait(Duration::ZERO);
        self.end();
        self.set_peer(host, address);
        self.transcript.tls = tls.map(str::to_owned);
        self.transcript.reused = true;
    }

    /// Continues after a session was opened, whose transcript is `opening`. It replaces the current
    /// phase, in which this attempt waited for the session.
    pub(crate) fn continue_after(&mut self, opening: Transcript) {
        self.note_wait(Duration::from_millis(opening.whole_ms()));
        self.running = None;
        let mut took = std::mem::take(&mut self.transcript.took_ms);
        took.extend_from_slice(&opening.took_ms);
        took.truncate(Transcript::PHASES_MAX);
        self.transcript = Transcript {
            took_ms: took,
            waited: self.transcript.waited,
            ..opening
        };
    }

    /// Records that the current phase was a wait for a connection, except for the time in which one
    /// was opened.
    pub(crate) fn note_wait(&mut self, opening: Duration) {
        if let Some((_, since)) = self.running {
            self.transcript.waited += since.elapsed().saturating_sub(opening);
        }
    }

    /// Marks the message as in doubt: it is unknown whether the peer has it.
    pub(crate) fn mark_in_doubt(&mut self) {
        self.transcript.unknown = true;
    }

    /// Returns the transcript recorded so far.
    pub(crate) fn finish(mut self) -> Transcript {
        self.end();
        self.transcript
    }
}
