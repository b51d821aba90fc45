//! Records how far an attempt gets and how long each phase takes.

use std::time::{Duration, Instant};

use domain::transcript::{Phase, Transcript};

/// The shortest wait for a connection that is recorded. Transcripts are in whole milliseconds.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The transcript of opening a session.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) transcript: Transcript,
    /// How long it took. The transcript has each phase in whole milliseconds only.
    pub(crate) took: Duration,
}

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
        self.end_wait(Duration::ZERO);
        self.set_peer(host, address);
        self.transcript.tls = tls.map(str::to_owned);
        self.transcript.reused = true;
    }

    /// Continues after a session was opened, whose transcript is `opening`. Until then this attempt
    /// waited for the session, but only the time before it was opened counts as waiting.
    pub(crate) fn continue_after(&mut self, opening: Opening) {
        self.end_wait(opening.took);
        let mut opening = opening.transcript;
        let opening_took_ms = std::mem::take(&mut opening.took_ms);
        let took_ms = std::mem::take(&mut self.transcript.took_ms);
        self.transcript = Transcript { took_ms, ..opening };
        self.transcript.add_phases(&opening_took_ms);
    }

    /// Ends the wait for a connection, except for the time in which one was opened. A connection
    /// that was free at once is no wait.
    fn end_wait(&mut self, opening: Duration) {
        let Some((_, since)) = self.running.take() else {
            return;
        };
        let waited = since.elapsed().saturating_sub(opening);
        if waited >= WAIT_MIN {
            self.transcript.took(Phase::Wait, waited);
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
