//! A mail server on loopback that serves a limited number of connections at once. A connection
//! above the limit gets a 421 reply. Each message takes a short time, and each connection carries
//! one message. It must not know about jobs, pace or policy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::bench::conversation::Input;
use crate::bench::rig::{Random, TOO_MANY};

/// How long the server takes for a message: a random time, uniform between these two.
const SERVICE_MIN: Duration = Duration::from_millis(5);
const SERVICE_MAX: Duration = Duration::from_millis(50);

/// The running server. It ends when this is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    /// One permit for each further connection that the limit allows.
    free: Arc<Semaphore>,
    refusals: AtomicU64,
    busy_us: AtomicU64,
    random: Mutex<Random>,
}

impl Server {
    /// Starts a server for `limit` connections at once.
    pub(super) async fn start(limit: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            free: Arc::new(Semaphore::new(limit)),
            refusals: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            random: Mutex::new(Random::new(421)),
        });
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// Returns the time that the server has spent on messages, summed over all connections.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_micros(self.state.busy_us.load(Ordering::Relaxed))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn service_time(&self) -> Duration {
        let random = self
            .random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next();
        SERVICE_MIN + (SERVICE_MAX - SERVICE_MIN).mul_f64(random)
    }

    /// Returns the next 421 reply. Every second reply has no enhanced status.
    fn refusal(&self) -> String {
        let bare = self
            .refusals
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(2);
        format!(
            "{}\r\n",
            if bare {
                TOO_MANY.replace("4.3.2 ", "")
            } else {
                TOO_MANY.to_owned()
            }
        )
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let state = state.clone();
        // The error of a client that closes its connection does not matter here.
        connections.spawn(async move { drop(converse(stream, &state).await) });
    }
}

/// Serves one connection, from the greeting to the end of its message.
async fn converse(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let permit = state.free.try_acquire();
    let (input, mut output) = stream.into_split();
    let mut input = Input::new(input);
    output.write_all(b"220 limit.example ESMTP\r\n").await?;
    while let Some(verb) = input.verb().await? {
        match verb {
            "EHLO" => output.write_all(b"250 limit.example\r\n").await?,
            "MAIL" if permit.is_err() => return output.write_all(state.refusal().as_bytes()).await,
            "MAIL" | "RCPT" | "RSET" => output.write_all(b"250 2.0.0 Ok\r\n").await?,
            "DATA" => {
                output.write_all(b"354 go ahead\r\n").await?;
                if !input.skip_message().await? {
                    return Ok(());
                }
                let started = Instant::now();
                sleep(state.service_time()).await;
                state
                    .busy_us
                    .fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
                return output.write_all(b"250 2.0.0 taken\r\n").await;
            }
            _ => output.write_all(b"502 5.5.1 not here\r\n").await?,
        }
    }
    Ok(())
}
