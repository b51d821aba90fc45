//! A session: a connection on which EHLO has been answered, encrypted and authenticated as it
//! should be.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use domain::outcome::FaultKind;
use domain::transcript::{Phase, Transcript};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::connect::connect;
use super::offers::Offers;
use super::open_sessions::Counted;
use super::peer::Peer;
use super::stop::{Stop, Why};
use super::tls::{TlsClient, version};
use super::trail::Trail;
use super::wire::{Said, Silence, Stream, Wire};
use crate::contact;
use crate::settings::session::{SessionSettings, TlsMode};
use crate::settings::smtp::SmtpLogin;

/// How long a farewell may take. Nobody waits for it.
const QUIT_MAX: Duration = Duration::from_secs(5);

/// What all sessions of one sender have in common.
pub(crate) struct Manner {
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
    /// What opening it took; until the first attempt that uses it asks.
    pub(crate) opening: Option<Transcript>,
    pub(super) born: Instant,
    pub(super) used: Instant,
    /// How many messages it was given.
    pub(crate) messages: u32,
    /// Whether a transaction is under way. It stays so where the attempt was cancelled, and nobody
    /// knows then what the peer will say next.
    pub(super) in_transaction: bool,
    /// Whether that transaction was refused, and only has to be ended before the next.
    pub(super) refused: bool,
    /// How many replies are still to come to commands that were sent ahead.
    pub(super) outstanding: usize,
    /// Counts it among those that are open.
    counted: Option<Counted>,
}

/// Why there is no session, and how far it came.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) stop: Stop,
    pub(crate) opening: Transcript,
}

impl Session {
    /// Continues an attempt's trail on this session, which is ready. What it took to open it is
    /// counted for the first attempt that uses it.
    pub(crate) fn continue_trail(&mut self, trail: &mut Trail) {
        match self.opening.take() {
            Some(opening) => trail.go_on(opening),
            None => trail.reuse(&self.host, &self.address, self.tls),
        }
    }

    /// Opens a session. Where TLS is taken as it comes and fails, once more in the clear.
    pub(super) async fn open(
        peer: &Peer,
        manner: &Manner,
        counted: Counted,
    ) -> Result<Self, Failure> {
        let mut trail = Trail::default();
        let mut opened = open(peer, peer.tls, manner, &mut trail).await;
        if let (TlsMode::Opportunistic, Err(stop)) = (peer.tls, &opened)
            && stop.phase == Phase::Tls
        {
            tracing::debug!(host = peer.host, "TLS failed; going on in the clear");
            opened = open(peer, TlsMode::None, manner, &mut trail).await;
        }
        match opened {
            Ok(mut session) => {
                session.opening = Some(trail.finish());
                session.counted = Some(counted);
                Ok(session)
            }
            Err(stop) => Err(Failure {
                stop,
                opening: trail.finish(),
            }),
        }
    }

    /// Whether it may carry another message, after a [`reset`](Self::reset) where the last one was
    /// refused.
    pub(crate) fn is_good(&self) -> bool {
        let SessionSettings {
            messages_max,
            age_max,
            idle_max,
            ..
        } = self.settings;
        (self.refused || !self.in_transaction && !self.wire.has_more())
            && self.messages < messages_max
            && self.born.elapsed() < age_max
            && self.used.elapsed() < idle_max
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Instant {
        self.used
    }

    /// Another one takes its place.
    pub(super) fn counts_no_longer(&mut self) {
        self.counted = None;
    }

    /// Says farewell, as a client must before it closes (RFC 5321, section 4.1.1.10).
    /// To be called last: the connection is closed afterwards, whatever becomes of it.
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
    /// Breaks off a transaction that was given up. If the connection were closed in order, the
    /// system would still send what it holds. The peer could take the message after it has been
    /// sent again.
    fn drop(&mut self) {
        if self.in_transaction && !self.refused {
            self.wire.break_off();
        }
    }
}

async fn open(
    peer: &Peer,
    tls: TlsMode,
    manner: &Manner,
    trail: &mut Trail,
) -> Result<Session, Stop> {
    let SessionSettings { helo, timeouts, .. } = &manner.settings;
    contact::wait();
    trail.begin(Phase::Connect);
    trail.met(&peer.host, "");
    let stream = in_time(Phase::Connect, timeouts.connect, connect(peer)).await?;
    let address = stream
        .peer_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    trail.met(&peer.host, &address);

    let mut version = None;
    let mut wire = if tls == TlsMode::Implicit {
        let (stream, agreed) = encrypt(peer, true, manner, stream, trail).await?;
        version = Some(agreed);
        Wire::new(stream)
    } else {
        Wire::new(Either::Left(stream))
    };
    trail.begin(Phase::Greeting);
    let said = in_time(Phase::Greeting, timeouts.greeting, wire.reply()).await?;
    yes(Phase::Greeting, &said)?;
    let mut offers = hello(&mut wire, helo, timeouts.greeting, trail).await?;

    let ready = match tls {
        TlsMode::Opportunistic | TlsMode::Required if offers.starttls() => {
            starts(&mut wire, manner, trail).await?
        }
        _ => false,
    };
    if ready {
        if wire.has_more() {
            // Whoever put that there is not who the certificate will be for (RFC 3207, section 6).
            return Err(no_tls("the peer went on speaking before TLS began"));
        }
        let Either::Left(stream) = wire.into_stream() else {
            unreachable!("TLS begins once")
        };
        let (stream, agreed) =
            encrypt(peer, tls == TlsMode::Required, manner, stream, trail).await?;
        version = Some(agreed);
        wire = Wire::new(stream);
        offers = hello(&mut wire, helo, timeouts.greeting, trail)
            .await
            .map_err(Stop::by_tls)?;
    } else if tls == TlsMode::Required {
        return Err(no_tls("the peer is not ready for TLS, which is required"));
    }
    if let Some(login) = &manner.login {
        trail.begin(Phase::Auth);
        authenticate(&mut wire, &offers, login, timeouts.greeting).await?;
    }
    let now = Instant::now();
    Ok(Session {
        wire,
        offers,
        settings: manner.settings.clone(),
        host: peer.host.clone(),
        address,
        tls: version,
        opening: None,
        born: now,
        used: now,
        messages: 0,
        in_transaction: false,
        refused: false,
        outstanding: 0,
        counted: None,
    })
}

/// EHLO; or HELO, where the peer knows no EHLO (RFC 5321, section 3.2).
async fn hello(
    wire: &mut Wire,
    helo: &str,
    limit: Duration,
    trail: &mut Trail,
) -> Result<Offers, Stop> {
    trail.begin(Phase::Hello);
    let said = ask(wire, Phase::Hello, limit, &format!("EHLO {helo}\r\n")).await?;
    if said.code < 500 {
        yes(Phase::Hello, &said)?;
        return Ok(Offers::read(&said));
    }
    let said = ask(wire, Phase::Hello, limit, &format!("HELO {helo}\r\n")).await?;
    yes(Phase::Hello, &said)?;
    Ok(Offers::default())
}

/// Asks for TLS; whether the peer is ready for it.
async fn starts(wire: &mut Wire, manner: &Manner, trail: &mut Trail) -> Result<bool, Stop> {
    trail.begin(Phase::Tls);
    let said = ask(
        wire,
        Phase::Tls,
        manner.settings.timeouts.greeting,
        "STARTTLS\r\n",
    )
    .await?;
    Ok(said.is_yes())
}

async fn encrypt(
    peer: &Peer,
    verified: bool,
    manner: &Manner,
    stream: TcpStream,
    trail: &mut Trail,
) -> Result<(Stream, &'static str), Stop> {
    trail.begin(Phase::Tls);
    let handshake = async { manner.tls.connect(&peer.host, verified, stream).await };
    let stream = in_time(Phase::Tls, manner.settings.timeouts.connect, handshake).await?;
    contact::note_answer();
    let version = version(&stream);
    trail.encrypted(version);
    Ok((Either::Right(Box::new(stream)), version))
}

/// PLAIN (RFC 4616) where it is offered, else LOGIN.
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
            why: Why::Broken(Silence::new(FaultKind::Connect, text)),
        });
    };
    while let Some(step) = steps.pop() {
        let said = ask(wire, Phase::Auth, limit, &format!("{step}\r\n")).await?;
        if steps.is_empty() {
            return yes(Phase::Auth, &said);
        }
        if said.code != 334 {
            return Err(Stop::said(Phase::Auth, &said));
        }
    }
    Ok(())
}

/// Sends a command and reads its reply, within one limit for both.
pub(super) async fn ask(
    wire: &mut Wire,
    phase: Phase,
    limit: Duration,
    command: &str,
) -> Result<Said, Stop> {
    in_time(phase, limit, async {
        wire.send(command.as_bytes()).await?;
        wire.reply().await
    })
    .await
}

/// What comes of it within the limit.
pub(super) async fn in_time<T>(
    phase: Phase,
    limit: Duration,
    doing: impl Future<Output = Result<T, Silence>>,
) -> Result<T, Stop> {
    match timeout(limit, doing).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(silence)) => Err(Stop {
            phase,
            why: Why::Broken(silence),
        }),
        Err(_) => Err(Stop {
            phase,
            why: Why::Late,
        }),
    }
}

fn yes(phase: Phase, said: &Said) -> Result<(), Stop> {
    if said.is_yes() {
        Ok(())
    } else {
        Err(Stop::said(phase, said))
    }
}

fn no_tls(text: &str) -> Stop {
    Stop {
        phase: Phase::Tls,
        why: Why::Broken(Silence::new(FaultKind::Tls, text)),
    }
}
