//! The SMTP servers that receive the mail, one for each route. They follow the script, and record
//! the recipients that they were asked for, the messages that they accepted, and the transactions
//! that were open at the same time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use harness::certificates::Certificates;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsAcceptor;

use crate::net::Network;
use crate::options::Options;
use crate::plan::{NARROW, ROUTES, job_of};
use crate::record::{Asked, Crowd, Ms, Recorder, Taken, now_ms};
use crate::script;

mod session;

/// The port of all peers. The `direct` route works with this port only.
pub(crate) const PORT: u16 = 25;

/// The port if the system does not allow [`PORT`].
const PORT_FOR_USERS: u16 = 2_525;

/// A report that a relay will send.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) return_path: String,
    pub(crate) recipient: String,
    pub(crate) message: String,
    pub(crate) reply: &'static str,
}

/// The shared records of all peers.
pub(crate) struct Book {
    seed: u64,
    /// A relay may have a problem only in this many first tries of a recipient.
    trouble_tries: u32,
    recorder: Arc<Recorder>,
    reports: UnboundedSender<Report>,
    connections: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often each recipient was asked for, and how often the reporting relay accepted each
    /// message.
    tries: HashMap<String, u32>,
    accepted: HashMap<String, u32>,
    /// Open transactions, by destination and by job.
    live: HashMap<String, Vec<Live>>,
}

struct Live {
    connection: usize,
    life: String,
    began: Ms,
}

/// One transaction, from RCPT to its end.
struct Transaction {
    connection: usize,
    recipient: String,
    life: String,
    began: Ms,
    act: script::Act,
}

impl Book {
    pub(crate) fn new(
        options: &Options,
        seed: u64,
        recorder: Arc<Recorder>,
        reports: UnboundedSender<Report>,
    ) -> Arc<Self> {
        let (connections, state) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self {
            seed,
            trouble_tries: u32::from(!options.quick),
            recorder,
            reports,
            connections,
            state,
        })
    }

    fn next_connection(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that a recipient was asked for. Returns what the peer does.
    fn begin(
        &self,
        route: &str,
        connection: usize,
        life: &str,
        recipient: &str,
        begins: bool,
    ) -> Transaction {
        let began = now_ms();
        let mut state = self
            .state
            .lock()
            .expect("no peer panics while it holds the lock");
        let tries = state.tries.entry(recipient.to_owned()).or_default();
        *tries += 1;
        // Problems of a mail host are ordinary failures, after which a job does not wait for a
        // minute, so they have no limit here.
        let trouble_tries = if route == "direct" {
            u32::MAX
        } else {
            self.trouble_tries
        };
        let act = script::act(self.seed, recipient, *tries, trouble_tries);
        for name in names_of(recipient) {
            let live = state.live.entry(name.clone()).or_default();
            live.push(Live {
                connection,
                life: life.to_owned(),
                began,
            });
            let most = if name.contains('@') { 1 } else { NARROW };
            let is_counted = name.contains('@') || name.ends_with(".narrow.test");
            if is_counted && live.len() > most {
                let lives = live
                    .iter()
                    .map(|live| (live.life.clone(), live.began))
                    .collect();
                self.recorder.crowds.push(Crowd {
                    at: began,
                    of: name,
                    lives,
                });
            }
        }
        drop(state);
        self.recorder.asked.push(Asked {
            at: began,
            job: job_of(recipient),
            life: life.to_owned(),
            begins,
        });
        Transaction {
            connection,
            recipient: recipient.to_owned(),
            life: life.to_owned(),
            began,
            act,
        }
    }

    fn end(&self, transaction: &Transaction) {
        let mut state = self
            .state
            .lock()
            .expect("no peer panics while it holds the lock");
        for name in names_of(&transaction.recipient) {
            if let Some(live) = state.live.get_mut(&name) {
                live.retain(|live| live.connection != transaction.connection);
            }
        }
    }

    /// Records that a message was accepted.
    fn record_accepted(&self, transaction: &Transaction, message: &str, answered: bool) {
        self.recorder.taken.push(Taken {
            at: now_ms(),
            began: transaction.began,
            message: message.to_owned(),
            job: job_of(&transaction.recipient),
            life: transaction.life.clone(),
            answered,
        });
    }

    /// Schedules a report of the relay, if the script has one.
    fn report_later(&self, transaction: &Transaction, message: &str, return_path: &str) {
        let number = {
            let mut state = self
                .state
                .lock()
                .expect("no peer panics while it holds the lock");
            let accepted = state.accepted.entry(message.to_owned()).or_default();
            *accepted += 1;
            *accepted
        };
        if let Some(reply) = script::report(self.seed, message, number) {
            let (return_path, recipient) = (return_path.to_owned(), transaction.recipient.clone());
            // While the run lasts, a task receives these reports.
            let _ = self.reports.send(Report {
                return_path,
                recipient,
                message: message.to_owned(),
                reply,
            });
        }
    }
}

/// The names by which transactions are counted: the destination and the job.
fn names_of(recipient: &str) -> [String; 2] {
    let domain = recipient
        .split_once('@')
        .map_or(recipient, |(_, domain)| domain);
    [domain.to_owned(), job_of(recipient)]
}

/// The running peers.
pub(crate) struct Peers {
    /// The addresses of the peers, in the order of the routes.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The certificate authority of the peer of the route `secure`.
    pub(crate) authority: std::path::PathBuf,
}

impl Peers {
    /// Starts a peer for each route.
    pub(crate) async fn start(
        network: &Network,
        folder: &Path,
        book: &Arc<Book>,
    ) -> anyhow::Result<Self> {
        let secure = ROUTES
            .iter()
            .position(|route| *route == "secure")
            .context("no route is called `secure`")?;
        let certificates = Certificates::make_for(folder, &network.peer(secure).to_string());
        let mut addresses = Vec::new();
        for (number, route) in ROUTES.iter().enumerate() {
            let ip = network.peer(number);
            let listener = match TcpListener::bind((ip, PORT)).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind((ip, PORT_FOR_USERS))
                    .await
                    .with_context(|| {
                        format!(
                            "no peer can listen on {ip}, neither on port {PORT} \
                             nor on {PORT_FOR_USERS}"
                        )
                    })?,
            };
            addresses.push(listener.local_addr()?);
            let tls = (*route == "secure").then(|| certificates.acceptor());
            tokio::spawn(listen(listener, tls, route, book.clone()));
        }
        Ok(Self {
            addresses,
            authority: certificates.authority,
        })
    }

    /// Whether mail can go directly to mail hosts, which listen on port 25.
    pub(crate) fn has_direct(&self) -> bool {
        self.addresses.iter().all(|address| address.port() == PORT)
    }
}

async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    route: &'static str,
    book: Arc<Book>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(session::serve(stream, tls.clone(), route, book.clone()));
    }
}
