//! A proxy in front of a real Redis that causes network faults at chosen moments. It knows only
//! where a request and its answer end, and which script a request runs. It must not know what they
//! mean.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
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

/// A fault of one request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut before the request reaches Redis.
    RequestLost,
    /// Redis executes the request, and the connection is cut before the answer.
    AnswerLost,
    /// Redis executes the request, and the connection is cut in the middle of the answer.
    Torn,
    /// Redis executes the request, and the answer never comes. The connection stays open.
    Hung,
    /// The answer is delayed by this time.
    Late(Duration),
}

/// What the proxy does with all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It passes everything on.
    Open,
    /// It accepts connections, but passes nothing on in either direction.
    Silent,
    /// It cuts connections as soon as they are made.
    Closed,
}

/// Returns the fault of a request with this name, if it is to have one.
type Choice = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// A proxy on its own socket. It stops when this is dropped.
pub struct RedisProxy {
    folder: TempDir,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    server: PathBuf,
    mode: watch::Sender<Mode>,
    /// The faults of the next requests, by the name of the request.
    planned: Mutex<VecDeque<(String, Fault)>>,
    /// Chooses the fault of each request that has no planned one.
    choice: Mutex<Choice>,
    /// The faults that have happened, as request and fault.
    happened: watch::Sender<Vec<(String, Fault)>>,
    connections: watch::Sender<Connections>,
    /// Cancelled to cut all current connections.
    cut: Mutex<CancellationToken>,
    /// What has been recorded. `None` until recording begins.
    exchanges: Mutex<Option<Vec<Exchange>>>,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Made so far.
    pub made: usize,
    /// Open now.
    pub open: usize,
}

/// A request under way, and the fault of its answer.
struct Asked {
    name: String,
    fault: Option<Fault>,
    /// The request itself, if it is to be recorded.
    request: Option<Vec<u8>>,
}

/// A request and its answer, as they went over the wire.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request.
    pub request: Vec<u8>,
    /// The answer.
    pub answer: Vec<u8>,
}

impl RedisProxy {
    /// Starts a proxy in front of the Redis at `url`, which must be on a Unix socket. It passes
    /// everything on at first.
    pub fn before(url: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-proxy-").expect("a folder can be made");
        let shared = Arc::new(Shared {
            server: PathBuf::from(url.trim_start_matches("redis+unix://")),
            mode: watch::Sender::new(Mode::Open),
            planned: Mutex::default(),
            choice: Mutex::new(Box::new(|_| None)),
            happened: watch::Sender::default(),
            connections: watch::Sender::default(),
            cut: Mutex::default(),
            exchanges: Mutex::default(),
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

    /// Plans `fault` for the next request with this name. The name of a script is its verb, for
    /// example `claim`; the name of a command is for example `PING`. Several faults for one name
    /// happen one after another.
    pub fn plan(&self, name: &str, fault: Fault) {
        self.shared
            .planned
            .lock()
            .expect("no task panics while it holds this lock")
            .push_back((name.to_owned(), fault));
    }

    /// From now on, `choose` returns the fault of each request, by the request's name. `None` means
    /// no fault.
    pub fn choose_faults(&self, choose: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        *self.shared.choice.lock().expect("no test's choice panics") = Box::new(choose);
    }

    /// Cuts all current connections. New connections are accepted.
    pub fn cut(&self) {
        let mut cut = self
            .shared
            .cut
            .lock()
            .expect("no task panics while it holds this lock");
        cut.cancel();
        *cut = CancellationToken::new();
    }

    /// Cuts all connections, and from now on each new connection as soon as it is made.
    pub fn close(&self) {
        self.shared.mode.send_replace(Mode::Closed);
        self.cut();
    }

    /// From now on, connections are accepted and requests are read, but nothing reaches Redis and
    /// nothing is answered.
    pub fn fall_silent(&self) {
        self.shared.mode.send_replace(Mode::Silent);
    }

    /// Passes everything on again, including the requests and answers that were held back.
    pub fn let_through(&self) {
        self.shared.mode.send_replace(Mode::Open);
    }

    /// From now on, keeps all requests with their answers.
    pub fn record_exchanges(&self) {
        *self.shared.exchanges() = Some(Vec::new());
    }

    /// Returns what was recorded, in the order of the answers.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges().clone().unwrap_or_default()
    }

    /// Returns the faults that have happened so far, in order.
    pub fn happened(&self) -> Vec<(String, Fault)> {
        self.shared.happened.borrow().clone()
    }

    /// Waits until `count` faults have happened.
    pub async fn wait_for_faults(&self, count: usize) {
        in_time(
            "a fault to happen",
            self.shared
                .happened
                .subscribe()
                .wait_for(|happened| happened.len() >= count),
        )
        .await
        .expect("the watch channel is open as long as this value exists");
    }

    /// Returns the current number of connections.
    pub fn connections(&self) -> Connections {
        *self.shared.connections.borrow()
    }

    /// Waits until `count` connections are open.
    pub async fn wait_for_open(&self, count: usize) {
        self.connections_are(|connections| connections.open == count)
            .await;
    }

    /// Waits until `count` connections have been made.
    pub async fn wait_for_made(&self, count: usize) {
        self.connections_are(|connections| connections.made >= count)
            .await;
    }

    async fn connections_are(&self, reached: impl FnMut(&Connections) -> bool) {
        in_time(
            "connections",
            self.shared.connections.subscribe().wait_for(reached),
        )
        .await
        .expect("the watch channel is open as long as this value exists");
    }
}

impl Shared {
    /// Returns the fault of a request with this name: the next planned one, or the chosen one.
    fn fault_of(&self, name: &str) -> Option<Fault> {
        let mut planned = self
            .planned
            .lock()
            .expect("no task panics while it holds this lock");
        if let Some(place) = planned.iter().position(|(of, _)| of == name) {
            return planned.remove(place).map(|(_, fault)| fault);
        }
        (self.choice.lock().expect("no test's choice panics"))(name)
    }

    fn exchanges(&self) -> MutexGuard<'_, Option<Vec<Exchange>>> {
        self.exchanges
            .lock()
            .expect("no task panics while it holds this lock")
    }

    /// Records a fault that has happened.
    fn record(&self, name: &str, fault: Fault) {
        self.happened
            .send_modify(|happened| happened.push((name.to_owned(), fault)));
    }

    /// Waits while the proxy passes nothing on.
    async fn wait_while_silent(&self) {
        let mut mode = self.mode.subscribe();
        mode.wait_for(|mode| *mode != Mode::Silent)
            .await
            .expect("the watch channel is open as long as this value exists");
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

/// Relays one connection, until either side closes it.
async fn relay(client: UnixStream, shared: Arc<Shared>) {
    let cut = shared
        .cut
        .lock()
        .expect("no task panics while it holds this lock")
        .clone();
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

/// Passes requests on to Redis. Returns when the connection must be cut.
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
        if fault == Some(Fault::RequestLost) {
            shared.record(&name, Fault::RequestLost);
            return Ok(());
        }
        shared.wait_while_silent().await;
        let is_recorded = shared.exchanges().is_some();
        let _ = asked.send(Asked {
            name,
            fault,
            request: is_recorded.then(|| request.clone()),
        });
        server.write_all(&request).await?;
    }
}

/// Passes answers on to the client. Returns when the connection must be cut.
async fn pass_answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut to_answer: UnboundedReceiver<Asked>,
    shared: &Shared,
) -> io::Result<()> {
    let mut frames = Frames::default();
    while let Some(Asked {
        name,
        fault,
        request,
    }) = to_answer.recv().await
    {
        let answer = frames.next(&mut server).await?;
        if let (Some(request), Some(exchanges)) = (request, &mut *shared.exchanges()) {
            let answer = answer.clone();
            exchanges.push(Exchange { request, answer });
        }
        match fault {
            // Redis does not know the script yet, and has executed nothing. The client repeats the
            // request at once, so the fault is planned for the repetition.
            Some(fault) if answer.starts_with(b"-NOSCRIPT") => {
                shared
                    .planned
                    .lock()
                    .expect("no task panics while it holds this lock")
                    .push_front((name, fault));
            }
            Some(fault @ (Fault::AnswerLost | Fault::RequestLost)) => {
                shared.record(&name, fault);
                return Ok(());
            }
            Some(Fault::Torn) => {
                client.write_all(&answer[..answer.len() / 2]).await?;
                client.flush().await?;
                shared.record(&name, Fault::Torn);
                return Ok(());
            }
            Some(Fault::Hung) => {
                shared.record(&name, Fault::Hung);
                return std::future::pending().await;
            }
            Some(Fault::Late(by)) => {
                shared.record(&name, Fault::Late(by));
                sleep(by).await;
            }
            None => {}
        }
        shared.wait_while_silent().await;
        client.write_all(&answer).await?;
    }
    Ok(())
}

impl Drop for RedisProxy {
    /// Cuts the connections that are still open.
    fn drop(&mut self) {
        self.cut();
    }
}
