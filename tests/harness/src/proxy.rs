//! A proxy before a real Redis that does what networks do at the worst moment. It understands of
//! the protocol where a request and its answer end, and which script a request runs; nothing of
//! what they say.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wait::in_time;

pub(crate) mod resp;

use resp::{Frames, name_of};

/// What befalls one request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut before Redis hears of it.
    Unheard,
    /// Redis does it, and the connection is cut instead of the answer.
    Unanswered,
    /// Redis does it, and the connection is cut in the middle of the answer.
    Torn,
    /// Redis does it, and the answer never comes; the connection stays.
    Hung,
    /// The answer takes this much longer.
    Late(Duration),
}

/// How the proxy is as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are made and nothing passes, in either direction.
    Silent,
    /// Connections are cut as soon as they are made.
    Closed,
}

type Chance = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// A proxy on a socket of its own. It stops when this is dropped.
pub struct RedisProxy {
    folder: TempDir,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    server: PathBuf,
    mode: watch::Sender<Mode>,
    /// What is to befall the next request of this name.
    planned: Mutex<VecDeque<(String, Fault)>>,
    /// What may befall any request.
    chance: Mutex<Chance>,
    /// What has happened, as request and fault.
    met: watch::Sender<Vec<(String, Fault)>>,
    connections: watch::Sender<Connections>,
    /// Cancelled to cut all connections that there are.
    cut: Mutex<CancellationToken>,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Made so far.
    pub made: usize,
    /// Of these, still open.
    pub open: usize,
}

/// A request on its way, and what is to befall its answer.
struct Asked {
    name: String,
    fault: Option<Fault>,
}

impl RedisProxy {
    /// A proxy before the Redis at `url`, which is one on a Unix socket. It lets everything through
    /// at first.
    pub fn before(url: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-proxy-").expect("a folder can be made");
        let shared = Arc::new(Shared {
            server: PathBuf::from(url.trim_start_matches("redis+unix://")),
            mode: watch::Sender::new(Mode::Open),
            planned: Mutex::default(),
            chance: Mutex::new(Box::new(|_| None)),
            met: watch::Sender::default(),
            connections: watch::Sender::default(),
            cut: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let listener = UnixListener::bind(socket_in(&folder)).expect("the folder is new");
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(listen(listener, shared.clone())),
        );
        Self {
            folder,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", socket_in(&self.folder).display())
    }

    /// The next request of this name meets `fault`. A script goes by its verb, as `claim`; a
    /// command by its name, as `PING`. Several wait in turn.
    pub fn next(&self, name: &str, fault: Fault) {
        self.shared
            .planned
            .lock()
            .expect("nobody panics with it")
            .push_back((name.to_owned(), fault));
    }

    /// From now on any request meets what `chance` says of its name.
    pub fn chance(&self, chance: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        *self.shared.chance.lock().expect("no chance panics") = Box::new(chance);
    }

    /// Cuts all connections that there are. New ones are taken.
    pub fn cut(&self) {
        let mut cut = self.shared.cut.lock().expect("nobody panics with it");
        cut.cancel();
        *cut = CancellationToken::new();
    }

    /// Cuts all connections, and from now on each new one as soon as it is made.
    pub fn close(&self) {
        self.shared.mode.send_replace(Mode::Closed);
        self.cut();
    }

    /// From now on connections are made, requests are taken, and nothing is answered nor reaches
    /// Redis.
    pub fn fall_silent(&self) {
        self.shared.mode.send_replace(Mode::Silent);
    }

    /// Lets everything through again: connections, what was asked in the silence, and what was
    /// answered.
    pub fn let_through(&self) {
        self.shared.mode.send_replace(Mode::Open);
    }

    /// What has happened so far, in order.
    pub fn met(&self) -> Vec<(String, Fault)> {
        self.shared.met.borrow().clone()
    }

    /// Waits until `count` faults have happened.
    pub async fn has_met(&self, count: usize) {
        in_time(
            "a fault to happen",
            self.shared
                .met
                .subscribe()
                .wait_for(|met| met.len() >= count),
        )
        .await
        .expect("this is the sender");
    }

    /// How many connections there are now.
    pub fn connections(&self) -> Connections {
        *self.shared.connections.borrow()
    }

    /// Waits until `count` connections are open.
    pub async fn has_open(&self, count: usize) {
        self.connections_are(|connections| connections.open == count)
            .await;
    }

    /// Waits until `count` connections have been made.
    pub async fn has_made(&self, count: usize) {
        self.connections_are(|connections| connections.made >= count)
            .await;
    }

    async fn connections_are(&self, so: impl FnMut(&Connections) -> bool) {
        in_time(
            "connections",
            self.shared.connections.subscribe().wait_for(so),
        )
        .await
        .expect("this is the sender");
    }
}

impl Shared {
    fn fault_of(&self, name: &str) -> Option<Fault> {
        let mut planned = self.planned.lock().expect("nobody panics with it");
        if let Some(place) = planned.iter().position(|(of, _)| of == name) {
            return planned.remove(place).map(|(_, fault)| fault);
        }
        (self.chance.lock().expect("no chance panics"))(name)
    }

    fn note(&self, name: &str, fault: Fault) {
        self.met
            .send_modify(|met| met.push((name.to_owned(), fault)));
    }

    /// Waits while nothing passes.
    async fn passage(&self) {
        let mut mode = self.mode.subscribe();
        mode.wait_for(|mode| *mode != Mode::Silent)
            .await
            .expect("this is the sender");
    }
}

fn socket_in(folder: &TempDir) -> PathBuf {
    folder.path().join("proxy.sock")
}

async fn listen(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared
            .connections
            .send_modify(|connections| connections.made += 1);
        if *shared.mode.borrow() != Mode::Closed {
            tokio::spawn(relay(client, shared.clone()));
        }
    }
}

/// One connection, from the first byte until either side has enough.
async fn relay(client: UnixStream, shared: Arc<Shared>) {
    let cut = shared.cut.lock().expect("nobody panics with it").clone();
    shared
        .connections
        .send_modify(|connections| connections.open += 1);
    let relayed = async {
        let server = UnixStream::connect(&shared.server).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (asked, to_answer) = mpsc::unbounded_channel();
        tokio::select! {
            ended = pass_requests(from_client, to_server, asked, &shared) => ended.ok(),
            ended = pass_answers(from_server, to_client, to_answer, &shared) => ended.ok(),
        }
    };
    cut.run_until_cancelled(relayed).await;
    shared
        .connections
        .send_modify(|connections| connections.open -= 1);
}

/// Ends where the connection is to be cut.
async fn pass_requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    asked: UnboundedSender<Asked>,
    shared: &Shared,
) -> io::Result<()> {
    let mut frames = Frames::default();
    loop {
        let request = frames.next(&mut client).await?;
        let name = name_of(&request);
        let fault = shared.fault_of(&name);
        if fault == Some(Fault::Unheard) {
            shared.note(&name, Fault::Unheard);
            return Ok(());
        }
        shared.passage().await;
        let _ = asked.send(Asked { name, fault });
        server.write_all(&request).await?;
    }
}

/// Ends where the connection is to be cut.
async fn pass_answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut to_answer: UnboundedReceiver<Asked>,
    shared: &Shared,
) -> io::Result<()> {
    let mut frames = Frames::default();
    while let Some(Asked { name, fault }) = to_answer.recv().await {
        let answer = frames.next(&mut server).await?;
        match fault {
            // Redis does not know the script yet, and has done nothing. The client asks again at
            // once.
            Some(fault) if answer.starts_with(b"-NOSCRIPT") => {
                shared
                    .planned
                    .lock()
                    .expect("nobody panics with it")
                    .push_front((name, fault));
            }
            Some(fault @ (Fault::Unanswered | Fault::Unheard)) => {
                shared.note(&name, fault);
                return Ok(());
            }
            Some(Fault::Torn) => {
                client.write_all(&answer[..answer.len() / 2]).await?;
                client.flush().await?;
                shared.note(&name, Fault::Torn);
                return Ok(());
            }
            Some(Fault::Hung) => {
                shared.note(&name, Fault::Hung);
                return std::future::pending().await;
            }
            Some(Fault::Late(by)) => {
                shared.note(&name, Fault::Late(by));
                sleep(by).await;
            }
            None => {}
        }
        shared.passage().await;
        client.write_all(&answer).await?;
    }
    Ok(())
}

impl Drop for RedisProxy {
    /// Whoever is still connected finds the connection cut.
    fn drop(&mut self) {
        self.cut();
    }
}
