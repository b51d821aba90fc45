//! Runs a whole scheduler until it is stopped: the API, the other ways of intake, and upkeep.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use config::hooks::{Hooks, Service};
use config::lmtp::Lmtp;
use config::model::Config;
use config::stream::Stream;
use futures::future::OptionFuture;
use policy::table::Table;
use store::error::StoreError;
use store::handle::Store;
use store::peers::Announcement;
use telemetry::spans::Tracing;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access::Access;
use crate::api::items::answers::AnswerSpace;
use crate::api::problem::Problem;
use crate::api::{self, Api, Limits, health};
use crate::connections::http::{self, ClientTimeouts, Served};
use crate::connections::{ConnectionLimits, Gate};
use crate::event_readers::EventReaders;
use crate::fleet_figures::FleetFigures;
use crate::intake::accept::{Accept, ContentNeeds};
use crate::intake::dsn::Reports;
use crate::intake::json::Reader;
use crate::intake::lmtp::Listener;
use crate::intake::signed_account::SignedAccounts;
use crate::intake::stream::StreamReader;
use crate::intake::webhook::fetch::{Fetch, Https, Unreachable};
use crate::intake::webhook::{Bounds, Webhooks};
use crate::placement::{Placer, rows_without_effect};
use crate::upkeep::Upkeep;

/// How many heartbeats of workers come between two comparisons of the policy with that of the
/// fleet.
const BEATS_PER_ANNOUNCEMENT: u32 = 12;

/// After how many heartbeats that did not come a worker is not counted any more.
const SILENT_BEATS: u32 = 3;

/// One scheduler. Any number of replicas can share one store.
#[derive(Debug)]
pub struct Scheduler {
    store: Store,
    limits: Limits,
    upkeep: Upkeep,
    drain: Duration,
    grace: Duration,
    silent_max: Duration,
    announcement: Announcement,
    settings: config::model::Scheduler,
    reader: Reader,
    reports: Reports,
    accept: Accept,
    lmtp: Lmtp,
    stream: Stream,
    access: Arc<Access>,
    hooks: Hooks,
    fetch: Arc<dyn Fetch>,
    access_settings: config::access::Access,
    /// The address of a trace in a trace viewer, with `{trace_id}` in it.
    trace_url: Option<Arc<str>>,
    figures: FleetFigures,
}

impl Scheduler {
    /// A scheduler on this store.
    ///
    /// # Errors
    /// If the cron expression of an upkeep task or the file of tokens cannot be read, or if no DNS
    /// server is known. The text names the key.
    pub fn new(
        store: Store,
        table: Arc<Table>,
        config: &Config,
        tracing: &Tracing,
    ) -> Result<Self, String> {
        let upkeep = Upkeep::from_config(store.clone(), config)?;
        let routes = config
            .routes
            .iter()
            .map(|route| route.name.clone())
            .collect();
        let accounts = SignedAccounts::from_config(config);
        let reader =
            Reader::new(config.job.inline_max, routes).with_signed_accounts(accounts.clone());
        let placer = Placer::from_config(store.clone(), config)?;
        for why in rows_without_effect(&table, &store) {
            tracing::warn!(why, "a policy row matches nothing");
        }
        let limits = Limits::from_config(config);
        let (drain, grace) = (config.scheduler.drain, config.scheduler.grace);
        let silent_max = SILENT_BEATS * config.worker.heartbeat;
        let announcement = Announcement {
            role: "scheduler",
            policy: table.fingerprint(),
            interval: BEATS_PER_ANNOUNCEMENT * config.worker.heartbeat,
        };
        let accept = Accept::new(store.clone(), table, placer)
            .with_suppress_timeout(config.scheduler.suppress_timeout)
            .with_content_needs(ContentNeeds::from_config(config))
            .with_signed_accounts(accounts)
            .with_tracing(tracing.clone());
        let reports = Reports::new(accept.clone(), store.clone(), config);
        let access = Access::from_config(&config.access, store.clock().clone())?;
        let access = Arc::new(access.with_metrics(store.metrics().clone()));
        let figures = FleetFigures::new(store.clone(), silent_max);
        let (hooks, access_settings, lmtp) = (
            config.hooks.clone(),
            config.access.clone(),
            config.lmtp.clone(),
        );
        let fetch: Arc<dyn Fetch> = match hooks.get(Service::Ses) {
            Some(_) => Arc::new(Https::new().map_err(|why| format!("intake.hooks.ses: {why}"))?),
            None => Arc::new(Unreachable(
                "the hook intake.hooks.ses is not configured".to_owned(),
            )),
        };
        Ok(Self {
            store,
            accept,
            reports,
            limits,
            upkeep,
            drain,
            grace,
            silent_max,
            announcement,
            settings: config.scheduler.clone(),
            reader,
            lmtp,
            stream: config.stream,
            access,
            hooks,
            fetch,
            access_settings,
            trace_url: config.telemetry.trace_url.as_deref().map(Arc::from),
            figures,
        })
    }

    /// The same scheduler, but its requests to SNS go through `fetch`.
    #[must_use]
    pub fn with_fetch(self, fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, ..self }
    }

    /// Serves on `listener` until `stop` is cancelled. From then on `/readyz` answers 503, but the
    /// listener stays open for the configured time. After that, requests in progress may finish
    /// within the grace period.
    ///
    /// # Errors
    /// If the listener is not on loopback and neither tokens nor `access.open` are configured. Also
    /// if the LMTP address cannot be listened on, or if a background task panics.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        Access::may_listen(&self.access_settings, listener.local_addr()?)
            .map_err(io::Error::other)?;
        if let Err(why) = AnswerSpace::check_folder() {
            tracing::error!(
                why,
                "no temporary file can be written: requests with many lines will fail; \
                 make the folder writable, or set TMPDIR"
            );
        }
        let closing = CancellationToken::new();
        let close = close_after(self.drain, stop.clone(), closing.clone());
        let _close = AbortOnDropHandle::new(tokio::spawn(close));
        let lmtp = match self.lmtp.listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|err| {
                io::Error::new(
                    err.kind(),
                    format!("cannot listen on {address} (intake.lmtp.listen): {err}"),
                )
            })?),
            None => None,
        };
        let lmtp = lmtp.map(|listener| {
            Listener::new(listener, self.reports.clone(), &self.lmtp).run(closing.clone())
        });
        let lmtp = tokio::spawn(OptionFuture::from(lmtp));
        let Self {
            store,
            accept,
            reports,
            limits,
            reader,
            access,
            ..
        } = self;
        let bounds = Bounds {
            batch: limits.batch,
            events_max: limits.items,
        };
        let webhooks = Webhooks::new(
            self.hooks,
            store.clone(),
            accept.clone(),
            self.fetch,
            bounds,
        );
        tokio::spawn(access.clone().watch(closing.clone()));
        let batch_permits = Arc::new(Semaphore::new(limits.batches));
        let hooks = webhooks.clone();
        let answer_space = AnswerSpace::new(self.settings.answers_max);
        let event_readers = EventReaders::new(store.clock().clone(), store.metrics());
        let api = Api {
            store,
            accept,
            reports,
            limits,
            webhooks,
            access,
            event_readers,
            batch_permits,
            answer_space,
            reader,
            trace_url: self.trace_url,
            draining: stop.clone(),
            stop: closing.clone(),
            silent_max: self.silent_max,
        };
        let upkeep = tokio::spawn(self.upkeep.run(stop.clone()));
        let figures = tokio::spawn(self.figures.run(stop.clone()));
        let stopped = stop.clone().cancelled_owned();
        let fleet = api.store.clone().compare_fleet(self.announcement, stopped);
        let fleet = tokio::spawn(fleet);
        let watch = tokio::spawn(
            api.store
                .clone()
                .watch_for_losses(closing.clone().cancelled_owned()),
        );
        let reader = self.stream.enabled.then(|| {
            let (store, accept, reader) =
                (api.store.clone(), api.accept.clone(), api.reader.clone());
            StreamReader::new(store, accept, reader, self.stream.batch).run(stop.clone())
        });
        let reader = tokio::spawn(OptionFuture::from(reader));
        let reserve = api::reserve_router(api.clone());
        let served = Served {
            router: api::router(api),
            reserve,
            timeouts: ClientTimeouts::from_config(&self.settings),
        };
        let connection_limits = ConnectionLimits::from_config(&self.settings.connections);
        tracing::info!(
            max = connection_limits.max,
            per_peer = connection_limits.per_peer,
            "HTTP connections are bounded"
        );
        let gate = Gate::new(connection_limits);
        let server = http::serve(listener, gate, served, closing.clone());
        let grace_period_over = async {
            closing.cancelled().await;
            sleep(self.grace).await;
        };
        tokio::select! {
            () = async {
                let ((), lmtp) = tokio::join!(server, lmtp);
                lmtp.expect("the LMTP listener does not panic");
                // Requests whose clients have disconnected may still be in progress.
                hooks.finish().await;
            } => {}
            () = grace_period_over => {
                tracing::warn!("the grace period is over; requests in progress are aborted");
            }
        }
        reader.await.map_err(io::Error::other)?;
        watch.await.map_err(io::Error::other)?;
        figures.await.map_err(io::Error::other)?;
        fleet.await.map_err(io::Error::other)?;
        upkeep.await.map_err(io::Error::other)
    }
}

/// Waits until `stop` is cancelled, then for `drain`, and then cancels `closing`.
async fn close_after(drain: Duration, stop: CancellationToken, closing: CancellationToken) {
    stop.cancelled().await;
    if !drain.is_zero() {
        tracing::info!(
            drain_ms = drain.as_millis(),
            "stopping: not ready any more, but requests are still taken"
        );
        sleep(drain).await;
    }
    closing.cancel();
}

/// Serves in place of the scheduler until the store can be reached. Health checks get the answer
/// that the process is alive, but not ready. Ends when `ready` is cancelled.
pub async fn serve_until_ready(
    listener: TcpListener,
    settings: config::model::Scheduler,
    ready: CancellationToken,
) {
    let not_ready = async || {
        Problem::from(StoreError::Unavailable(
            "it has not answered since the start".to_owned(),
        ))
    };
    let router = Router::new()
        .route("/healthz", get(health::alive))
        .fallback(not_ready);
    let served = Served {
        reserve: router.clone(),
        router,
        timeouts: ClientTimeouts::from_config(&settings),
    };
    http::serve(
        listener,
        Gate::new(ConnectionLimits::from_config(&settings.connections)),
        served,
        ready,
    )
    .await;
}
