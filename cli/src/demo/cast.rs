//! The cast of the demo: SMTP servers on loopback, each with its own trouble, that `redeliver demo`
//! plays against. The listeners and their SMTP are real and share no parser with the client that
//! calls them. What a member answers depends on the recipient and on the virtual time since the
//! opening alone; it must not know of jobs or policy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::clock::{Clock, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

mod dialogue;

use dialogue::{Transaction, converse, path};

/// The most recipients in one transaction.
const RECIPIENTS_MAX: usize = 100;
/// The most connections that a member serves at once; more of them wait to be accepted.
const CONNECTIONS_MAX: usize = 1000;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A part in the play: which domain a member stands for, and what it holds against a recipient.
#[derive(Debug)]
struct Role {
    route: &'static str,
    domain: &'static str,
    story: &'static str,
    /// The reply to `RCPT` for this local part, so long after the opening; `None` where the mail is
    /// welcome.
    refusal: fn(&str, Duration) -> Option<&'static str>,
}

static ROLES: [Role; 6] = [
    Role {
        route: "full",
        domain: "full.example",
        story: "mail system full for 5 days",
        refusal: |_, elapsed| {
            (elapsed < 5 * DAY).then_some("452 4.3.1 Insufficient system storage")
        },
    },
    Role {
        route: "maintenance",
        domain: "maintenance.example",
        story: "closed for maintenance for 10 hours",
        refusal: |_, elapsed| {
            (elapsed < 10 * HOUR).then_some("451 4.3.2 System not accepting network messages")
        },
    },
    Role {
        route: "silent",
        domain: "gone.example",
        story: "never accepts network messages again",
        refusal: |_, _| Some("451 4.3.2 System not accepting network messages"),
    },
    Role {
        route: "disabled",
        domain: "disabled.example",
        story: "mailboxes disabled: a third for 2 days, a third for 6, a third for good",
        refusal: |local, elapsed| {
            let enabled = disabled_for(local).is_some_and(|span| elapsed >= span);
            (!enabled).then_some("450 4.2.1 Mailbox disabled, not accepting messages")
        },
    },
    Role {
        route: "unknown",
        domain: "moved.example",
        story: "bounced softly once, now knows none of the users",
        refusal: |_, _| Some("550 5.1.1 No such user here"),
    },
    Role {
        route: "healthy",
        domain: "healthy.example",
        story: "a passing fault, takes everything now",
        refusal: |_, _| None,
    },
];

/// How long after the opening a mailbox of `disabled.example` stays disabled; `None` is for good.
/// The same local part has the same fate in every run.
fn disabled_for(local: &str) -> Option<Duration> {
    // FNV-1a, because the standard hasher's values may change between releases of Rust.
    let hash = local
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    [Some(2 * DAY), Some(6 * DAY), None][(hash % 3) as usize]
}

/// All members, listening. Dropping it closes their listeners and connections.
#[derive(Debug)]
pub(crate) struct Cast {
    members: Vec<Member>,
    _stage: JoinSet<()>,
}

impl Cast {
    /// Starts every member on a free port of 127.0.0.1; `clock` tells how long after `opening` it
    /// is.
    pub(crate) async fn start(clock: Arc<dyn Clock>, opening: Timestamp) -> io::Result<Self> {
        let mut members = Vec::new();
        let mut stage = JoinSet::new();
        for role in &ROLES {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?;
            let server = Arc::new(Server::new(role, Arc::clone(&clock), opening));
            stage.spawn(receive(listener, Arc::clone(&server)));
            members.push(Member {
                route: role.route,
                domain: role.domain,
                story: role.story,
                address,
                server,
            });
        }
        Ok(Self {
            members,
            _stage: stage,
        })
    }

    /// The members, in the order in which the report names them.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }
}

/// One SMTP server of the cast.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name of the route that leads to it.
    pub(crate) route: &'static str,
    /// The only domain that it takes mail for.
    pub(crate) domain: &'static str,
    /// What is wrong with it, in a few words.
    pub(crate) story: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    server: Arc<Server>,
}

impl Member {
    /// How many connections it has accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.server.connections.load(Ordering::Relaxed)
    }

    /// How many `RCPT` commands it has refused so far, for its own trouble or for a fault of the
    /// client's.
    pub(crate) fn refusals(&self) -> u64 {
        self.server.refusals.load(Ordering::Relaxed)
    }

    /// Every message that it has taken so far, in the order of arrival, one entry per recipient:
    /// what arrived twice is in here twice.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.server
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A message that a member answered 250 for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Taken {
    /// The recipient, as it stood in `RCPT`.
    pub(crate) recipient: String,
    /// The value of the header field `Message-ID`, in its angle brackets; empty where there was
    /// none.
    pub(crate) message_id: String,
}

/// A member from within: the role, what it takes to play it, and what came of it so far.
#[derive(Debug)]
struct Server {
    role: &'static Role,
    clock: Arc<dyn Clock>,
    opening: Timestamp,
    connections: AtomicU64,
    refusals: AtomicU64,
    /// Grows with the mail taken, which one campaign bounds.
    taken: Mutex<Vec<Taken>>,
}

/// Accepts connections until it is dropped, and drops them with itself.
async fn receive(listener: TcpListener, server: Arc<Server>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        if let Ok((stream, _)) = listener.accept().await {
            server.connections.fetch_add(1, Ordering::Relaxed);
            let server = Arc::clone(&server);
            // A connection that breaks is the client's to notice.
            connections.spawn(async move { converse(stream, &server).await.unwrap_or_default() });
        }
    }
}

impl Server {
    fn new(role: &'static Role, clock: Arc<dyn Clock>, opening: Timestamp) -> Self {
        let (connections, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
        Self {
            role,
            clock,
            opening,
            connections,
            refusals,
            taken: Mutex::new(Vec::new()),
        }
    }

    /// The recipient that `RCPT` names, or the reply that refuses it.
    fn admit(&self, transaction: &Transaction, argument: &str) -> Result<String, &'static str> {
        let (recipient, parameters) =
            path(argument, "TO:").ok_or("501 5.5.4 Syntax: RCPT TO:<address>")?;
        let (local, domain) = recipient
            .rsplit_once('@')
            .ok_or("553 5.1.3 Recipient has no domain")?;
        if !parameters.trim().is_empty() {
            return Err("555 5.5.4 Parameter not recognized");
        }
        if !recipient.is_ascii() && !transaction.smtputf8 {
            return Err("553 5.6.7 Such a recipient needs SMTPUTF8");
        }
        if !domain.eq_ignore_ascii_case(self.role.domain) {
            return Err("550 5.7.1 Relaying denied");
        }
        if transaction.recipients.len() >= RECIPIENTS_MAX {
            return Err("452 4.5.3 Too many recipients");
        }
        match (self.role.refusal)(local, self.clock.now().since(self.opening)) {
            Some(refusal) => Err(refusal),
            None => Ok(recipient.to_owned()),
        }
    }

    /// Notes a message as taken for each of its recipients.
    fn take(&self, recipients: &[String], content: &[u8]) -> String {
        let message_id = message_id(content);
        let taken = recipients.iter().cloned().map(|recipient| Taken {
            recipient,
            message_id: message_id.clone(),
        });
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(taken);
        format!("250 2.0.0 OK, {} octets taken", content.len())
    }
}

/// The value of a message's header field `Message-ID`, or nothing.
fn message_id(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let mut fields = text
        .split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'));
    let field = fields.find(|(name, _)| name.eq_ignore_ascii_case("Message-ID"));
    field
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use domain::clock::ManualClock;
    use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    use tokio::time::timeout;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpStream;

    use super::dialogue::{LINE_MAX, MESSAGE_MAX};
    use super::*;

    const OPENING: Timestamp = Timestamp::from_ms(0);

    async fn cast() -> (Cast, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(OPENING));
        (
            Cast::start(Arc::clone(&clock) as Arc<dyn Clock>, OPENING)
                .await
                .unwrap(),
            clock,
        )
    }

    fn member<'a>(cast: &'a Cast, route: &str) -> &'a Member {
        cast.members()
            .iter()
            .find(|member| member.route == route)
            .unwrap()
    }

    /// A client that says what it is told and hands back the replies' last lines.
    struct Client(BufReader<OwnedReadHalf>, OwnedWriteHalf);

    impl Client {
        /// Connects and, after a false start, says who it is.
        async fn meet(member: &Member) -> Self {
            let (input, output) = TcpStream::connect(member.address)
                .await
                .unwrap()
                .into_split();
            let mut client = Self(BufReader::new(input), output);
            assert_eq!(
                client.reply().await,
                format!("220 mx.{} ESMTP", member.domain)
            );
            assert_eq!(
                client.say("MAIL FROM:<>\r\n").await,
                "503 5.5.1 EHLO comes first"
            );
            assert_eq!(
                client.say("EHLO client.example.org\r\n").await,
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

        async fn say(&mut self, octets: &str) -> String {
            self.send(octets).await;
            self.reply().await
        }
    }

    #[tokio::test]
    async fn each_member_keeps_to_its_story() {
        // Their fates: alma is disabled for 2 days, mats for 6, hugo for good.
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
            let (cast, clock) = cast().await;
            let mut client = Client::meet(member(&cast, route)).await;
            assert_eq!(client.say("MAIL FROM:<>\r\n").await, "250 2.1.0 OK");
            clock.advance(turn - Duration::from_millis(1));
            let rcpt = format!("RCPT TO:<{recipient}>\r\n");
            assert_eq!(
                client.say(&rcpt).await,
                before.unwrap_or("250 2.1.5 OK"),
                "{recipient} before"
            );
            clock.advance(Duration::from_millis(1));
            assert_eq!(
                client.say(&rcpt).await,
                after.unwrap_or("250 2.1.5 OK"),
                "{recipient} after"
            );
            let refused = before.iter().chain(&after).count() as u64;
            assert_eq!(member(&cast, route).refusals(), refused, "{recipient}");
        }
    }

    #[test]
    fn a_third_of_the_mailboxes_shares_each_fate() {
        let fates: Vec<_> = (0..3000)
            .map(|n| disabled_for(&format!("mailbox.{n}")))
            .collect();
        for fate in [Some(2 * DAY), Some(6 * DAY), None] {
            let share = fates.iter().filter(|found| **found == fate).count();
            assert!((900..1100).contains(&share), "{fate:?}: {share} of 3000");
        }
    }

    #[tokio::test]
    async fn pipelined_transactions_on_one_connection_are_all_taken() {
        let (cast, _clock) = cast().await;
        let healthy = member(&cast, "healthy");
        let mut client = Client::meet(healthy).await;
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
            // The dots: "..stuffed" and "..", of which one octet each goes.
            let content = format!(
                "Subject: x\r\nmessage-id: <{n}@example.org>\r\n\r\n..stuffed\r\n..\r\n.\r\n"
            );
            let octets = content.len() - 2 - ".\r\n".len();
            assert_eq!(
                client.say(&content).await,
                format!("250 2.0.0 OK, {octets} octets taken")
            );
        }
        assert_eq!(client.say("QUIT\r\n").await, "221 2.0.0 Bye");
        assert_eq!(client.reply().await, "", "the connection is closed");
        let expected = [0, 1].map(|n| Taken {
            recipient: recipients[n].into(),
            message_id: format!("<{n}@example.org>"),
        });
        assert_eq!(healthy.taken(), expected);
        assert_eq!((healthy.connections(), healthy.refusals()), (1, 0));
    }

    #[tokio::test]
    async fn nonsense_is_answered_and_harms_nothing() {
        let (cast, _clock) = cast().await;
        let mut client = Client::meet(member(&cast, "healthy")).await;
        let long = format!("NOOP {}\r\n", "x".repeat(3 * LINE_MAX));
        for (said, expected) in [
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
            let reply = client.say(said).await;
            assert!(reply.starts_with(expected), "{said:.60} got {reply}");
        }
        assert_eq!(member(&cast, "healthy").taken(), []);
    }

    #[tokio::test]
    async fn dropping_the_cast_ends_its_connections() {
        let (cast, _clock) = cast().await;
        let mut client = Client::meet(member(&cast, "full")).await;
        drop(cast);
        assert_eq!(client.reply().await, "");
    }
}
