//! Each phase of an SMTP session has its own time limit. If the server is silent in a phase, the
//! attempt ends when that limit is over, and no other limit matters.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use domain::outcome::Outcome;
use domain::transcript::Phase;
use futures::future::join_all;
use harness::certificates::Certificates;
use harness::smtp::{Act, Received, SmtpPeer, agree};
use harness::wait::in_time;
use senders::attempt::Attempt;
use senders::sender::Sender;
use senders::settings::session::{SmtpTimeouts, TlsMode};
use senders::settings::smtp::{SmtpLogin, SmtpSettings};
use senders::smtp::SmtpSender;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::mail;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

/// Long after a short limit, and long before a long one.
const BETWEEN: Duration = Duration::from_secs(5);

/// A limit that no phase with progress exceeds, and a longer limit.
const MODEST: Duration = Duration::from_secs(2);
const LONGER: Duration = Duration::from_secs(3);

type Limit = fn(&mut SmtpTimeouts) -> &mut Duration;

/// The phases in which the peer falls silent: the phase, its limit, the command, and what the peer
/// does at the command.
const HANGS: [(Phase, Limit, &str, Act); 10] = [
    (
        Phase::Greeting,
        |limits| &mut limits.greeting,
        "",
        Act::Hang,
    ),
    (
        Phase::Hello,
        |limits| &mut limits.greeting,
        "EHLO",
        Act::Hang,
    ),
    (
        Phase::Tls,
        |limits| &mut limits.greeting,
        "STARTTLS",
        Act::Hang,
    ),
    // The handshake is part of connecting.
    (
        Phase::Tls,
        |limits| &mut limits.connect,
        "STARTTLS",
        Act::Begin("220 go on\r\n"),
    ),
    (
        Phase::Auth,
        |limits| &mut limits.greeting,
        "AUTH",
        Act::Hang,
    ),
    (Phase::Mail, |limits| &mut limits.mail, "MAIL", Act::Hang),
    (Phase::Rcpt, |limits| &mut limits.rcpt, "RCPT", Act::Hang),
    (Phase::Data, |limits| &mut limits.data, "DATA", Act::Hang),
    // The peer asks for the content and reads none of it.
    (
        Phase::Data,
        |limits| &mut limits.data,
        "DATA",
        Act::Begin("354 go on\r\n"),
    ),
    (Phase::Dot, |limits| &mut limits.dot, ".", Act::Hang),
];

fn offering(received: &Received, pipelines: bool) -> Act {
    match received.command.split(' ').next().unwrap_or_default() {
        "EHLO" if pipelines => Act::Say(
            "250-peer.example\r\n250-PIPELINING\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 8BITMIME",
        ),
        "EHLO" => Act::Say("250-peer.example\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 8BITMIME"),
        _ => agree(&received.command),
    }
}

/// Sends within these limits to a peer that falls silent in this way. `None` if there was no
/// outcome after `waited`.
async fn sent(
    (phase, _, command, act): (Phase, Limit, &'static str, Act),
    pipelines: bool,
    limits: SmtpTimeouts,
    waited: Duration,
) -> Option<Outcome> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let peer = SmtpPeer::start(move |received| {
        if received.is(command) {
            act
        } else {
            offering(received, pipelines)
        }
    })
    .await;
    let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
    settings.tls = if phase == Phase::Tls {
        TlsMode::Required
    } else {
        TlsMode::None
    };
    settings.login = Some(SmtpLogin {
        username: "ann".to_owned(),
        password: "geheim".to_owned(),
    });
    settings.session.timeouts = limits;
    let files = Certificates::make(folder.path());
    settings.session.certificates.authority =
        Some(fs::read(&files.authority).expect("the file was written"));
    // For a peer that does not read, this is more than the system buffers.
    let large = matches!(act, Act::Begin(_)) && phase == Phase::Data;
    let content = if large {
        "0123456789\r\n".repeat(2 << 20)
    } else {
        "Subject: hello\r\n\r\nbye\r\n".to_owned()
    };
    let attempt = Attempt {
        content: Some(content.into()),
        ..mail("m1")
    };
    let sender = SmtpSender::new(settings);
    let (outcome, transcript) = timeout(waited, sender.send_traced(&attempt)).await.ok()?;
    assert_eq!(
        transcript.expect("a connection was made").phase,
        phase,
        "{command:?}, {act:?}: {outcome:?}"
    );
    Some(outcome)
}

#[tokio::test]
async fn each_phase_ends_by_its_own_limit_however_long_the_others_are() {
    let cases = HANGS
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)]);
    join_all(cases.map(async |(case, pipelines)| {
        let mut limits = SmtpTimeouts::all(LONG);
        *case.1(&mut limits) = SHORT;
        let outcome = sent(case, pipelines, limits, BETWEEN).await;
        assert!(
            matches!(outcome, Some(Outcome::Unreachable(_))),
            "{}, {:?}: {outcome:?}",
            case.0,
            case.3
        );
    }))
    .await;
}

#[tokio::test]
async fn no_phase_ends_by_the_limit_of_another() {
    let cases = HANGS
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)]);
    join_all(cases.map(async |(case, pipelines)| {
        let mut limits = SmtpTimeouts::all(MODEST);
        *case.1(&mut limits) = LONG;
        let outcome = sent(case, pipelines, limits, LONGER).await;
        assert!(outcome.is_none(), "{}, {:?}: {outcome:?}", case.0, case.3);
    }))
    .await;
}

/// A listener whose queue is full, so that further connections are neither accepted nor refused.
async fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket
        .bind(([127, 0, 0, 1], 0).into())
        .expect("a port is free");
    let listener = socket.listen(1).expect("the socket is bound");
    let address = listener.local_addr().expect("the socket is bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream);
        assert!(
            waiting.len() < 100,
            "a queue for one connection is soon full"
        );
    }
    (listener, waiting)
}

#[tokio::test]
async fn an_attempt_to_an_unreachable_host_ends_within_the_connect_limit() {
    let (listener, _waiting) = full_listener().await;
    let address = listener.local_addr().expect("the socket is bound");
    for (connect, others, waited, ends) in
        [(SHORT, LONG, BETWEEN, true), (LONG, SHORT, LONGER, false)]
    {
        let mut settings = SmtpSettings::new(address.ip().to_string(), address.port());
        settings.session.timeouts = SmtpTimeouts {
            connect,
            ..SmtpTimeouts::all(others)
        };
        let sent = timeout(waited, SmtpSender::new(settings).send(&mail("m1"))).await;
        assert_eq!(
            matches!(sent, Ok(Outcome::Unreachable(_))),
            ends,
            "{sent:?}"
        );
    }
}

/// A peer that accepts all commands, stops reading when the content comes, and continues when it
/// gets the signal. Returns how its connection ends.
async fn stops_reading(
    listener: TcpListener,
    go_on_signal: oneshot::Receiver<()>,
) -> io::Result<usize> {
    let (stream, _) = listener.accept().await?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mx.example.com\r\n").await?;
    let mut command = String::new();
    while command != "DATA\r\n" {
        command.clear();
        stream.read_line(&mut command).await?;
        let answer: &[u8] = if command == "DATA\r\n" {
            b"354 go on\r\n"
        } else {
            b"250 yes\r\n"
        };
        stream.write_all(answer).await?;
    }
    let _ = go_on_signal.await;
    stream.read_to_end(&mut Vec::new()).await
}

#[tokio::test]
async fn a_cancelled_attempt_ends_its_connection_at_once() {
    // The bytes that the system has queued for the peer must not reach it later.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sender = Arc::new(SmtpSender::new(SmtpSettings::new("127.0.0.1", port)));
    let sending = sender.clone();
    let attempt = tokio::spawn(async move { sending.send(&mail("m1")).await });
    let (stream, _) = in_time("a connection", listener.accept()).await.unwrap();
    let mut peer = BufReader::new(stream);
    peer.write_all(b"220 peer.example\r\n").await.unwrap();
    let mut line = String::new();
    while !line.starts_with("MAIL") {
        line.clear();
        in_time("a command", peer.read_line(&mut line))
            .await
            .unwrap();
        if line.starts_with("EHLO") {
            peer.write_all(b"250 peer.example\r\n").await.unwrap();
        }
    }
    attempt.abort();
    line.clear();
    let end = timeout(Duration::from_secs(2), peer.read_line(&mut line)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?} {line}");
    drop(sender);
}

#[tokio::test]
async fn content_not_sent_when_an_attempt_ends_is_never_sent_later() {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    let (go_on, go_on_signal) = oneshot::channel();
    let peer = tokio::spawn(stops_reading(listener, go_on_signal));
    let mut settings = SmtpSettings::new(address.ip().to_string(), address.port());
    settings.tls = TlsMode::None;
    settings.session.timeouts = SmtpTimeouts::all(MODEST);
    let more_than_the_system_holds = "x".repeat(32 << 20);
    let attempt = Attempt {
        content: Some(more_than_the_system_holds.into()),
        ..mail("m1")
    };
    let outcome = SmtpSender::new(settings).send(&attempt).await;
    assert!(matches!(outcome, Outcome::Unreachable(_)), "{outcome:?}");
    go_on.send(()).expect("the peer waits");
    let ended = in_time("the end of the connection", peer)
        .await
        .expect("the connection ends");
    assert_eq!(
        ended.expect_err("the connection was reset").kind(),
        io::ErrorKind::ConnectionReset
    );
}
