//! Notes how far an attempt comes and how long each phase takes.

use std::time::Instant;

use domain::transcript::{Phase, Transcript};

/// A transcript that is being written.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    transcript: Transcript,
    running: Option<(Phase, Instant)>,
}

impl Trail {
    /// A phase begins, and the one before has ended.
    pub(crate) fn begin(&mut self, phase: Phase) {
        self.end();
        self.transcript.phase = phase;
        self.running = Some((phase, Instant::now()));
    }

    /// The phase has ended.
    pub(crate) fn end(&mut self) {
        if let Some((phase, since)) = self.running.take() {
            self.transcript.took(phase, since.elapsed());
        }
    }

    /// With whom it is now.
    pub(crate) fn met(&mut self, host: &str, address: &str) {
        host.clone_into(&mut self.transcript.host);
        address.clone_into(&mut self.transcript.address);
        (self.transcript.tls, self.transcript.reused) = (None, false);
    }

    /// How it is encrypted now.
    pub(crate) fn encrypted(&mut self, version: &str) {
        self.transcript.tls = Some(version.to_owned());
    }

    /// Continues on a connection that an earlier attempt has used already.
    pub(crate) fn reuse(&mut self, host: &str, address: &str, tls: Option<&str>) {
        self.end();
        self.met(host, address);
        self.transcript.tls = tls.map(str::to_owned);
        self.transcript.reused = true;
    }

    /// Goes on after what another one has noted, in the place of the phase that waited for it.
    pub(crate) fn go_on(&mut self, opening: Transcript) {
        self.running = None;
        let mut took = std::mem::take(&mut self.transcript.took_ms);
        took.extend_from_slice(&opening.took_ms);
        took.truncate(Transcript::PHASES_MAX);
        self.transcript = Transcript {
            took_ms: took,
            ..opening
        };
    }

    /// Nobody knows whether the peer has the message.
    pub(crate) fn is_unknown(&mut self) {
        self.transcript.unknown = true;
    }

    /// The transcript as far as it goes.
    pub(crate) fn finish(mut self) -> Transcript {
        self.end();
        self.transcript
    }
}
