//! A session: a connection on which EHLO has succeeded, and also TLS and authentication if the
//! route requires them.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use domain::outcome::FaultKind;
use domain::transcript::Phase;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::connect::connect;
use super::offers::Offers;
use super::open_sessions::CountGuard;
use super::peer::Peer;
use super::recorder::{Opening, TranscriptRecorder};
use super::stop::{Stop, Why};
use super::tls::{TlsClient, version};
use super::wire::{NoReply, RawReply, Stream, Wire};
use crate::contact;
use crate::settings::session::{SessionSettings, TlsMode};
use crate::settings::smtp::SmtpLogin;

/// How long QUIT may take. No attempt waits for it.
const QUIT_MAX: Duration = Duration::from_secs(5);

/// What all sessions of one sender have in common.
pub(crate) struct SessionParameters {
    pub(crate) settings: SessionSettings,
    pub(crate) login: Option<SmtpLogin>,
    pub(crate) tls: TlsClient,
}

/// A session.
pub(crate) struct Session {
    pub(super) wire: Wire,
    pub(super) offers: Offers,
    pub(super) settings: SessionSettings,
    /// The peer's name and address.
    pub(crate) host: String,
    pub(crate) address: String,
    /// The version of TLS.
    pub(crate) tls: Option<&'static str>,
    /// The transcript of opening the session. The first attempt that uses the session takes it.
    pub(crate) opening: Option<Opening>,
    pub(super) opened_at: Instant,
    pub(super) used_at: Instant,
    /// How many messages were started on it.
    pub(crate) messages: u32,
    /// Whether a transaction is running. It stays true if the attempt is cancelled, because then it
    /// is unknown to which command the peer's next reply belongs.
    pub(super) in_transaction: bool,
    /// Whether that transaction was refused, so that the session only needs a reset.
    pub(super) refused: bool,
    /// How many replies to pipelined commands are outstanding.
    pub(super) outstanding: usize,
    /// Counts this session as open while it exists.
    count_guard: Option<CountGuard>,
}

/// Why a session could not be opened, and the transcript until then.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) stop: Stop,
    pub(crate) opening: Opening,
}

impl Session {
    /// Continues the transcript of an attempt that now uses this session. The time that opening
    /// took is counted for the first attempt that uses the session.
    pub(crate) fn continue_transcript(&mut self, recorder: &mut TranscriptRecorder) {
        match self.opening.take() {
            Some(opening) => recorder.continue_after(opening),
            None => recorder.reuse(&self.host, &self.address, self.tls),
        }
    }

    /// Opens a session. If opportunistic TLS fails, tries once more without encryption.
    pub(super) async fn open(
        peer: &Peer,
        parameters: &SessionParameters,
        count_guard: CountGuard,
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let mut recorder = TranscriptRecorder::default();
        let mut opened = open(peer, peer.tls, parameters, &mut recorder).await;
        if let (TlsMode::Opportunistic, Err(stop)) = (peer.tls, &opened)
            && stop.phase == Phase::Tls
        {
            tracing::debug!(
                host = peer.host,
                "TLS failed; connecting again without encryption"
            );
            opened = open(peer, TlsMode::None, parameters, &mut recorder).await;
        }
        let opening = Opening {
            transcript: recorder.finish(),
            took: began.elapsed(),
        };
        match opened {
            Ok(mut session) => {
                session.opening = Some(opening);
                session.count_guard = Some(count_guard);
                Ok(session)
            }
            Err(stop) => Err(Failure { stop, opening }),
        }
    }

    /// Whether it may carry another message. If the last one was refused, it needs a
    /// [`reset`](Self::reset) first.
    pub(crate) fn is_reusable(&self) -> bool {
        let SessionSettings {
            messages_max,
            age_max,
            idle_max,
            ..
        } = self.settings;
        (self.refused || !self.in_transaction && !self.wire.has_unread())
            && self.messages < messages_max
            && self.opened_at.elapsed() < age_max
            && self.used_at.elapsed() < idle_max
    }

    /// Returns when it was last used.
    pub(super) fn used_at(&self) -> Instant {
        self.used_at
    }

    /// Stops counting this session as open, because another session takes its place.
    pub(super) fn stop_counting(&mut self) {
        self.count_guard = None;
    }

    /// Sends QUIT, as a client must before it closes the connection (RFC 5321, section 4.1.1.10).
    /// The caller then drops the session, whether or not QUIT succeeds.
    pub(crate) async fn quit(&mut self) {
        if self.reset().await {
            let _ = timeout(QUIT_MAX, async {
                self.wire.send(b"QUIT\r\n").await?;
                self.wire.reply().await
            })
            .await;
        }
    }
}

impl Drop for Session {
    /// Resets the connection if its transaction was abandoned. An ordinary close would still send
    /// the bytes that the system has queued. Then the peer could accept a message that has
    /// meanwhile been sent again.
    fn drop(&mut self) {
        if self.in_transaction && !self.refused {
            self.wire.reset_on_close();
        }
    }
}

async fn open(
    peer: &Peer,
    tls: TlsMode,
    parameters: &SessionParameters,
    recorder: &mut TranscriptRecorder,
) -> Result<Session, Stop> {
    let SessionSettings { helo, timeouts, .. } = &parameters.settings;
    contact::begin_waiting();
    recorder.begin(Phase::Connect);
    recorder.set_peer(&peer.host, "");
    recorder.set_port(peer.place.port());
    let stream = within(Phase::Connect, timeouts.connect, connect(peer)).await?;
    let address = stream
        .peer_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    recorder.set_peer(&peer.host, &address);

    let mut version = None;
    let mut wire = if tls == TlsMode::Implicit {
        let (stream, agreed) = encrypt(peer, true, parameters, stream, recorder).await?;
        version = Some(agreed);
        Wire::new(stream)
    } else {
        Wire::new(Either::Left(stream))
    };
    recorder.begin(Phase::Greeting);
    let reply = within(Phase::Greeting, timeouts.greeting, wire.reply()).await?;
    require_positive(Phase::Greeting, &reply)?;
    let mut offers = greet(&mut wire, helo, timeouts.greeting, recorder).await?;

    let is_ready = match tls {
        TlsMode::Opportunistic | TlsMode::Required if offers.starttls() => {
            ask_for_tls(&mut wire, parameters, recorder).await?
        }
        _ => false,
    };
    if is_ready {
        if wire.has_unread() {
            // They may come from an attacker instead of the owner of the certificate (RFC 3207,
            // section 6).
            return Err(tls_failure("the peer sent more data before TLS began"));
        }
        let Either::Left(stream) = wire.into_stream() else {
            unreachable!("TLS begins once")
        };
        let (stream, agreed) =
            encrypt(peer, tls == TlsMode::Required, parameters, stream, recorder).await?;
        version = Some(agreed);
        wire = Wire::new(stream);
        offers = greet(&mut wire, helo, timeouts.greeting, recorder)
            .await
            .map_err(Stop::during_tls)?;
    } else if tls == TlsMode::Required {
        return Err(tls_failure(
            "the peer is not ready for TLS, which is required",
        ));
    }
    if let Some(login) = &parameters.login {
        recorder.begin(Phase::Auth);
        authenticate(&mut wire, &offers, login, timeouts.greeting).await?;
    }
    let now = Instant::now();
    Ok(Session {
        wire,
        offers,
        settings: parameters.settings.clone(),
        host: peer.host.clone(),
        address,
        tls: version,
        opening: None,
        opened_at: now,
        used_at: now,
        messages: 0,
        in_transaction: false,
        refused: false,
        outstanding: 0,
        count_guard: None,
    })
}

/// The codes with which a server that does not know EHLO answers it (RFC 5321, section 4.1.1.1).
/// With any other code it refuses us.
const EHLO_NOT_KNOWN: [u16; 3] = [500, 502, 504];

/// Sends EHLO, or HELO if the peer does not know EHLO (RFC 5321, section 3.2). If the peer does not
/// answer HELO, its answer to EHLO says why.
async fn greet(
    wire: &mut Wire,
    helo: &str,
    limit: Duration,
    recorder: &mut TranscriptRecorder,
) -> Result<Offers, Stop> {
    recorder.begin(Phase::Hello);
    let reply = ask(wire, Phase::Hello, limit, &format!("EHLO {helo}\r\n")).await?;
    if !EHLO_NOT_KNOWN.contains(&reply.code) {
        require_positive(Phase::Hello, &reply)?;
        return Ok(Offers::read(&reply));
    }
    let answer = ask(wire, Phase::Hello, limit, &format!("HELO {helo}\r\n")).await;
    if matches!(&answer, Err(Stop { why: Why::Broken(lost), .. }) if lost.kind == FaultKind::Lost) {
        return Err(Stop::unexpected(Phase::Hello, &reply));
    }
    require_positive(Phase::Hello, &answer?)?;
    Ok(Offers::default())
}

/// Sends STARTTLS. Returns whether the peer is ready for TLS.
async fn ask_for_tls(
    wire: &mut Wire,
    parameters: &SessionParameters,
    recorder: &mut TranscriptRecorder,
) -> Result<bool, Stop> {
    recorder.begin(Phase::Tls);
    let reply = ask(
        wire,
        Phase::Tls,
        parameters.settings.timeouts.greeting,
        "STARTTLS\r\n",
    )
    .await?;
    Ok(reply.is_positive())
}

async fn encrypt(
    peer: &Peer,
    verified: bool,
    parameters: &SessionParameters,
    stream: TcpStream,
    recorder: &mut TranscriptRecorder,
) -> Result<(Stream, &'static str), Stop> {
    recorder.begin(Phase::Tls);
    let handshake = async { parameters.tls.connect(&peer.host, verified, stream).await };
    let stream = within(Phase::Tls, parameters.settings.timeouts.connect, handshake).await?;
    contact::note_answer();
    let version = version(&stream);
    recorder.set_tls(version);
    Ok((Either::Right(Box::new(stream)), version))
}

/// Authenticates with PLAIN (RFC 4616) if it is offered, else with LOGIN.
async fn authenticate(
    wire: &mut Wire,
    offers: &Offers,
    login: &SmtpLogin,
    limit: Duration,
) -> Result<(), Stop> {
    let SmtpLogin { username, password } = login;
    let mut steps = if offers.auth_plain() {
        vec![format!(
            "AUTH PLAIN {}",
            BASE64.encode(format!("\0{username}\0{password}").as_bytes())
        )]
    } else if offers.auth_login() {
        let [username, password] = [username, password].map(|text| BASE64.encode(text.as_bytes()));
        vec![password, username, "AUTH LOGIN".to_owned()]
    } else {
        let text = "the peer offers neither AUTH PLAIN nor AUTH LOGIN".to_owned();
        return Err(Stop {
            phase: Phase::Auth,
            why: Why::Broken(NoReply::new(FaultKind::Connect, text)),
        });
    };
    while let Some(step) = steps.pop() {
        let reply = ask(wire, Phase::Auth, limit, &format!("{step}\r\n")).await?;
        if steps.is_empty() {
            return require_positive(Phase::Auth, &reply);
        }
        if reply.code != 334 {
            return Err(Stop::unexpected(Phase::Auth, &reply));
        }
    }
    Ok(())
}

/// Sends a command and reads its reply, within one time limit for both.
pub(super) async fn ask(
    wire: &mut Wire,
    phase: Phase,
    limit: Duration,
    command: &str,
) -> Result<RawReply, Stop> {
    within(phase, limit, async {
        match wire.send(command.as_bytes()).await {
            Ok(()) => wire.reply().await,
            Err(lost) => wire.last_words().await.ok_or(lost),
        }
    })
    .await
}

/// Returns the result of `doing`, or a [`Stop`] if it fails or does not end within the limit.
pub(super) async fn within<T>(
    phase: Phase,
    limit: Duration,
    doing: impl Future<Output = Result<T, NoReply>>,
) -> Result<T, Stop> {
    match timeout(limit, doing).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(no_reply)) => Err(Stop {
            phase,
            why: Why::Broken(no_reply),
        }),
        Err(_) => Err(Stop {
            phase,
            why: Why::TimedOut,
        }),
    }
}

fn require_positive(phase: Phase, reply: &RawReply) -> Result<(), Stop> {
    if reply.is_positive() {
        Ok(())
    } else {
        Err(Stop::unexpected(phase, reply))
    }
}

fn tls_failure(text: &str) -> Stop {
    Stop {
        phase: Phase::Tls,
        why: Why::Broken(NoReply::new(FaultKind::Tls, text)),
    }
}
