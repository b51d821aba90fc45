//! The mail servers of the demo: real SMTP servers on loopback, each with its own trouble. They
//! share no parser with the client that they test. They must not know about jobs or policy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::clock::{Clock, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

mod behavior;
mod dialogue;
mod state;
mod transaction;

use behavior::BEHAVIORS;
use dialogue::converse;
use state::{Accepted, ServerState};

/// How many connections a server handles at once. Further connections wait to be accepted.
const CONNECTIONS_MAX: usize = 1000;

/// All servers, listening. Dropping this closes their listeners and connections.
#[derive(Debug)]
pub(crate) struct MailServers {
    servers: Vec<MailServer>,
    _tasks: JoinSet<()>,
}

impl MailServers {
    /// Starts every server on a free port of 127.0.0.1. What a server answers depends on the time
    /// that `clock` shows since `opening`.
    pub(crate) async fn start(clock: Arc<dyn Clock>, opening: Timestamp) -> io::Result<Self> {
        let mut servers = Vec::new();
        let mut tasks = JoinSet::new();
        for behavior in &BEHAVIORS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?;
            let state = Arc::new(ServerState::new(behavior, Arc::clone(&clock), opening));
            tasks.spawn(accept(listener, Arc::clone(&state)));
            servers.push(MailServer {
                route: behavior.route,
                domain: behavior.domain,
                description: behavior.description,
                address,
                state,
            });
        }
        Ok(Self {
            servers,
            _tasks: tasks,
        })
    }

    /// Returns the servers, in the order in which the introduction lists them.
    pub(crate) fn all(&self) -> &[MailServer] {
        &self.servers
    }
}

/// One SMTP server.
#[derive(Debug)]
pub(crate) struct MailServer {
    /// The name of the route that leads to it.
    pub(crate) route: &'static str,
    /// The only domain that it accepts mail for.
    pub(crate) domain: &'static str,
    /// What is wrong with it, in a few words.
    pub(crate) description: &'static str,
    /// The address that it listens on.
    pub(crate) address: SocketAddr,
    state: Arc<ServerState>,
}

impl MailServer {
    /// Returns how many connections it has accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Returns how many `RCPT` commands it has refused so far, because of its own trouble or
    /// because of a mistake of the client.
    pub(crate) fn refusals(&self) -> u64 {
        self.state.refusals.load(Ordering::Relaxed)
    }

    /// Returns every message that it has accepted so far, in the order of arrival. There is one
    /// entry per recipient, and a message that arrived twice has two entries.
    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        self.state.accepted()
    }
}

/// Accepts connections until it is dropped. The open connections are dropped with it.
async fn accept(listener: TcpListener, state: Arc<ServerState>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        if let Ok((stream, _)) = listener.accept().await {
            state.connections.fetch_add(1, Ordering::Relaxed);
            let state = Arc::clone(&state);
            // A broken connection is an error for the client only.
            connections.spawn(async move { converse(stream, &state).await.unwrap_or_default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::clock::ManualClock;
    use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    use tokio::time::timeout;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpStream;

    use super::behavior::{DAY, HOUR};
    use super::dialogue::LINE_MAX;
    use super::transaction::MESSAGE_MAX;
    use super::*;

    const OPENING: Timestamp = Timestamp::from_ms(0);

    async fn start() -> (MailServers, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(OPENING));
        (
            MailServers::start(Arc::clone(&clock) as Arc<dyn Clock>, OPENING)
                .await
                .unwrap(),
            clock,
        )
    }

    fn server<'a>(servers: &'a MailServers, route: &str) -> &'a MailServer {
        servers
            .all()
            .iter()
            .find(|server| server.route == route)
            .unwrap()
    }

    /// An SMTP client. It returns only the last line of a reply.
    struct Client(BufReader<OwnedReadHalf>, OwnedWriteHalf);

    impl Client {
        /// Connects, verifies that MAIL is refused before EHLO, and sends EHLO.
        async fn connect(server: &MailServer) -> Self {
            let (input, output) = TcpStream::connect(server.address)
                .await
                .unwrap()
                .into_split();
            let mut client = Self(BufReader::new(input), output);
            assert_eq!(
                client.reply().await,
                format!("220 mx.{} ESMTP", server.domain)
            );
            assert_eq!(
                client.command("MAIL FROM:<>\r\n").await,
                "503 5.5.1 EHLO comes first"
            );
            assert_eq!(
                client.command("EHLO client.example.org\r\n").await,
                "250 SIZE 1048576"
            );
            client
        }

        async fn send(&mut self, octets: &str) {
            self.1.write_all(octets.as_bytes()).await.unwrap();
        }

        async fn reply(&mut self) -> String {
            loop {
                let mut line = String::new();
                timeout(Duration::from_secs(10), self.0.read_line(&mut line))
                    .await
                    .unwrap()
                    .unwrap();
                if line.as_bytes().get(3) != Some(&b'-') {
                    return line.trim_end().to_owned();
                }
            }
        }

        async fn command(&mut self, octets: &str) -> String {
            self.send(octets).await;
            self.reply().await
        }
    }

    #[tokio::test]
    async fn each_server_refuses_until_its_trouble_is_over() {
        // At disabled.example, alma is disabled for 2 days, mats for 6 days, hugo for good.
        let full = Some("452 4.3.1 Insufficient system storage");
        let closed = Some("451 4.3.2 System not accepting network messages");
        let disabled = Some("450 4.2.1 Mailbox disabled, not accepting messages");
        let unknown = Some("550 5.1.1 No such user here");
        let cases = [
            ("full", "ada@full.example", 5 * DAY, full, None),
            (
                "maintenance",
                "ada@maintenance.example",
                10 * HOUR,
                closed,
                None,
            ),
            ("silent", "ada@gone.example", 400 * DAY, closed, closed),
            ("disabled", "alma@disabled.example", 2 * DAY, disabled, None),
            ("disabled", "mats@disabled.example", 6 * DAY, disabled, None),
            (
                "disabled",
                "hugo@disabled.example",
                400 * DAY,
                disabled,
                disabled,
            ),
            ("unknown", "ada@moved.example", DAY, unknown, unknown),
            ("healthy", "ada@healthy.example", DAY, None, None),
        ];
        for (route, recipient, turn, before, after) in cases {
            let (servers, clock) = start().await;
            let mut client = Client::connect(server(&servers, route)).await;
            assert_eq!(client.command("MAIL FROM:<>\r\n").await, "250 2.1.0 OK");
            clock.advance(turn - Duration::from_millis(1));
            let rcpt = format!("RCPT TO:<{recipient}>\r\n");
            assert_eq!(
                client.command(&rcpt).await,
                before.unwrap_or("250 2.1.5 OK"),
                "{recipient} before"
            );
            clock.advance(Duration::from_millis(1));
            assert_eq!(
                client.command(&rcpt).await,
                after.unwrap_or("250 2.1.5 OK"),
                "{recipient} after"
            );
            let refused = before.iter().chain(&after).count() as u64;
            assert_eq!(server(&servers, route).refusals(), refused, "{recipient}");
        }
    }

    #[tokio::test]
    async fn pipelined_transactions_on_one_connection_are_all_accepted() {
        let (servers, _clock) = start().await;
        let healthy = server(&servers, "healthy");
        let mut client = Client::connect(healthy).await;
        let recipients = ["jürgen@healthy.example", r#""a> b@c"@healthy.example"#];
        for (n, recipient) in recipients.into_iter().enumerate() {
            let mail = "MAIL FROM:<bounce@news.example.org> BODY=8BITMIME SMTPUTF8 SIZE=99";
            client
                .send(&format!("{mail}\r\nRCPT TO:<{recipient}>\r\nDATA\r\n"))
                .await;
            for expected in [
                "250 2.1.0 OK",
                "250 2.1.5 OK",
                "354 End data with <CR><LF>.<CR><LF>",
            ] {
                assert_eq!(client.reply().await, expected);
            }
            // Dot stuffing: "..stuffed" and ".." each lose one dot.
            let content = format!(
                "Subject: x\r\nmessage-id: <{n}@example.org>\r\n\r\n..stuffed\r\n..\r\n.\r\n"
            );
            let octets = content.len() - 2 - ".\r\n".len();
            assert_eq!(
                client.command(&content).await,
                format!("250 2.0.0 OK, {octets} octets taken")
            );
        }
        assert_eq!(client.command("QUIT\r\n").await, "221 2.0.0 Bye");
        assert_eq!(client.reply().await, "", "the connection is closed");
        let expected = [0, 1].map(|n| Accepted {
            recipient: recipients[n].into(),
            message_id: format!("<{n}@example.org>"),
        });
        assert_eq!(healthy.accepted(), expected);
        assert_eq!((healthy.connections(), healthy.refusals()), (1, 0));
    }

    #[tokio::test]
    async fn invalid_commands_get_an_error_reply_and_the_connection_still_works() {
        let (servers, _clock) = start().await;
        let mut client = Client::connect(server(&servers, "healthy")).await;
        let long = format!("NOOP {}\r\n", "x".repeat(3 * LINE_MAX));
        for (sent, expected) in [
            (long.as_str(), "500 5.5.2 Line too long"),
            ("MAKE TEA\r\n", "500"),
            ("RCPT TO:<ada@healthy.example>\r\n", "503"),
            ("MAIL FROM bounce@news.example.org\r\n", "501"),
            ("MAIL FROM:<> SIZE=1048577\r\n", "552"),
            ("MAIL FROM:<> RET=HDRS\r\n", "555"),
            ("MAIL FROM:<>\r\n", "250"),
            ("MAIL FROM:<>\r\n", "503"),
            ("RCPT TO:<ada@full.example>\r\n", "550"),
            ("RCPT TO:<jürgen@healthy.example>\r\n", "553"),
            ("DATA\r\n", "503"),
            ("RSET\r\n", "250"),
            ("MAIL FROM:<>\r\n", "250"),
            ("RCPT TO:<ada@healthy.example>\r\n", "250"),
            ("DATA\r\n", "354"),
            (
                &format!("{}.\r\n", "filler line\r\n".repeat(MESSAGE_MAX / 10)),
                "552",
            ),
            ("NOOP\r\n", "250"),
        ] {
            let reply = client.command(sent).await;
            assert!(reply.starts_with(expected), "{sent:.60} got {reply}");
        }
        assert_eq!(server(&servers, "healthy").accepted(), []);
    }

    #[tokio::test]
    async fn dropping_the_servers_closes_their_connections() {
        let (servers, _clock) = start().await;
        let mut client = Client::connect(server(&servers, "full")).await;
        drop(servers);
        assert_eq!(client.reply().await, "");
    }
}
